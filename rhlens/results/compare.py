"""How alike two score maps are, against what chance would give; of heads, or of groups that share keys and values."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from rhlens.results.head_tables import HeadList, KVHeadScores, Ranking
from rhlens.results.heads import check_heads
from rhlens.results.html import result_html
from rhlens.results.scores import RETRIEVAL_THRESHOLD, HeadScores
from rhlens.results.stats import Interval

RESAMPLES = 1000
FULL_CACHE = 0.5
"""The gate from which on the whole cache weighs more than a window in DuoAttention's training."""
_UNKNOWN = math.nan
_Map = Float[np.ndarray, " head"]


class Comparison(NamedTuple):
    """How alike two score maps are.

    Attributes:
        pearson: correlation over heads, with its 95 % interval over both models' needles (or trials); nan where
            neither has trials, or one has no scores.
        spearman: rank correlation over heads; nan where one has no scores.
        overlap: share of the top k heads that both have; the mean over all ways to break ties for the last of the k.
        k: how many heads `overlap` is of.
        chance: the correlation that 95 % of random pairings of heads stay below; nan without scores.
        p: chance of a correlation this high if heads were paired at random; nan without scores.
        expected: the overlap of random heads; nan where neither says how many heads there are.
        unit: what was compared: query heads, or key-value heads.
    """

    pearson: Interval
    spearman: float
    overlap: float
    k: int
    chance: float
    p: float
    expected: float = _UNKNOWN
    unit: str = "query head"

    def _repr_html_(self) -> str:
        about = f"Comparison of {self.unit}s: the top {self.k} share {self.overlap:.0%}"
        names = ("spearman", "overlap", "chance", "p", "expected")
        rows = [{"statistic": "pearson", **self.pearson._asdict()}]
        rows += [{"statistic": name, "value": getattr(self, name)} for name in names]
        return result_html(about, pd.DataFrame(rows, columns=["statistic", "value", "low", "high"]))


def compare(a: Ranking, b: Ranking, k: int | None = None, seed: int = 0) -> Comparison:
    """Compare two score maps head by head.

    Against a table of key-value heads, query heads are pooled: each key-value head is given the best of the query heads
    that share it. Against a list of heads without scores, only the overlap is known.

    Args:
        k: heads for the overlap; None takes as many as the first one's retrieval heads (where only the second has
            trials, the second's; where neither has, as many as the first's gates of .5 or more), or the whole list.

    Raises:
        ValueError: the maps are of different shapes, one of them is constant, or there are not `k` heads.
    """
    if isinstance(a, HeadList):
        return _overlap_with_list(a, b, k)
    if isinstance(b, HeadList):
        return _overlap_with_list(b, a, k)
    width = _shared_width(a, b)
    one, two = _map(a, width), _map(b, width)
    if np.ptp(one) == 0 or np.ptp(two) == 0:
        raise ValueError("all heads of one of the models score the same, so there is nothing to correlate")
    k = _checked_k(k, _retrieving(a, b, one, two), len(one))
    rng = np.random.default_rng(seed)
    r = _correlation(one, two)
    null = np.array([_correlation(one, rng.permutation(two)) for _ in range(RESAMPLES)])
    ranks = [pd.Series(x).rank().to_numpy() for x in (one, two)]
    return Comparison(
        _interval(r, a, b, width, rng),
        _correlation(*ranks),
        float(_in_top(one, k) @ _in_top(two, k)) / k,
        k,
        float(np.quantile(null, 0.95)),
        float((1 + np.sum(null >= r)) / (1 + RESAMPLES)),
        k / len(one),
        "query head" if isinstance(a, HeadScores) and isinstance(b, HeadScores) else "key-value head",
    )


def _overlap_with_list(listed: HeadList, other: Ranking, k: int | None) -> Comparison:
    """How many of the first k heads of a list are at the top of scores, or of another list."""
    if isinstance(other, KVHeadScores):
        raise ValueError(
            "a list of query heads and a table of key-value heads cannot be compared, for neither says which query "
            "heads share keys and values: compare each with scores of query heads"
        )
    most = min(len(listed), len(other)) if isinstance(other, HeadList) else len(listed)
    k, expected = _checked_k(k, most, most), _UNKNOWN
    if isinstance(other, HeadList):
        shared = len(set(listed.top(k)) & set(other.top(k)))
    else:
        check_heads(listed, other.n_layers, other.n_heads)
        weights = _in_top(other.mean(), k)
        shared, expected = sum(float(weights[head]) for head in listed.top(k)), k / weights.size
    unknown = Interval(_UNKNOWN, _UNKNOWN, _UNKNOWN, 0)
    return Comparison(unknown, _UNKNOWN, shared / k, k, _UNKNOWN, _UNKNOWN, expected)


def _shared_width(a: HeadScores | KVHeadScores, b: HeadScores | KVHeadScores) -> int:
    """Heads of a layer that both maps can be read by: key-value heads where one of them has no others."""
    mixed = isinstance(a, HeadScores) != isinstance(b, HeadScores)
    query_first = (b, a) if mixed and isinstance(b, HeadScores) else (a, b)
    (layers, heads), (others, fewer) = (
        (x.n_layers, x.n_heads if isinstance(x, HeadScores) else x.n_kv_heads) for x in query_first
    )
    if layers == others and (heads % fewer == 0 if mixed else heads == fewer):
        return fewer
    raise ValueError(
        f"score maps of {layers} x {heads} and {others} x {fewer}{' key-value' if mixed else ''} heads cannot be "
        "compared head by head: take models of one shape"
    )


def _map(scores: HeadScores | KVHeadScores, width: int, rng: np.random.Generator | None = None) -> _Map:
    """The mean score of each head (of needles or trials drawn anew), or of the best of each of `width` groups."""
    if isinstance(scores, KVHeadScores):
        return scores.values.ravel()
    mean = scores.mean() if rng is None else _resampled(scores, rng)
    return mean.reshape(scores.n_layers, width, -1).max(-1).ravel()


def _retrieving(a: HeadScores | KVHeadScores, b: HeadScores | KVHeadScores, one: _Map, two: _Map) -> int:
    """How many heads retrieve: of the first with trials; by their gates where neither has any."""
    for scores, means in ((a, one), (b, two)):
        if isinstance(scores, HeadScores):
            return max(1, int(np.sum(means >= RETRIEVAL_THRESHOLD - 1e-9)))
    return max(1, int(np.sum(one >= FULL_CACHE)))


def _checked_k(k: int | None, usual: int, most: int) -> int:
    k = usual if k is None else k
    if not 1 <= k <= most:
        raise ValueError(f"k must be from 1 to the {most} heads there are, not {k}")
    return k


def _in_top(values: Float[np.ndarray, ...], k: int) -> Float[np.ndarray, ...]:
    """1 for each of the k highest, 0 for others; what ties for the last places shares them."""
    edge = np.sort(values, axis=None)[-k]
    above, tied = values > edge, values == edge
    return above + tied * (k - above.sum()) / tied.sum()


def _interval(
    r: float, a: HeadScores | KVHeadScores, b: HeadScores | KVHeadScores, width: int, rng: np.random.Generator
) -> Interval:
    """A correlation over heads with its 95 % interval over the needles (or trials) of those that have any."""
    known = [x for x in (a, b) if isinstance(x, HeadScores)]
    if not known:
        return Interval(r, _UNKNOWN, _UNKNOWN, 0)
    drawn = [_correlation(_map(a, width, rng), _map(b, width, rng)) for _ in range(RESAMPLES)]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    needles = min(len(set(x.needles)) for x in known)
    return Interval(r, float(low), float(high), min(x.n_trials for x in known), needles)


def _correlation(x: _Map, y: _Map) -> float:
    return float(np.corrcoef(x, y)[0, 1]) if np.ptp(x) > 0 and np.ptp(y) > 0 else _UNKNOWN


def _resampled(scores: HeadScores, rng: np.random.Generator) -> _Map:
    """The mean map of needles (or trials) drawn anew."""
    codes, known = pd.factorize(np.asarray(scores.needles, dtype=object))
    weights = np.bincount(rng.integers(0, len(known), len(known)), minlength=len(known))[codes]
    return np.average(scores.values.reshape(len(codes), -1), axis=0, weights=weights)
