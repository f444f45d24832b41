"""How a model answers a few needles under each form of prompt, and which options ask them so."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from rhlens.results.html import result_html

GOOD = 0.5
"""Recall from which on a form will do: scores and ablations of a model that answers less tell of its failures."""


@dataclass(frozen=True, eq=False)
class PromptCheck:
    """Recall of one model by prompt form and haystack, best first.

    Attributes:
        table: one row a form and haystack: `form`, `haystack`, `recall` (ROUGE-1, 0..1) with its 95 % interval `low`
            and `high` over needles, `n`, `exact`, `empty` (share of answers that ended at once), `seconds` (a trial),
            `flags` (of the command line), `options` (of `niah`), and `note`, which says why there is no recall.
    """

    table: pd.DataFrame = field(repr=False)
    model: str = ""

    @property
    def best(self) -> dict[str, Any] | None:
        """The row with the highest recall; None where no form could be asked."""
        known = self.table.dropna(subset=["recall"]).to_dict("records")
        return dict(known[0]) if known else None

    @property
    def advice(self) -> str:
        """What to do next, in a sentence."""
        best = self.best
        if best is None:
            return "No form could be asked: see the notes."
        flags = f"`{best['flags']}`" if best["flags"] else "no flags, in the default form"
        if best["recall"] < GOOD:
            return (
                f"No form gives a recall of {GOOD:g}: the best is {best['recall']:.2f}, with {flags}. Try shorter "
                "prompts or a stronger model."
            )
        return f"Ask with {flags} (recall {best['recall']:.2f})."

    def __repr__(self) -> str:
        return f"PromptCheck({self.model}: {len(self.table)} forms. {self.advice})"

    def _repr_html_(self) -> str:
        return result_html(self, self.table.drop(columns="options"))
