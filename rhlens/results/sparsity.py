"""How the retrieval scores of a model's heads are spread: few heads with much, or many with a little."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from jaxtyping import Float

from rhlens.results.scores import RETRIEVAL_THRESHOLD, HeadScores
from rhlens.results.stats import Interval, bootstrap_ci

BINS = {"0": (0.0, 0.0), "(0, 0.1)": (0.0, 0.1), "[0.1, 0.5)": (0.1, 0.5), "≥ 0.5": (0.5, np.inf)}
"""The paper's figure: heads by mean score. The first bin is exactly 0."""
_EDGE = 1e-9  # a mean of tenths that is 0.1 on paper may be 0.0999... in binary


def share_ci(scores: HeadScores, low: float, high: float = np.inf) -> Interval:
    """Share of heads whose mean score is in [low, high) with its 95 % interval over needles (or trials)."""

    def share(mean: Float[np.ndarray, " layer_head"]) -> float:
        return float(np.mean((mean >= low - _EDGE) & (mean < high - _EDGE)))

    return _ci(scores, share)


def bins(scores: HeadScores) -> pd.DataFrame:
    """One row a bin of the paper's figure: heads in it, their share, and its 95 % interval over needles (or trials)."""

    def in_bin(name: str, mean: Float[np.ndarray, " layer_head"]) -> float:
        low, high = BINS[name]
        if name == "0":
            return float(np.mean(mean == 0))
        return float(np.mean((mean >= low - _EDGE) & (mean < high - _EDGE) & (mean > 0)))

    rows = []
    for name in BINS:
        found = _ci(scores, lambda mean, name=name: in_bin(name, mean))
        heads = round(found.value * scores.n_layers * scores.n_heads)
        rows.append({"score": name, "heads": heads, "share": found.value, "low": found.low, "high": found.high})
    return pd.DataFrame(rows)


def by_threshold(scores: HeadScores, thresholds: Float[np.ndarray, " n"] | None = None) -> pd.DataFrame:
    """The share of heads at or above each threshold, with its 95 % interval: how much the choice of 0.1 matters."""
    thresholds = np.round(np.linspace(0.02, 0.9, 45), 4) if thresholds is None else thresholds
    rows = [{"threshold": float(t), **share_ci(scores, float(t))._asdict()} for t in thresholds]
    return pd.DataFrame(rows).rename(columns={"value": "share"})


def gini(values: Float[np.ndarray, ...]) -> float:
    """Gini coefficient of non-negative values: 0 where all are equal, near 1 where one has everything."""
    x = np.sort(np.asarray(values, dtype=float).ravel())
    if x.size == 0 or x.sum() == 0:
        return float("nan")
    rank = np.arange(1, x.size + 1)
    return float(2 * (rank * x).sum() / (x.size * x.sum()) - (x.size + 1) / x.size)


def gini_ci(scores: HeadScores) -> Interval:
    """Gini coefficient of the mean scores over heads with its 95 % interval over needles (or trials)."""
    return _ci(scores, gini)


def retrieval_share(scores: HeadScores) -> Interval:
    """Share of heads that are retrieval heads (mean score at least 0.1) with its 95 % interval."""
    return share_ci(scores, RETRIEVAL_THRESHOLD)


def _ci(scores: HeadScores, statistic: Callable[[Float[np.ndarray, " layer_head"]], float]) -> Interval:
    return bootstrap_ci(statistic, scores.values.reshape(scores.n_trials, -1), scores.needles)
