"""Dose curves: recall against the number of ablated heads, for the top heads and for random controls."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from rhlens.results.stats import Interval, clustered_ci, mean_ci

TOP, RANDOM = "top", "random"
Measure = str
"""Column that a curve is drawn from: `recall` (ROUGE-1 recall, 0..1) or `exact` (exact match, 0 or 1)."""


@dataclass(frozen=True, eq=False)
class AblationCurve:
    """Every answer under every condition.

    Attributes:
        answers: one row a condition and trial: `heads` (top | random), `k`, `draw`, `names`, the trial's labels,
            `output`, `recall`, `exact`. The unablated model is `k` = 0 of `top`.
        phase: when the heads were ablated.
    """

    answers: pd.DataFrame = field(repr=False)
    model: str = ""
    method: str = "zero"
    phase: str = "decode"

    @property
    def ks(self) -> list[int]:
        return sorted(int(k) for k in self.answers["k"].unique())

    @property
    def draws(self) -> int:
        """Random control sets for each k above 0."""
        return int(self.answers.loc[self.answers["heads"] == RANDOM, "draw"].nunique())

    def matrix(self, heads: str, k: int, measure: Measure = "recall") -> Float[np.ndarray, "draw trial"]:
        """Every draw's result on every trial (one draw for the top heads). With k = 0 nothing is ablated."""
        chosen = self.answers[(self.answers["k"] == k) & (self.answers["heads"] == (TOP if k == 0 else heads))]
        return chosen.pivot(index="draw", columns="trial", values=measure).to_numpy(dtype=float)

    def level(self, heads: str, k: int, measure: Measure = "recall") -> Interval:
        """Mean of `measure` with its 95 % interval: over trials, and over draws too for the controls."""
        values = self.matrix(heads, k, measure)
        return mean_ci(values[0]) if len(values) == 1 else clustered_ci(values)

    def summary(self, measure: Measure = "recall") -> pd.DataFrame:
        """One row a k and head set: mean, 95 % interval, number of trials and draws."""
        rows = []
        for heads in (TOP, RANDOM):
            for k in self.ks:
                level, values = self.level(heads, k, measure), self.matrix(heads, k, measure)
                rows.append({"heads": heads, "k": k, measure: level.value, "low": level.low, "high": level.high,
                             "trials": values.shape[1], "draws": values.shape[0]})  # fmt: skip
        return pd.DataFrame(rows)

    def contrast(self, k: int, measure: Measure = "recall") -> Interval:
        """Control minus top-k, paired by trial, with a bootstrap interval over trials and draws: the causal effect."""
        return clustered_ci(self.matrix(RANDOM, k, measure) - self.matrix(TOP, k, measure))

    def frame(self) -> pd.DataFrame:
        """All answers, one row a condition and trial."""
        return self.answers

    def save(self, path: str | Path) -> Path:
        """Write all answers as CSV."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.answers.to_csv(path, index=False)
        return path

    def __repr__(self) -> str:
        about = f"{self.method}, {self.phase}, k = {self.ks}, {self.draws} control draws"
        return f"AblationCurve({self.model or 'model'}: {about})"

    def _repr_html_(self) -> str:
        from html import escape

        table = self.summary().to_html(index=False, float_format="{:.3f}".format, border=0)
        return f"<p>{escape(repr(self))}</p>{table}"
