"""Extractive question answering: a passage, a question about it, and an answer that is a span of the passage."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from rhlens.tasks.ask import check_answers
from rhlens.tasks.cot import ANSWER_AT_ONCE
from rhlens.tasks.files import answerable, each_in, flag_in, one_line, parse_json, read_text, text_in
from rhlens.tasks.haystack import GeneratedHaystack, sentence_starts
from rhlens.tasks.needles import KINDS, draw_needles
from rhlens.tasks.prompts import QA, Prompt, Writer


@dataclass(frozen=True)
class Passage:
    """A text with a question about it; of its right `answers` the first is the one expected.

    Raises:
        ValueError: there is no answer, or an empty one (see `check_answers`).
    """

    context: str
    question: str
    answers: tuple[str, ...]
    title: str = ""

    def __post_init__(self) -> None:
        check_answers(self.question, self.answers)


def draw_passages(n: int, seed: int = 0) -> list[Passage]:
    """`n` generated passages, asked about each kind of needle in turn: the first m of any n are the same passages.

    Each holds four to six held-out needles of different kinds, so that no two compete for the question, and two to
    four sentences of filler. The answer stands in it once.

    Raises:
        ValueError: `n` is below 1.
    """
    if n < 1:
        raise ValueError(f"passages must be at least 1, not {n}")
    return [_passage(KINDS[i % len(KINDS)], random.Random(f"passage:{seed}:{i}")) for i in range(n)]


def _passage(kind: str, rng: random.Random) -> Passage:
    while True:
        kinds = [kind, *rng.sample([other for other in KINDS if other != kind], rng.randint(3, 5))]
        facts = draw_needles(len(kinds), rng.getrandbits(32), kinds)
        sentences = [*(fact.statement for fact in facts), *_filler(rng)]
        rng.shuffle(sentences)
        context = " ".join(sentences)
        if context.count(facts[0].answer) == 1:  # other sentences are made of the same words, and may hold it by chance
            return Passage(context, facts[0].question, (facts[0].answer,))


def _filler(rng: random.Random) -> list[str]:
    """Two to four sentences of one paragraph, which has four or more."""
    text = GeneratedHaystack(f"passage:{rng.getrandbits(32)}").text(1)
    starts = sentence_starts(text)[: 1 + rng.randint(2, 4)]
    return [text[start:end].strip() for start, end in pairwise(starts)]


def read_squad(path: str | Path) -> list[Passage]:
    """Passages from a JSON file in the form of SQuAD 1.1 or 2, one a question.

    Questions without an answer are left out, and counted on stderr.

    Raises:
        ValueError: the file cannot be read, is not of this form, or no question has an answer; the sentence names the
            entry and what it lacks.
    """
    return answerable(path, list(_squad(parse_json(read_text(path), str(path)), str(path))))


def _squad(root: Any, path: str) -> Iterator[Passage | None]:
    for at, article in each_in(root, "data", path):
        for where, paragraph in each_in(article, "paragraphs", at):
            context, title = text_in(paragraph, "context", where), str(article.get("title", ""))
            for here, asked in each_in(paragraph, "qas", where):
                question, answers = text_in(asked, "question", here), _answers(asked, here)
                yield Passage(context, question, answers, title) if answers else None


def _answers(asked: Any, where: str) -> tuple[str, ...]:
    """The different answers to a question, none where SQuAD 2 has none."""
    if flag_in(asked, "is_impossible", where, otherwise=False):
        return ()
    found = [one_line(text_in(answer, "text", at)) for at, answer in each_in(asked, "answers", where)]
    return tuple(dict.fromkeys(found))


def qa_prompts(
    model: Any,
    passages: int | Sequence[Passage],
    length: int | None = None,
    seed: int = 0,
    chat: bool = False,
) -> list[Prompt]:
    """Each passage with its question alone: nothing is restated.

    Passages too long for `length` or for the model are left out, and counted on stderr.

    Args:
        model: anything with a `.tokenizer`, or a tokenizer.
        passages: the user's own (`read_squad`), or how many to draw by `seed`.
        length: of each prompt, in tokens, with filler before the passage; None writes no filler.
        chat: wrap the prompt in the tokenizer's chat template.

    Raises:
        ValueError: there is no passage, or none that fits.
    """
    chosen = draw_passages(passages, seed) if isinstance(passages, int) else passages
    writer = Writer(model, QA, length, seed, chat)

    def write(i: int, passage: Passage) -> Prompt:
        asked = f"{passage.context}\n\nQuestion: {passage.question}{'' if chat else ANSWER_AT_ONCE}"
        return writer.prompt(i, passage.question, passage.answers, asked, f" {passage.answers[0]}")

    return writer.those_that_fit(chosen, write)
