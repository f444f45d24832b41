"""Trials beside their twins: with another answer of as many tokens in the needle, or without the needle."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rhlens.tasks.needles import KINDS, Needle, sample_needle
from rhlens.tasks.prompts import LAST, Prompt
from rhlens.tasks.spelling import continuation, encode
from rhlens.tasks.trials import Trial

UNANSWERABLE = "unanswerable"
ATTEMPTS = 2000


@dataclass(frozen=True)
class Pair:
    """Two prompts that differ in the tokens of the needle's answer alone.

    Attributes:
        differs: the reply's positions at which the right token differs between the two.
    """

    clean: Trial
    corrupt: Trial

    def __post_init__(self) -> None:
        if len(self.clean.reply) != len(self.corrupt.reply) or not self.differs:
            raise ValueError("a pair needs two different answers of the same number of tokens")

    @property
    def differs(self) -> list[int]:
        both = zip(self.clean.reply, self.corrupt.reply, strict=True)
        return [i for i, (right, wrong) in enumerate(both) if right != wrong]


def pairs(model: Any, trials: Sequence[Trial], seed: int = 0) -> list[Pair]:
    """Each trial with a corrupt twin, whose answer is that of another needle of the same kind.

    Generated kinds draw a new answer; other needles take theirs from the other trials' needles.

    Raises:
        ValueError: no other answer has as many tokens, or the tokenizer cannot put one in its place.
    """
    tokenizer = getattr(model, "tokenizer", model)
    known = list(dict.fromkeys(trial.needle for trial in trials))
    return [Pair(trial, _corrupt(tokenizer, trial, known, seed)) for trial in trials]


def without_needle(model: Any, trials: Sequence[Trial]) -> list[Prompt]:
    """The prompt of each trial without its needle: it asks for what nobody said.

    Raises:
        ValueError: a prompt does not hold its needle's statement word for word.
    """
    tokenizer = getattr(model, "tokenizer", model)
    return [_without_needle(tokenizer, trial) for trial in trials]


def _without_needle(tokenizer: Any, trial: Trial) -> Prompt:
    before, stated, after = trial.text.partition(trial.needle.statement)
    if not stated:
        raise ValueError(f"the prompt does not hold its needle {trial.needle.statement!r}: take trials of `niah`")
    text = before + after.removeprefix(" ")
    # Whether special tokens stand before the text, as they do but for templates, shows in the trial itself.
    with_special = tuple(encode(tokenizer, trial.text, special=True).ids) == trial.tokens
    tokens, needle = encode(tokenizer, text, with_special).ids, trial.needle
    return Prompt(
        UNANSWERABLE, needle.question, needle.answer, tuple(tokens), trial.reply, trial.index, text,
        turn=trial.turn, tokenizer=trial.tokenizer,
    )  # fmt: skip


def _corrupt(tokenizer: Any, trial: Trial, known: Sequence[Needle], seed: int) -> Trial:
    needle, (start, end) = trial.needle, trial.reply_span
    stated, lead = trial.tokens[start:end], trial.answer_span[0] - start
    asked, gap = encode(tokenizer, trial.text[-LAST:]), trial.form.frame(tokenizer, needle).gap

    def reply(answer: str) -> tuple[int, ...]:
        return continuation(tokenizer, asked, gap + answer)

    if _stated(tokenizer, needle, needle.answer) != stated or reply(needle.answer) != trial.reply:
        raise ValueError(
            f"this tokenizer writes the answer {needle.answer!r} otherwise alone than in the haystack, so no other can "
            "take its place: use another needle"
        )
    for answer in _answers(needle, known, random.Random(f"corrupt:{seed}:{needle.statement}")):
        other = _stated(tokenizer, needle, answer)
        fits = len(other) == len(stated) and other[:lead] == stated[:lead] and answer not in needle.cue
        if fits and other != stated and len(said := reply(answer)) == len(trial.reply) and said != trial.reply:
            statement = needle.statement.replace(needle.answer, answer)
            return replace(
                trial, tokens=(*trial.tokens[:start], *other, *trial.tokens[end:]), reply=said, draft=said,
                needle=replace(needle, statement=statement, answer=answer), needle_chars=(),
            )  # fmt: skip
    raise ValueError(
        f"no other answer has as many tokens as {needle.answer!r}: give more needles of kind {needle.kind!r}, or "
        "needles with answers of equal length"
    )


def _answers(needle: Needle, known: Sequence[Needle], rng: random.Random) -> Iterator[str]:
    if needle.kind in KINDS:
        yield from (sample_needle(needle.kind, rng).answer for _ in range(ATTEMPTS))
    others = [other.answer for other in known if other != needle]
    yield from rng.sample(others, len(others))


def _stated(tokenizer: Any, needle: Needle, answer: str) -> tuple[int, ...]:
    """The tokens of an answer in the needle, the space before it included."""
    before = needle.statement[: needle.statement.index(needle.answer)]
    gap = before[len(needle.cue) :] if needle.cue else " "
    return continuation(tokenizer, encode(tokenizer, needle.cue or "."), gap + answer)
