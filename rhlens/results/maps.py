"""Causal maps: what every single head of a model is worth to the right answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from rhlens.results.frames import save_csv, trial_frame
from rhlens.results.heads import Head
from rhlens.results.html import head_map, result_html
from rhlens.results.scores import RETRIEVAL_THRESHOLD, HeadScores
from rhlens.results.stats import Interval, bootstrap_ci, clusters_of, mean_ci

NOTABLE = 0.05
"""Nats per token from which on a head alone matters, if its effect is surely above 0: 5 % of a token's probability."""


@dataclass(frozen=True, eq=False)
class CausalMap:
    """The effect of ablating each head alone.

    Attributes:
        effects: by trial and head, how much log-probability the right answer loses, in nats per token.
        trials: one row a trial, with its labels and `logprob`, that of the unablated model.
        method, phase: how and when heads were ablated.
        run: device, dtype and version it was measured with.
    """

    effects: Float[np.ndarray, "trial layer head"] = field(repr=False)
    trials: pd.DataFrame = field(repr=False)
    model: str = ""
    method: str = "zero"
    phase: str = "both"
    run: dict[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.effects.ndim != 3 or len(self.trials) != len(self.effects):
            raise ValueError(f"effects must be [trial, layer, head], one row a trial, not {self.effects.shape}")

    def mean(self) -> Float[np.ndarray, "layer head"]:
        """Mean effect of each head, in nats per token."""
        return self.effects.mean(0)

    @property
    def needles(self) -> list[object]:
        return clusters_of(self.trials)

    def top(self, k: int = 10) -> list[Head]:
        """The `k` heads with the largest effect."""
        mean = self.mean()
        return [Head(*divmod(int(i), mean.shape[1])) for i in np.argsort(-mean, axis=None, kind="stable")[:k]]

    def effect_ci(self, head: tuple[int, int]) -> Interval:
        """Effect of one head with its 95 % interval over needles."""
        return mean_ci(self.effects[:, head[0], head[1]], self.needles, lowest=-np.inf)

    def spearman(self, scores: HeadScores) -> Interval:
        """Spearman's rank correlation of effect and retrieval score over heads; 95 % interval over needles.

        Raises:
            ValueError: the scores are of a model of another shape.
        """
        ranks = pd.Series(self._mean_scores(scores).ravel()).rank().to_numpy()

        def rank_correlation(effect: Float[np.ndarray, " layer_head"]) -> float:
            of_effect = pd.Series(effect).rank().to_numpy()
            constant = np.ptp(ranks) == 0 or np.ptp(of_effect) == 0
            return float("nan") if constant else float(np.corrcoef(of_effect, ranks)[0, 1])

        return bootstrap_ci(rank_correlation, self.effects.reshape(len(self.effects), -1), self.needles)

    def frame(self, scores: HeadScores | None = None, k: int | None = None) -> pd.DataFrame:
        """One row a head (or for the top k), largest effect first: its interval and, with scores, the retrieval score.

        `disagrees` says where the two surely differ: `score without effect` (score at least .1, but the head alone does
        not matter, as where others make up for it), or `effect without score`.
        """
        mean = self.mean()
        retrieval = self._mean_scores(scores) if scores is not None else None
        rows = []
        for head in self.top(mean.size if k is None else k):
            effect = self.effect_ci(head)
            row = {"name": str(head), "layer": head.layer, "head": head.head,
                   "effect": effect.value, "low": effect.low, "high": effect.high}  # fmt: skip
            if retrieval is not None:
                matters = effect.low > 0 and effect.value >= NOTABLE
                scored = bool(retrieval[head] >= RETRIEVAL_THRESHOLD - 1e-9)
                idle = effect.high < NOTABLE  # an interval that reaches further, or is unknown, is no evidence
                disagrees = "score without effect" if scored and idle else ""
                disagrees = "effect without score" if matters and not scored else disagrees
                row |= {"score": float(retrieval[head]), "disagrees": disagrees}
            rows.append(row)
        return pd.DataFrame(rows)

    def disagreements(self, scores: HeadScores) -> pd.DataFrame:
        """Heads with a high score but no effect, and heads with an effect but no score."""
        table = self.frame(scores)
        return table.loc[table["disagrees"] != ""].reset_index(drop=True)

    def _mean_scores(self, scores: HeadScores) -> Float[np.ndarray, "layer head"]:
        if (scores.n_layers, scores.n_heads) != self.effects.shape[1:]:
            raise ValueError(
                f"these scores are of {scores.n_layers} x {scores.n_heads} heads, the map of "
                f"{self.effects.shape[1]} x {self.effects.shape[2]}: take scores of the same model"
            )
        return scores.mean()

    def by_trial(self) -> pd.DataFrame:
        """One row a trial and head: the trial's labels, and `effect`, in nats per token."""
        return trial_frame(self.effects, self.trials, "effect")

    def save(self, path: str | Path) -> Path:
        """Write `by_trial` as CSV."""
        return save_csv(self.by_trial(), path)

    def __repr__(self) -> str:
        mean = self.mean()
        top = ", ".join(f"{head} {mean[head]:.2f}" for head in self.top(3))
        about = f"{len(self.effects)} trials, {self.method}, {self.phase}, nats per token"
        return f"CausalMap({self.model or 'model'}: {about}; {top})"

    def _repr_html_(self) -> str:
        return result_html(self, self.frame(k=10), head_map(self.mean(), "nats per token"))
