"""Dose curves: recall against the number of ablated heads, for the top heads and for random controls."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from rhlens.results.frames import save_csv
from rhlens.results.html import dose_map, result_html
from rhlens.results.stats import Interval, mean_ci, permutation_p

TOP = "top"
Measure = Literal["recall", "exact", "f1", "logprob"]
"""Column that a curve is drawn from: ROUGE-1 recall or F1 (0..1), exact match (0 or 1), or nats per answer token."""


@dataclass(frozen=True, eq=False)
class AblationCurve:
    """Every answer under every condition.

    Attributes:
        answers: one row a condition and trial: `heads` (top or a control), `k`, `draw`, `names`, the trial's labels,
            `output`, `recall`, `exact`, and `logprob`, the right answer's mean log-probability per token in nats. The
            unablated model is `k` = 0 of `top`.
        phase: when the heads were ablated.
        run: device, dtype and version it was measured with.
    """

    answers: pd.DataFrame = field(repr=False)
    model: str = ""
    method: str = "zero"
    phase: str = "decode"
    run: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def ks(self) -> list[int]:
        return sorted(int(k) for k in self.answers["k"].unique())

    @property
    def controls(self) -> list[str]:
        """The kinds of control that were measured, the first one being the one that claims compare with."""
        return [str(name) for name in self.answers["heads"].unique() if name != TOP]

    @property
    def draws(self) -> int:
        """Control sets of each kind for each k above 0."""
        return int(self.answers.loc[self.answers["heads"] != TOP, "draw"].nunique())

    def matrix(self, heads: str, k: int, measure: Measure = "recall") -> Float[np.ndarray, "draw trial"]:
        """Every draw's result on every trial (one draw for the top heads). With k = 0 nothing is ablated.

        Raises:
            ValueError: this k was not measured.
        """
        chosen = self.answers[(self.answers["k"] == k) & (self.answers["heads"] == (TOP if k == 0 else heads))]
        if chosen.empty:
            raise ValueError(f"the curve has no k = {k} of {heads!r} heads: measured were {self.ks}")
        return chosen.pivot(index="draw", columns="trial", values=measure).to_numpy(dtype=float)

    @property
    def needles(self) -> list[str]:
        """The needle of each trial, in the order of `matrix`'s columns: trials of one needle are alike."""
        first = self.answers.drop_duplicates("trial").sort_values("trial")
        return list(first["needle"] if "needle" in first else first["trial"])

    def level(self, heads: str, k: int, measure: Measure = "recall") -> Interval:
        """Mean of `measure` with its 95 % interval over needles, and over draws too for the controls."""
        return mean_ci(self.matrix(heads, k, measure), self.needles, -np.inf if measure == "logprob" else 0.0)

    def summary(self, measure: Measure = "recall") -> pd.DataFrame:
        """One row a k and head set: mean, 95 % interval, number of trials and draws."""
        rows = []
        for heads in (TOP, *self.controls):
            for k in self.ks:
                level, draws = self.level(heads, k, measure), len(self.matrix(heads, k, measure))
                cells = {"heads": heads, "k": k, measure: level.value, "low": level.low, "high": level.high}
                rows.append(cells | {"trials": level.n, "draws": draws})
        return pd.DataFrame(rows)

    def contrast(self, k: int, measure: Measure = "recall", control: str | None = None) -> Interval:
        """Control minus top-k, paired by trial, with a 95 % interval over needles and draws: the causal effect."""
        lowest = -np.inf if measure == "logprob" else -1.0
        return mean_ci(self._differences(k, measure, control), self.needles, lowest)

    def p_value(self, k: int, measure: Measure = "recall", control: str | None = None) -> float:
        """Chance of a contrast this high if the top-k heads were like the average control: signs flip by needle.

        It speaks for other needles; `draw_p` speaks for other heads.
        """
        return permutation_p(self._differences(k, measure, control).mean(0), self.needles)

    def draw_p(self, k: int, measure: Measure = "recall", control: str | None = None) -> float:
        """Chance of so low a mean if the top-k heads were one more draw of the control: sets are exchanged.

        It cannot be below 1 / (draws + 1).
        """
        means = self._differences(k, measure, control).mean(1)
        return float((1 + np.sum(means <= 1e-12)) / (1 + len(means)))

    def _differences(self, k: int, measure: Measure, control: str | None) -> Float[np.ndarray, "draw trial"]:
        if not self.controls:
            raise ValueError("nothing was ablated, so there is no control to compare with: measure a k above 0")
        return self.matrix(control or self.controls[0], k, measure) - self.matrix(TOP, k, measure)

    def frame(self) -> pd.DataFrame:
        """All answers, one row a condition and trial."""
        return self.answers.copy()

    def save(self, path: str | Path) -> Path:
        """Write all answers as CSV."""
        return save_csv(self.answers, path)

    def __repr__(self) -> str:
        about = f"{self.method}, {self.phase}, k = {self.ks}, {self.draws} control draws"
        return f"AblationCurve({self.model or 'model'}: {about})"

    def _repr_html_(self) -> str:
        summary = self.summary()
        return result_html(self, summary, dose_map(summary, "recall"))
