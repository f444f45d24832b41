"""What kinds of answer there are, and how their shares change as heads are taken away."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import pandas as pd

from rhlens.results.curves import AblationCurve

ErrorType = Literal["correct", "incomplete", "wrong extraction", "hallucination", "no answer"]
"""From right to silent; `rhlens.measure.errors.error_type` says what each of them is."""
ERRORS: tuple[ErrorType, ...] = get_args(ErrorType)


def errors_by_k(curve: AblationCurve) -> pd.DataFrame:
    """One row a head set, k and kind of answer: its share with the 95 % interval of `level`, trials and draws.

    Raises:
        ValueError: the answers' kinds are not known (a file of an older version).
    """
    if "error" not in curve.answers:
        raise ValueError("these answers have no column 'error', the kind of each: ask for them anew")
    rows = []
    for error in ERRORS:
        # The share of a kind is the mean of a yes or no, as that of exact answers is.
        of_kind = replace(curve, answers=curve.answers.assign(exact=curve.answers["error"] == error))
        table = of_kind.summary("exact").rename(columns={"exact": "share"})
        rows.append(table.assign(error=error))
    # The conditions of each table are in one order: put the kinds of each side by side.
    found = pd.concat(rows).sort_index(kind="stable")
    return found.reindex(columns=["heads", "k", "error", "share", "low", "high", "trials", "draws"]).reset_index(
        drop=True
    )
