"""Confidence intervals over trials.

SciPy's, not TransformerLens's own: importing those loads torch, and TransformerLens 3.9 has none.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Interval(NamedTuple):
    """A 95 % confidence interval and the statistic it belongs to."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}], n = {self.n}"


def mean_ci(values: Float[np.ndarray, " trial"], seed: int = 0) -> Interval:
    """Mean over trials with a 95 % bootstrap (BCa) interval; Wilson's where every value is 0 or 1.

    A bootstrap of a constant sample collapses to a point whatever n is; Wilson's interval for shares does not.
    """
    from scipy import stats

    x = np.asarray(values, dtype=float)
    if x.size == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(x.mean())
    if np.isin(x, (0.0, 1.0)).all():
        ci = stats.binomtest(int(x.sum()), x.size).proportion_ci(method="wilson")
        return Interval(mean, float(ci.low), float(ci.high), x.size)
    if x.size == 1 or np.ptp(x) == 0:
        return Interval(mean, mean, mean, x.size)
    ci = stats.bootstrap((x,), np.mean, rng=np.random.default_rng(seed), n_resamples=2000).confidence_interval
    return Interval(mean, float(ci.low), float(ci.high), x.size)


def clustered_ci(values: Float[np.ndarray, "draw trial"], seed: int = 0) -> Interval:
    """Mean over control draws and trials with a 95 % interval that resamples both (the pigeonhole bootstrap)."""
    x = np.atleast_2d(np.asarray(values, dtype=float))
    rng = np.random.default_rng(seed)
    draws, trials = x.shape
    means = [x[np.ix_(rng.integers(draws, size=draws), rng.integers(trials, size=trials))].mean() for _ in range(2000)]
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(x.mean()), float(low), float(high), trials)
