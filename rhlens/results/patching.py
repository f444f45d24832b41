"""Patching results: how much of the right answer comes back (or goes) with each head's activation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from rhlens.results.frames import save_csv, trial_frame
from rhlens.results.heads import Head
from rhlens.results.html import dose_map, head_map, result_html
from rhlens.results.scores import HeadScores
from rhlens.results.stats import Interval, bootstrap_ci, clusters_of

Direction = Literal["denoise", "noise"]
"""`denoise` patches the clean prompt's activations into the corrupt run, `noise` the other way round."""


NOTABLE_SHARE = 0.05
"""Share of the way between the two prompts' answers from which on a head's patch is worth showing."""


def check_retrieves(clean: Float[np.ndarray, " trial"], corrupt: Float[np.ndarray, " trial"]) -> None:
    """Raise ValueError unless the clean prompt makes the clean answer likelier than the corrupt one does."""
    if clean.mean() <= corrupt.mean():
        raise ValueError(
            "the model prefers the right answer no more with the clean prompt than with the corrupt one: it does "
            "not retrieve here, so there is nothing to patch; use shorter prompts or another model"
        )


def recovered_ci(
    patched: Float[np.ndarray, "draw trial"],
    clean: Float[np.ndarray, " trial"],
    corrupt: Float[np.ndarray, " trial"],
    needles: list[object],
) -> Interval:
    """Logit difference of the patched run, on a scale from 0 (corrupt) to 1 (clean), with its 95 % interval.

    A ratio of means: single trials whose two answers are about as likely would blow up a mean of ratios.
    """

    def ratio(means: Float[np.ndarray, " 3"]) -> float:
        return float((means[0] - means[2]) / (means[1] - means[2]))

    ends = (np.broadcast_to(side, patched.shape) for side in (clean, corrupt))
    return bootstrap_ci(ratio, np.stack([patched, *ends], axis=-1), needles)


@dataclass(frozen=True, eq=False)
class PatchingMap:
    """The effect of patching each head alone.

    All values are logit differences between the clean and the corrupt answer's tokens, in nats. The layout is that of
    TransformerLens's `PatchingResult` with the batch first: `[trial, layer, head]`.

    Attributes:
        patched: mean over the reply's positions at which the two answers differ.
        by_position: the same for every position of the reply; nan where the answers do not differ, and for
            attribution, which is of the mean.
        clean, corrupt: of the two runs without a patch.
        trials: one row a trial: its labels and `corrupt_answer`.
        site: what was patched: `z`, `pattern`, `q`, or by key-value group `k`, `v`.
        positions: `answer` (from the prompt's last token on) or `all` (from the needle's answer on).
        method: `exact`, `attribution` (first order), or `path to L2H3...`.
    """

    patched: Float[np.ndarray, "trial layer head"] = field(repr=False)
    by_position: Float[np.ndarray, "trial reply layer head"] = field(repr=False)
    clean: Float[np.ndarray, " trial"] = field(repr=False)
    corrupt: Float[np.ndarray, " trial"] = field(repr=False)
    trials: pd.DataFrame = field(repr=False)
    model: str = ""
    site: str = "z"
    direction: Direction = "denoise"
    positions: str = "answer"
    method: str = "exact"
    run: dict[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        n = len(self.trials)
        if self.patched.ndim != 3 or not n == len(self.patched) == len(self.clean) == len(self.corrupt):
            raise ValueError(f"patched must be [trial, layer, head], one row a trial, not {self.patched.shape}")
        check_retrieves(self.clean, self.corrupt)

    @property
    def needles(self) -> list[object]:
        return clusters_of(self.trials)

    def recovered(self) -> Float[np.ndarray, "layer head"]:
        """Mean patched logit difference of each head, on a scale from 0 (corrupt) to 1 (clean)."""
        corrupt = self.corrupt.mean()
        return (self.patched.mean(0) - corrupt) / (self.clean.mean() - corrupt)

    def effect(self) -> Float[np.ndarray, "layer head"]:
        """How far each head's patch moves the run away from its base, as a share: about 0 for heads without a part."""
        recovered = self.recovered()
        return recovered if self.direction == "denoise" else 1 - recovered

    def recovered_ci(self, head: tuple[int, int]) -> Interval:
        """`recovered` of one head with its 95 % interval over needles."""
        return recovered_ci(self.patched[None, :, head[0], head[1]], self.clean, self.corrupt, self.needles)

    def top(self, k: int = 10) -> list[Head]:
        """The `k` heads with the largest effect."""
        order = np.argsort(-self.effect(), axis=None, kind="stable")[:k]
        return [Head(*divmod(int(i), self.patched.shape[2])) for i in order]

    def pearson(self, other: PatchingMap | HeadScores) -> float:
        """Pearson's correlation over heads with another map's effects, or with retrieval scores."""
        values = other.effect() if isinstance(other, PatchingMap) else other.mean()
        mine = self.effect()
        if values.shape != mine.shape:
            raise ValueError(f"maps of {mine.shape} and {values.shape} heads cannot be compared: take the same model")
        if np.ptp(values) == 0 or np.ptp(mine) == 0:
            return float("nan")
        return float(np.corrcoef(mine.ravel(), values.ravel())[0, 1])

    def frame(self, k: int | None = None) -> pd.DataFrame:
        """One row a head (or for the top k), largest effect first: `recovered` with its interval, and the effect."""
        effect, rows = self.effect(), []
        for head in self.top(effect.size if k is None else k):
            ci = self.recovered_ci(head)
            rows.append(
                {"name": str(head), "layer": head.layer, "head": head.head, "effect": effect[head],
                 "recovered": ci.value, "low": ci.low, "high": ci.high}
            )  # fmt: skip
        return pd.DataFrame(rows)

    def by_trial(self) -> pd.DataFrame:
        """One row a trial and head: the trial's labels, and the logit differences `patched`, `clean`, `corrupt`."""
        return trial_frame(self.patched, self.trials.assign(clean=self.clean, corrupt=self.corrupt), "patched")

    def save(self, path: str | Path) -> Path:
        """Write `by_trial` as CSV."""
        return save_csv(self.by_trial(), path)

    def __repr__(self) -> str:
        effect = self.effect()
        top = ", ".join(f"{head} {effect[head]:.2f}" for head in self.top(3))
        about = f"{self.method}, {self.site}, {self.direction}, positions: {self.positions}, {len(self.trials)} trials"
        return f"PatchingMap({self.model or 'model'}: {about}; {top})"

    def _repr_html_(self) -> str:
        return result_html(self, self.frame(10), head_map(self.effect(), "effect"))


@dataclass(frozen=True, eq=False)
class PatchingCurve:
    """Heads patched together: the top k by retrieval score, and as many controls.

    Attributes:
        values: one row a condition and trial: `heads` (top or a control), `k`, `draw`, `names`, the trial's labels,
            and the logit differences `patched`, `clean` and `corrupt`, in nats.
    """

    values: pd.DataFrame = field(repr=False)
    model: str = ""
    site: str = "z"
    direction: Direction = "denoise"
    positions: str = "answer"
    run: dict[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        trials = self.values.drop_duplicates("trial")
        check_retrieves(trials["clean"].to_numpy(dtype=float), trials["corrupt"].to_numpy(dtype=float))

    @property
    def ks(self) -> list[int]:
        return sorted(int(k) for k in self.values["k"].unique())

    def level(self, heads: str, k: int) -> Interval:
        """Recovered by the `heads` (top or a control) at `k`: 0 is corrupt, 1 clean; 95 % interval over needles, draws.

        Raises:
            ValueError: this k was not measured.
        """
        rows = self.values.loc[(self.values["heads"] == heads) & (self.values["k"] == k)]
        if rows.empty:
            raise ValueError(f"the curve has no k = {k} of {heads!r} heads: measured were {self.ks}")
        patched = rows.pivot(index="draw", columns="trial", values="patched").to_numpy(dtype=float)
        trials = rows.drop_duplicates("trial").sort_values("trial")
        clean, corrupt = (trials[name].to_numpy(dtype=float) for name in ("clean", "corrupt"))
        return recovered_ci(patched, clean, corrupt, list(trials["needle"]))

    def summary(self) -> pd.DataFrame:
        """One row a k and head set: recovered, its interval, number of trials."""
        cells = self.values[["heads", "k"]].drop_duplicates().itertuples(index=False)
        return pd.DataFrame([{"heads": heads, "k": k, **self.level(heads, k)._asdict()} for heads, k in cells]).rename(
            columns={"value": "recovered"}
        )

    def save(self, path: str | Path) -> Path:
        """Write `values` as CSV."""
        return save_csv(self.values, path)

    def __repr__(self) -> str:
        return f"PatchingCurve({self.model or 'model'}: {self.direction}, k = {self.ks})"

    def _repr_html_(self) -> str:
        summary = self.summary()
        return result_html(self, summary, dose_map(summary, "recovered"))
