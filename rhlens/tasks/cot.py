"""Arithmetic word problems, to be answered at once or after a chain of thought.

The chain repeats what the question says before it adds it up, as people do: that part must be fetched from the
context. The answer given at once is worked out inside the model, and is never written in the context.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass

from rhlens.tasks import words as w

ANSWER_AT_ONCE, STEP_BY_STEP = "\nAnswer:", "\nStep by step:"


@dataclass(frozen=True)
class Problem:
    """A word problem: `chain` ends with the words that lead up to the answer."""

    question: str
    chain: str
    answer: str

    @property
    def held_out(self) -> bool:
        """Whether the nano zoo is never trained on this problem: one in ten, by a checksum of its text."""
        return zlib.crc32(self.question.encode()) % 10 == 0

    def prompt(self, chain_of_thought: bool) -> str:
        """What stands before the model's turn."""
        return f"\n\nQuestion: {self.question}{STEP_BY_STEP if chain_of_thought else ANSWER_AT_ONCE}"

    def completion(self, chain_of_thought: bool) -> str:
        """What the model should say."""
        return f" {self.chain} {self.answer}.\n" if chain_of_thought else f" {self.answer}.\n"


def sample_problem(rng: random.Random, people: int = 3, held_out: bool = True) -> Problem:
    """A random problem about `people` people with 1 to 9 things each."""
    while (problem := _problem(rng, people)).held_out != held_out:
        pass
    return problem


def _problem(rng: random.Random, people: int) -> Problem:
    names, item = rng.sample(w.PEOPLE, people), rng.choice(w.ITEMS)
    numbers = [rng.randint(1, 9) for _ in names]
    parts = [f"{name} has {number} {item}" for name, number in zip(names, numbers, strict=True)]
    question = f"{', '.join(parts[:-1])} and {parts[-1]}. How many {item} do they have?"
    total, chain = numbers[0], f"{names[0]} has {numbers[0]}."
    for name, number in zip(names[1:], numbers[1:], strict=True):
        chain += f" {name} has {number}, and {total} + {number} = {total + number}."
        total += number
    return Problem(question, f"{chain} Answer:", str(total))
