"""How well a number foretells a yes or no: areas under the ROC curve, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from rhlens.results.stats import Interval, constant_width

RESAMPLES = 1000


def auroc(
    positive: Bool[np.ndarray, " trial"],
    values: Float[np.ndarray, " trial"] | Float[np.ndarray, "draw trial"],
    clusters: Sequence[object] | None = None,
    minus: Float[np.ndarray, " trial"] | Float[np.ndarray, "draw trial"] | None = None,
    seed: int = 0,
) -> Interval:
    """Chance that a positive trial has the higher value of two, ties counting half: the area under the ROC curve.

    .5 is what a coin says. The 95 % percentile bootstrap interval resamples whole clusters of trials, and draws.

    Args:
        values: of several draws, the area is averaged.
        clusters: what makes trials alike (their needle), one label a trial; None takes every trial for itself.
        minus: other values, whose area is taken off in every resample: is one a better sign than the other?

    Returns:
        The area with its interval: nan where all trials are positive, or none is; the interval alone where one cluster
        is all there is. Values that tell perfectly do so in every resample: the interval is then as wide as that of a
        share of 0 or 1 of as many clusters as have a trial of the rarer kind.

    Raises:
        ValueError: as many values are needed as trials.
    """
    positive = np.asarray(positive, dtype=bool)
    codes = np.arange(len(positive)) if clusters is None else pd.factorize(np.asarray(clusters, dtype=object))[0]
    n = int(codes.max(initial=-1)) + 1
    of_each = [_wins(positive, np.atleast_2d(x), codes) for x in (values, minus) if x is not None]
    if not 0 < positive.sum() < len(positive):
        return Interval(np.nan, np.nan, np.nan, len(positive), n)
    counts = [np.bincount(codes[side], minlength=n) for side in (positive, ~positive)]
    rng = np.random.default_rng(seed)
    picked = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(float)
    pairs = (picked @ counts[0]) * (picked @ counts[1])
    found, drawn = 0.0, np.zeros(RESAMPLES)
    for sign, wins in zip((1, -1), of_each, strict=False):
        draws = len(wins)
        found += sign * wins.sum() / (draws * counts[0].sum() * counts[1].sum())
        weights = rng.multinomial(draws, np.full(draws, 1 / draws), RESAMPLES) / draws
        each = np.stack([((picked @ of_draw) * picked).sum(1) for of_draw in wins], axis=1)
        drawn += sign * (weights * each).sum(1) / np.where(pairs > 0, pairs, np.nan)
    low, high = np.nanquantile(drawn, [0.025, 0.975]) if n > 1 else (np.nan, np.nan)
    if minus is None and found in (0, 1):
        width = constant_width(min(int((side > 0).sum()) for side in counts))
        low, high = max(0.0, found - width), min(1.0, found + width)
    return Interval(float(found), float(low), float(high), len(positive), n)


def _wins(
    positive: Bool[np.ndarray, " trial"], values: Float[np.ndarray, "draw trial"], codes: np.ndarray
) -> Float[np.ndarray, "draw cluster cluster"]:
    """How often positives of one cluster are above others of another one."""
    if values.shape[1] != len(positive):
        raise ValueError(f"{values.shape[1]} values for {len(positive)} trials: give one a trial")
    members = np.eye(codes.max(initial=-1) + 1)[codes]
    won = [(x[positive, None] > x[None, ~positive]) + 0.5 * (x[positive, None] == x[None, ~positive]) for x in values]
    return np.stack([members[positive].T @ w @ members[~positive] for w in won])
