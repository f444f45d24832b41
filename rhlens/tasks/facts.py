"""Closed-book facts: a small fixed world that the nano zoo knows by heart, asked about without any context."""

from __future__ import annotations

import random
from functools import cache
from itertools import product

from rhlens.tasks import words as w
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
