"""Confidence intervals over trials.

Not TransformerLens's own: importing those loads torch, and they resample single examples. Trials that share a needle
are alike, so needles are what is resampled; so are control draws, where there are several.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

RESAMPLES = 2000
_Z2 = 1.96**2


class Interval(NamedTuple):
    """A statistic, its 95 % confidence interval, and what it was computed from: `n` trials of `clusters` needles.

    Needles are what the interval resamples: it is as narrow as they are many. 0 are unknown.
    """

    value: float
    low: float
    high: float
    n: int
    clusters: int = 0

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}], n = {self.sample}"

    @property
    def sample(self) -> str:
        """`n`, and of how many needles where some have several trials: "120 of 6 needles"."""
        return f"{self.n} of {self.clusters} needles" if 0 < self.clusters < self.n else str(self.n)


def mean_ci(
    values: Float[np.ndarray, " trial"] | Float[np.ndarray, "draw trial"],
    clusters: Sequence[object] | None = None,
    lowest: float = 0.0,
    seed: int = 0,
) -> Interval:
    """Mean with a 95 % percentile bootstrap interval that resamples whole clusters of trials, and draws.

    Where all values are equal a bootstrap would collapse to a point whatever n is; the interval is then as wide as
    Wilson's for a share of 0 or 1 of as many clusters.

    Args:
        clusters: what makes trials alike (their needle), one label a trial; None takes every trial for itself.
        lowest: the least that a value can be: 0, or -1 for differences; the most is then 1, or the largest value. With
            -inf nothing bounds the values, and the interval of a single cluster is unknown: nan.
    """
    x = np.atleast_2d(np.asarray(values, dtype=float))
    draws, trials = x.shape
    if x.size == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    codes = np.arange(trials) if clusters is None else pd.factorize(np.asarray(clusters, dtype=object))[0]
    sizes = np.bincount(codes)
    mean, n = float(x.mean()), len(sizes)
    if lowest == -math.inf and (np.ptp(x) == 0 or n == 1):  # nothing bounds it: several equal values are a point
        edge = math.nan if n == 1 else mean
        return Interval(mean, edge, edge, trials, n)
    if np.ptp(x) == 0 or n == 1:
        width = constant_width(n)
        return Interval(mean, max(lowest, mean - width), min(max(1.0, float(x.max())), mean + width), trials, n)
    sums = np.stack([np.bincount(codes, row) for row in x])  # [draw, cluster]
    rng = np.random.default_rng(seed)
    picked = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES)
    drawn = rng.multinomial(draws, np.full(draws, 1 / draws), RESAMPLES)
    means = ((drawn @ sums) * picked).sum(1) / (draws * (picked @ sizes))
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(mean, float(low), float(high), trials, n)


def constant_width(n: int) -> float:
    """How far a share of 0 or 1 of `n` may be off (Wilson, 95 %): what a bootstrap of equal values does not see."""
    return _Z2 / (n + _Z2)


def difference(a: Interval, b: Interval) -> Interval:
    """`a` minus `b`, which were measured apart, with its 95 % interval (the MOVER of Zou and Donner 2008)."""
    value = a.value - b.value
    low = value - math.hypot(a.value - a.low, b.high - b.value)
    high = value + math.hypot(a.high - a.value, b.value - b.low)
    return Interval(value, low, high, a.n + b.n, a.clusters + b.clusters)


def clusters_of(trials: pd.DataFrame) -> list[object]:
    """What makes rows alike: their needle, or nothing where it is unknown."""
    return list(trials["needle"] if "needle" in trials.columns else trials.index)


def bootstrap_ci(
    statistic: Callable[[Float[np.ndarray, " column"]], float],
    values: Float[np.ndarray, "trial column"] | Float[np.ndarray, "draw trial column"],
    clusters: Sequence[object] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """A statistic of the mean over trials (and draws), with a 95 % percentile bootstrap interval.

    Clusters of trials are resampled, and draws. With a single cluster the interval is unknown: nan.
    """
    x = np.asarray(values, dtype=float)
    x = x[None] if x.ndim == 2 else x
    draws, trials = x.shape[:2]
    codes = np.arange(trials) if clusters is None else pd.factorize(np.asarray(clusters, dtype=object))[0]
    sizes = np.bincount(codes)
    value, n = statistic(x.mean((0, 1))), len(sizes)
    if n == 1:
        return Interval(value, math.nan, math.nan, trials, n)
    sums = np.eye(n)[codes].T @ x / draws  # [draw, cluster, column]
    rng = np.random.default_rng(seed)
    picked = rng.multinomial(n, np.full(n, 1 / n), resamples)
    drawn = rng.multinomial(draws, np.full(draws, 1 / draws), resamples)
    if draws == 1:
        totals = picked @ sums[0]
    else:
        totals = np.stack([p @ np.tensordot(d, sums, 1) for p, d in zip(picked, drawn, strict=True)])
    means = totals / (picked @ sizes)[:, None]
    low, high = np.quantile([statistic(mean) for mean in means], [0.025, 0.975])
    return Interval(value, float(low), float(high), trials, n)


def permutation_p(
    differences: Float[np.ndarray, " trial"], clusters: Sequence[object] | None = None, seed: int = 0
) -> float:
    """Chance of a mean paired difference at least this high if the two conditions were the same: a sign-flip test.

    Signs flip for whole clusters of trials. Up to 12 clusters all flips are counted, else 10,000 random ones.
    """
    x = np.asarray(differences, dtype=float)
    codes = np.arange(len(x)) if clusters is None else pd.factorize(np.asarray(clusters, dtype=object))[0]
    if np.isnan(x).any():
        return math.nan
    sums = np.bincount(codes, x)
    n = len(sums)
    if n <= 12:
        signs = np.array(list(itertools.product((1, -1), repeat=n)))
        return float(np.mean(signs @ sums >= sums.sum() - 1e-12))
    signs = np.random.default_rng(seed).choice((1, -1), (10_000, n))
    return float((1 + np.sum(signs @ sums >= sums.sum() - 1e-12)) / 10_001)
