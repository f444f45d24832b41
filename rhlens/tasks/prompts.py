"""Prompts whose answer no needle holds: facts known by heart, and problems with and without a chain of thought.

Those of the zoo end filler text as needle questions do, so that all of them differ in what is asked and in nothing
else. Those of the user's own that are too long are left out, and their number is said on stderr.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from rhlens.tasks.cot import ANSWER_AT_ONCE, CONCLUSION, STEP_BY_STEP, Problem, sample_problem
from rhlens.tasks.facts import Fact, closed_book_facts
from rhlens.tasks.forms import PromptForm
from rhlens.tasks.haystack import GeneratedHaystack
from rhlens.tasks.spelling import Encoded, continuation, encode, fingerprint
from rhlens.tasks.turns import FIRST_LINE, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CLOSED_BOOK, DIRECT, CHAIN, QA = "closed-book", "direct", "chain of thought", "extractive QA"
CONCLUDE = f'\nSolve it step by step, in one line that ends with "{CONCLUSION}" and the answer.'
"""Told to models that were not trained on the zoo's own chains, since what follows the conclusion is what is judged."""

LAST = 400
"""Characters of a prompt that may hold what a template begins of the model's turn."""

T = TypeVar("T")


@dataclass(frozen=True)
class Prompt:
    """One prompt, asked and judged as a `Trial` is (see `Ask`).

    Attributes:
        kind: `closed-book`, `direct`, `chain of thought` or `extractive QA`.
        answer: what a right answer says; of a chain of thought, only its conclusion is judged.
        tokens: the prompt, special tokens included.
        reply: what the model should say, the whole chain included.
        index: the prompt's place among those it was made with.
        text: the prompt as it was written.
        others: further right answers.
        turn, tokenizer: see `Ask`.
    """

    kind: str
    question: str
    answer: str
    tokens: tuple[int, ...] = field(repr=False)
    reply: tuple[int, ...] = field(repr=False)
    index: int = 0
    text: str = field(default="", repr=False)
    others: tuple[str, ...] = ()
    turn: Turn = field(default=FIRST_LINE, repr=False)
    tokenizer: str = field(default="", repr=False)

    @property
    def draft(self) -> tuple[int, ...]:
        return self.reply

    @property
    def answers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.answer, *self.others)))

    @property
    def stated(self) -> str:
        return self.question if self.kind == QA else ""

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
        _, concluded, conclusion = output.rpartition(CONCLUSION)
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
    writer, prompts = Writer(model, CLOSED_BOOK, length, seed, chat), []
    for i, fact in enumerate(random.Random(f"closed book:{seed}").sample(facts, n)):
        cue = fact.cue if restate else ""
        asked = f"Question: {fact.question}{'' if chat else ANSWER_AT_ONCE}"
        prompts.append(writer.prompt(i, fact.question, (fact.answer,), asked, f" {fact.answer}", cue))
    return prompts


def fact_prompts(model: Any, facts: Sequence[Fact], chat: bool = False) -> list[Prompt]:
    """The user's own facts, asked word for word and without filler; see `closed_book_prompts` for the arguments.

    Raises:
        ValueError: there is none, or none that the model has room for.
    """
    writer = Writer(model, CLOSED_BOOK, None, chat=chat)

    def write(i: int, fact: Fact) -> Prompt:
        space = "" if fact.prompt[-1:].isspace() and not chat else " "
        return writer.prompt(i, fact.prompt, fact.answers, fact.prompt, f"{space}{fact.answers[0]}")

    return writer.those_that_fit(facts, write)


def problem_prompts(
    model: Any,
    problems: int | Sequence[Problem],
    length: int | None = 256,
    chain_of_thought: bool = False,
    seed: int = 0,
    chat: bool = False,
    shots: int = 0,
) -> list[Prompt]:
    """Problems, to be answered at once or step by step.

    The same arguments give the same problems in the same filler with and without a chain of thought; see
    `closed_book_prompts` for those that are not told here.

    Args:
        problems: the user's own (`read_problems`), or how many word problems that the nano zoo was never trained on.
        length: of each prompt, in tokens; None writes no filler.
        shots: so many problems, the first ones, stand solved before each of the others, and are not asked.

    Raises:
        ValueError: nothing is left to ask, `length` or the model leaves no room, or a chain of thought is to be shown
            of a problem that has none.
    """
    generated = isinstance(problems, int)
    chosen = _drawn(problems, seed) if generated else list(problems)
    solved = _solved(chosen, shots, chain_of_thought)
    if chain_of_thought:
        instruction = STEP_BY_STEP if generated or shots else CONCLUDE + STEP_BY_STEP
    else:
        instruction = "" if chat else ANSWER_AT_ONCE
    writer = Writer(model, CHAIN if chain_of_thought else DIRECT, length, seed, chat)

    def write(i: int, problem: Problem) -> Prompt:
        asked = f"{solved}\n\n{problem.asked}{instruction}".lstrip("\n")
        said = problem.completion(chain_of_thought).removesuffix(".\n")
        return writer.prompt(i, problem.question, (problem.answer, *problem.others), asked, said)

    if generated:
        return [write(i, problem) for i, problem in enumerate(chosen[shots:])]
    return writer.those_that_fit(chosen[shots:], write)


def _drawn(n: int, seed: int) -> list[Problem]:
    if n < 1:
        raise ValueError(f"problems must be at least 1, not {n}")
    return [sample_problem(random.Random(f"problem:{seed}:{i}")) for i in range(n)]


def _solved(problems: Sequence[Problem], shots: int, chain_of_thought: bool) -> str:
    """The first `shots` problems with their solutions, as the nano zoo's documents hold them."""
    if not 0 <= shots < max(1, len(problems)):
        raise ValueError(f"shots must leave one of the {len(problems)} problems to ask: 0 or more, but not {shots}")
    for i, problem in enumerate(problems[:shots], 1):
        if chain_of_thought and not problem.chain:
            raise ValueError(f"problem {i} has no chain of thought to show: ask with shots=0, or for direct answers")
    return "".join(p.prompt(chain_of_thought) + p.completion(chain_of_thought) for p in problems[:shots])


class TooLong(ValueError):
    """A prompt that takes more tokens than it may."""


class Writer:
    """Writes prompts of one kind, of `length` tokens, each at the end of filler of its own; of None, without filler."""

    def __init__(self, model: Any, kind: str, length: int | None, seed: int = 0, chat: bool = False) -> None:
        self.tokenizer: PreTrainedTokenizerBase = getattr(model, "tokenizer", model)
        self.context: int | None = getattr(getattr(model, "cfg", None), "n_ctx", None)
        self.kind, self.length, self.seed = kind, length, seed
        self._form, self._name = PromptForm(chat=chat), fingerprint(self.tokenizer)

    def prompt(self, index: int, question: str, answers: Sequence[str], asked: str, said: str, cue: str = "") -> Prompt:
        """The prompt that ends with `asked`, to which the model should say `said`.

        Args:
            question: what the prompt is known by.
            answers: all that are right; of each, the first is the one expected.
            cue: begins the model's own turn.

        Raises:
            TooLong: `length` leaves no room for filler.
        """
        if self.length is not None:
            asked = f"\n\n{asked}"
            taken = len(self._encode(asked, cue).ids)
            if taken >= self.length:
                raise TooLong(
                    f"length {self.length} is too short: without filler, the prompt of the question {question!r} "
                    f"takes {taken} tokens"
                )
            asked = self._filler(index, self.length - taken) + asked
        prompt = self._encode(asked, cue)
        if self._form.chat and not cue:
            said = self._form.gap_in_chat(self.tokenizer) + said.lstrip()
        reply = continuation(self.tokenizer, prompt, said)
        return Prompt(
            self.kind, question, answers[0], tuple(prompt.ids), reply, index, prompt.text, tuple(answers[1:]),
            self._form.turn(prompt.text[-LAST:]), self._name,
        )  # fmt: skip

    def those_that_fit(self, items: Sequence[T], write: Callable[[int, T], Prompt]) -> list[Prompt]:
        """The prompts that `write` makes of the places and items; how many are too long is said on stderr.

        Raises:
            ValueError: none is left.
        """
        prompts: list[Prompt] = []
        too_long: list[TooLong] = []
        for i, item in enumerate(items):
            try:
                prompts.append(self._readable(write(i, item)))
            except TooLong as error:
                too_long.append(error)
        if not prompts:
            raise ValueError(str(too_long[0]) if too_long else "there is nothing to ask: give at least one question")
        if too_long:
            print(f"{len(too_long)} of {len(items)} prompts left out: {too_long[0]}", file=sys.stderr)
        return prompts

    def _readable(self, prompt: Prompt) -> Prompt:
        taken = prompt.length + len(prompt.reply)
        if self.context is not None and taken > self.context:
            raise TooLong(
                f"the question {prompt.question!r}, with all that belongs to it and its answer, takes {taken} tokens, "
                f"more than the model's context of {self.context}: use a model with a longer one"
            )
        return prompt

    def _filler(self, index: int, n_tokens: int) -> str:
        filler = GeneratedHaystack(f"prompt:{self.seed}:{index}").text(8 * n_tokens)
        ends = [end for start, end in encode(self.tokenizer, filler).offsets if end > start]
        return filler[: ends[n_tokens - 1]]

    def _encode(self, asked: str, cue: str) -> Encoded:
        """The whole prompt; a chat template has written its special tokens itself."""
        if self._form.chat:
            return encode(self.tokenizer, self._form.render(self.tokenizer, asked, cue))
        return encode(self.tokenizer, f"{asked} {cue}" if cue else asked, special=True)
