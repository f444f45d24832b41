"""Closed-book facts: a small fixed world that the nano zoo knows by heart, and facts of the user's own.

Both are asked about without any context.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from rhlens.tasks import words as w
from rhlens.tasks.ask import check_answers
from rhlens.tasks.files import one_line, records, text_in, texts_in
from rhlens.tasks.needles import Needle

# Names of the fixed world: none of them occurs in filler or needles.
GIVEN_NAMES = (
    "Baldric", "Beatrix", "Cosima", "Drusilla", "Emeric", "Florian", "Gisela", "Horatio", "Isolde", "Jasper", "Klara",
    "Ludwig", "Magnus", "Nestor", "Octavia", "Pascal", "Rosamund", "Silvan", "Theodora", "Ulla", "Vincent", "Wilma",
    "Xenia", "Zacharias",
)  # fmt: skip
FAMILY_NAMES = ("Archer", "Dunmore", "Hollis", "Pemberton", "Vance")


@cache
def closed_book_facts() -> tuple[Needle, ...]:
    """The facts of the fixed world, over 200: where somebody was born, and the trade of somebody."""
    rng = random.Random("closed book")
    facts = []
    for given, family in product(GIVEN_NAMES, FAMILY_NAMES):
        name, place, trade = f"{given} {family}", rng.choice(w.PLACES), rng.choice(w.TRADES)
        facts.append(Needle("closed-book", f"{name} was born in {place}.", f"Where was {name} born?", place))
        facts.append(Needle("closed-book", f"The trade of {name} is {trade}.", f"What is the trade of {name}?", trade))
    return tuple(fact for fact in facts if not fact.held_out)


@dataclass(frozen=True)
class Fact:
    """A fact of the user's: `prompt` is asked word for word; of its right `answers` the first is the one expected.

    Raises:
        ValueError: there is no answer, or an empty one (see `check_answers`).
    """

    prompt: str
    answers: tuple[str, ...]

    def __post_init__(self) -> None:
        check_answers(self.prompt, self.answers)


def read_facts(path: str | Path) -> list[Fact]:
    """Facts from a JSONL file, one a line: `{"prompt": ..., "answer": ...}`, the answer a text or a list of them.

    Raises:
        ValueError: the file cannot be read, or is not of this form; the sentence names the line.
    """
    return [_fact(entry, where) for where, entry in records(path)]


def _fact(entry: Any, where: str) -> Fact:
    text_in(entry, "prompt", where)  # there must be some, but it is asked as it stands
    several = isinstance(entry.get("answer"), list)
    answers = texts_in(entry, "answer", where) if several else (one_line(text_in(entry, "answer", where)),)
    return Fact(entry["prompt"], answers)
