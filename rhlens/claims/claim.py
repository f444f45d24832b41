"""A claim of the paper, put to the test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from rhlens.results.html import result_html
from rhlens.results.stats import Interval


@dataclass(frozen=True)
class Claim:
    """One property on one model.

    Attributes:
        property: the paper's name of it.
        statistic: what was measured, with its 95 % interval and n.
        criterion: what the property takes to hold, clause by clause: met (yes) or not (NO).
        control: what could have refuted it, and what it showed.
        holds: the verdict.
    """

    property: str
    model: str
    statistic: Interval
    criterion: str
    control: str
    holds: bool

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "does NOT hold"
        return (
            f"{self.property}: {verdict} on {self.model}\n  measured:  {self.statistic}\n"
            f"  criterion: {self.criterion}\n  control:   {self.control}"
        )

    def _repr_html_(self) -> str:
        clauses = [clause.partition(", ") for clause in self.criterion.split("; ")]
        table = pd.DataFrame([{"clause": text, "met": met} for met, _, text in clauses])
        verdict = "holds" if self.holds else "does NOT hold"
        about = f"{self.property}: {verdict} on {self.model}. Measured: {self.statistic}. Control: {self.control}"
        return result_html(about, table)


def judged(property: str, model: str, statistic: Interval, clauses: Mapping[str, bool], control: str) -> Claim:
    """The claim that holds if all `clauses` are met."""
    criterion = "; ".join(f"{'yes' if met else 'NO'}, {clause}" for clause, met in clauses.items())
    return Claim(property, model, statistic, criterion, control, all(clauses.values()))
