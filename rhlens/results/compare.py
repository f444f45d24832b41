"""Two score maps of one shape: how alike they are, against what chance would give."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from rhlens.results.heads import Head
from rhlens.results.scores import HeadScores
from rhlens.results.stats import Interval

RESAMPLES = 1000


class Comparison(NamedTuple):
    """How alike two score maps are.

    Attributes:
        pearson: correlation over heads, with its 95 % interval over both models' needles (or trials).
        spearman: rank correlation over heads.
        overlap: share of the top k heads that both have.
        k: how many heads `overlap` is of.
        chance: the correlation that 95 % of random pairings of heads stay below.
        p: chance of a correlation this high if heads were paired at random.
    """

    pearson: Interval
    spearman: float
    overlap: float
    k: int
    chance: float
    p: float


def compare(a: HeadScores, b: HeadScores, k: int | None = None, seed: int = 0) -> Comparison:
    """Compare two score maps head by head.

    Args:
        k: heads for the overlap; None takes as many as the first one's retrieval heads.

    Raises:
        ValueError: the maps are of different shapes, or one of them is constant.
    """
    if (a.n_layers, a.n_heads) != (b.n_layers, b.n_heads):
        raise ValueError(
            f"score maps of {a.n_layers} x {a.n_heads} and {b.n_layers} x {b.n_heads} heads cannot be compared head by "
            "head: take models of one shape"
        )
    one, two = a.mean().ravel(), b.mean().ravel()
    if np.ptp(one) == 0 or np.ptp(two) == 0:
        raise ValueError("all heads of one of the models score the same, so there is nothing to correlate")
    rng = np.random.default_rng(seed)
    k = k or max(1, len(a.retrieval_heads()))
    shared = {Head(*h) for h in a.top(k)} & {Head(*h) for h in b.top(k)}
    r = _correlation(one, two)
    null = np.array([_correlation(one, rng.permutation(two)) for _ in range(RESAMPLES)])
    drawn = [_correlation(_resampled(a, rng), _resampled(b, rng)) for _ in range(RESAMPLES)]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    interval = Interval(r, float(low), float(high), min(a.n_trials, b.n_trials))
    ranks = [pd.Series(x).rank().to_numpy() for x in (one, two)]
    p = float((1 + np.sum(null >= r)) / (1 + RESAMPLES))
    return Comparison(interval, _correlation(*ranks), len(shared) / k, k, float(np.quantile(null, 0.95)), p)


def _correlation(x: Float[np.ndarray, " head"], y: Float[np.ndarray, " head"]) -> float:
    return float(np.corrcoef(x, y)[0, 1]) if np.ptp(x) > 0 and np.ptp(y) > 0 else float("nan")


def _resampled(scores: HeadScores, rng: np.random.Generator) -> Float[np.ndarray, " head"]:
    """The mean map of needles (or trials) drawn anew."""
    codes, known = pd.factorize(np.asarray(scores.needles, dtype=object))
    weights = np.bincount(rng.integers(0, len(known), len(known)), minlength=len(known))[codes]
    return np.average(scores.values.reshape(len(codes), -1), axis=0, weights=weights)
