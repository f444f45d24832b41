"""What heads did in each trial, right or wrong: whether that foretells a right answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from rhlens.results.controls import control_sets
from rhlens.results.heads import Head, check_heads
from rhlens.results.prediction import auroc
from rhlens.results.stats import Interval

Sign = Literal["copied", "aimed", "confidence"]
SIGNS: dict[Sign, str] = {
    "aimed": "heads look at the needle's answer before a word is said",
    "copied": "heads copy the answer's tokens while they are said",
    "confidence": "log-probability of what the model says",
}


@dataclass(frozen=True, eq=False)
class Hits:
    """What every head did while trials were answered.

    Attributes:
        trials: one row a trial: its labels, `output`, `exact`, `error`, and `confidence`, the mean log-probability
            (nats) of the tokens of the model's own answer (-inf where it said nothing).
        copied: share of the answer's tokens that each head copied from the needle (the trial's retrieval score). A
            wrong answer leaves tokens unsaid that nobody can then have copied: this sign is not independent of it.
        aimed: whether each head's attention was largest on the needle's answer at the last token of the prompt, when
            nothing was said yet; False where nothing was said at all.
    """

    trials: pd.DataFrame = field(repr=False)
    copied: Float[np.ndarray, "trial layer head"] = field(repr=False)
    aimed: Bool[np.ndarray, "trial layer head"] = field(repr=False)
    model: str = ""
    run: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def right(self) -> Bool[np.ndarray, " trial"]:
        """Which answers were exactly right."""
        return self.trials["exact"].to_numpy(dtype=bool)

    def rate(self, sign: Sign, heads: Sequence[tuple[int, int]]) -> Float[np.ndarray, " trial"]:
        """Mean of a sign over `heads`, of each trial: 0..1, or nats for the confidence, which has no heads.

        Raises:
            ValueError: there are no heads, one does not exist, or one is named twice.
        """
        if sign == "confidence":
            return self.trials["confidence"].to_numpy(dtype=float)
        if not heads:
            raise ValueError("there are no heads to judge: name one or more")
        values = self.copied if sign == "copied" else self.aimed
        chosen = check_heads(heads, *values.shape[1:])
        return np.mean([values[:, h.layer, h.head] for h in chosen], axis=0)

    def random_rates(
        self, sign: Sign, heads: Sequence[tuple[int, int]], draws: int = 20, seed: int = 0
    ) -> Float[np.ndarray, "draw trial"]:
        """`rate` of as many heads outside of `heads`, drawn at random."""
        sets = control_sets("random", [Head(*h) for h in heads], heads, self.copied.shape[1:], draws, seed)  # pyright: ignore[reportArgumentType] (two axes)
        return np.stack([self.rate(sign, chosen) for chosen in sets])

    def frame(self, heads: Sequence[tuple[int, int]], by: str | None = None, seed: int = 0) -> pd.DataFrame:
        """One row a sign: how well it tells right answers from wrong ones (AUROC, 95 % interval), beside random heads.

        Args:
            by: a column of the trials, such as `kind` or `length`: one row for each of its values too.
        """
        groups = (
            self.trials.groupby(by, sort=True).indices.items() if by else [("all trials", np.arange(len(self.trials)))]
        )
        by_chance = {sign: self.random_rates(sign, heads, seed=seed) for sign in SIGNS if sign != "confidence"}
        rows = []
        for name, chosen in groups:
            right = self.right[chosen]
            for sign in SIGNS:
                area = self._area(sign, heads, chosen)
                row = {by or "group": name, "sign": sign, "auroc": area.value, "low": area.low, "high": area.high}
                if sign in by_chance:
                    row["random heads"] = auroc(right, by_chance[sign][:, chosen], self._needles(chosen)).value
                rows.append(row | {"trials": len(chosen), "right": int(right.sum())})
        return pd.DataFrame(rows)

    def advantage(self, sign: Sign, heads: Sequence[tuple[int, int]], seed: int = 0) -> Interval:
        """AUROC of `heads` minus that of random ones, with its 95 % interval over needles and draws."""
        every = np.arange(len(self.trials))
        return self._area(sign, heads, every, self.random_rates(sign, heads, seed=seed))

    def area(self, sign: Sign, heads: Sequence[tuple[int, int]]) -> Interval:
        """AUROC: how well the sign tells right answers from wrong ones."""
        return self._area(sign, heads, np.arange(len(self.trials)))

    def _area(
        self, sign: Sign, heads: Sequence[tuple[int, int]], chosen: np.ndarray, minus: np.ndarray | None = None
    ) -> Interval:
        right = self.right[chosen]
        return auroc(right, self.rate(sign, heads)[chosen], self._needles(chosen), minus)

    def _needles(self, chosen: np.ndarray) -> list[str]:
        return list(self.trials["needle"].iloc[chosen])
