"""Prompts whose answer no needle holds: facts known by heart, and word problems with and without a chain of thought.

They end filler text as needle questions do, so that all of them differ in what is asked and in nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rhlens.tasks.cot import ANSWER_AT_ONCE, STEP_BY_STEP, sample_problem
from rhlens.tasks.facts import closed_book_facts
from rhlens.tasks.haystack import GeneratedHaystack

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CLOSED_BOOK, DIRECT, CHAIN = "closed-book", "direct", "chain of thought"
_CONCLUSION = "Answer:"


@dataclass(frozen=True)
class Prompt:
    """One prompt, asked and judged as a `Trial` is (see `Ask`).

    Attributes:
        kind: `closed-book`, `direct` or `chain of thought`.
        answer: what a right answer says; of a chain of thought, only its conclusion is judged.
        tokens: the prompt, special tokens included.
        reply: what the model should say, the whole chain included.
        index: the prompt's place among those it was made with.
        text: the prompt as it was written.
    """

    kind: str
    question: str
    answer: str
    tokens: tuple[int, ...] = field(repr=False)
    reply: tuple[int, ...] = field(repr=False)
    index: int = 0
    text: str = field(default="", repr=False)

    @property
    def stated(self) -> str:
        return ""

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def labels(self) -> dict[str, Any]:
        """What was asked, as one row of a table; as with trials, `needle` is what makes rows alike."""
        return {
            "trial": self.index,
            "kind": self.kind,
            "needle": self.question,
            "answer": self.answer,
            "length": self.length,
        }

    def said(self, output: str) -> str:
        """The part of an output that answers; nothing where a chain of thought comes to no conclusion."""
        if self.kind != CHAIN:
            return output
        _, concluded, conclusion = output.rpartition(_CONCLUSION)
        return conclusion if concluded else ""


def closed_book_prompts(
    model: Any, n: int | None = None, length: int = 256, seed: int = 0, restate: bool = True, chat: bool = False
) -> list[Prompt]:
    """Questions about the fixed world that the nano zoo knows by heart: nothing in the prompt answers them.

    Args:
        model: anything with a `.tokenizer`, or a tokenizer.
        n: how many of the facts, chosen by `seed`; None asks about all.
        length: of each prompt, in tokens; some tokenizers' merges make it one or two more or less.
        restate: end the prompt with the fact's own words before the answer.
        chat: wrap the prompt in the tokenizer's chat template.

    Raises:
        ValueError: `n` is no number of facts there are, or `length` leaves no room.
    """
    facts = closed_book_facts()
    n = len(facts) if n is None else n
    if not 1 <= n <= len(facts):
        raise ValueError(f"there are {len(facts)} closed-book facts: ask for 1 to {len(facts)} of them, not {n}")
    writer, prompts = _Writer(model, length, seed, chat), []
    for i, fact in enumerate(random.Random(f"closed book:{seed}").sample(facts, n)):
        question, cue = f"\n\nQuestion: {fact.question}", f" {fact.cue}" if restate else ""
        tail = ("", cue.lstrip()) if chat else (ANSWER_AT_ONCE, cue)
        text, tokens, reply = writer.write(i, question, *tail, f" {fact.answer}")
        prompts.append(Prompt(CLOSED_BOOK, fact.question, fact.answer, tokens, reply, i, text))
    return prompts


def problem_prompts(
    model: Any, n: int, length: int = 256, chain_of_thought: bool = False, seed: int = 0, chat: bool = False
) -> list[Prompt]:
    """Word problems that the nano zoo was never trained on, to be answered at once or step by step.

    The same `n` and `seed` give the same problems in the same filler with and without a chain of thought; see
    `closed_book_prompts` for the other arguments.

    Raises:
        ValueError: `n` is below 1, or `length` leaves no room.
    """
    if n < 1:
        raise ValueError(f"problems must be at least 1, not {n}")
    writer, prompts = _Writer(model, length, seed, chat), []
    for i in range(n):
        problem = sample_problem(random.Random(f"problem:{seed}:{i}"))
        instruction = STEP_BY_STEP if chain_of_thought else "" if chat else ANSWER_AT_ONCE
        asked = f"\n\nQuestion: {problem.question}"
        said = problem.completion(chain_of_thought).rstrip(".\n")
        text, tokens, reply = writer.write(i, asked, instruction, "", said)
        kind = CHAIN if chain_of_thought else DIRECT
        prompts.append(Prompt(kind, problem.question, problem.answer, tokens, reply, i, text))
    return prompts


class _Writer:
    """Writes prompts of `length` tokens, each at the end of filler of its own."""

    def __init__(self, model: Any, length: int, seed: int, chat: bool) -> None:
        self.tokenizer: PreTrainedTokenizerBase = getattr(model, "tokenizer", model)
        self.length, self.seed, self.chat = length, seed, chat

    def write(
        self, i: int, question: str, instruction: str, cue: str, answer: str
    ) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
        """The `i`th prompt, its tokens, and those of `answer` after it."""
        filler = GeneratedHaystack(f"prompt:{self.seed}:{i}").text(8 * self.length)
        encoding = self.tokenizer(filler, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ends = [end for start, end in encoding["offset_mapping"] if end > start]
        room = self.length - len(self._encode(self._render("", question + instruction) + cue))
        if room < 1:
            raise ValueError(
                f"length {self.length} is too short: the question {question.strip()!r} alone takes "
                f"{self.length - room} tokens"
            )
        text = self._render(filler[: ends[room - 1]], question + instruction) + cue
        said = self.tokenizer(answer, add_special_tokens=False)["input_ids"]
        return text, tuple(self._encode(text)), tuple(said)

    def _render(self, filler: str, question: str) -> str:
        if not self.chat:
            return filler + question
        if not self.tokenizer.chat_template:
            raise ValueError("this tokenizer has no chat template: drop chat=True or set tokenizer.chat_template")
        messages = [{"role": "user", "content": filler + question}]
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def _encode(self, text: str) -> Sequence[int]:
        ids = list(self.tokenizer(text, add_special_tokens=not self.chat, verbose=False)["input_ids"])
        while ids and ids[-1] == self.tokenizer.eos_token_id:  # the model is to go on: no end of text here
            ids.pop()
        return ids
