"""What a value that varies over trials varies with: permutation tests, and shares of variance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

PERMUTATIONS = 10_000
_CHUNK = 1000


def association(
    values: Float[np.ndarray, "row column"],
    labels: Sequence[object],
    blocks: Sequence[object] | None = None,
    shift: bool = False,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> tuple[Float[np.ndarray, " column"], Float[np.ndarray, " column"]]:
    """How much each column's values differ between labels, and how rarely chance does as much.

    Labels are permuted within blocks only: what differs between blocks is no evidence, and takes no part.

    Args:
        blocks: rows that could have changed places if labels did not matter; None takes all for one block.
        shift: rotate the labels of a block instead of shuffling them, so that neighbours stay neighbours.

    Returns:
        Eta squared, the share (0..1) of the variance inside blocks that is between labels (0 where nothing varies), and
        the permutation p-value.
    """
    x, codes = np.asarray(values, dtype=float), _codes(labels)
    block = np.zeros(len(x), dtype=int) if blocks is None else _codes(blocks)
    x = x - (_sums(block, x) / np.bincount(block)[:, None])[block]
    total = (x**2).sum(0)
    rng, found = np.random.default_rng(seed), _between(x, codes[None])[0]
    exceeded = np.zeros(x.shape[1], dtype=int)
    for start in range(0, permutations, _CHUNK):
        drawn = _permuted(codes, block, min(_CHUNK, permutations - start), shift, rng)
        exceeded += (_between(x, drawn) >= found - 1e-9 * total).sum(0)
    return found / np.where(total > 0, total, 1), (1 + exceeded) / (1 + permutations)


def holm(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """p-values adjusted for how many there are, so that below .05 all are right at once with 95 % (Holm)."""
    p = np.asarray(p, dtype=float)
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(np.sort(p) * np.arange(len(p), 0, -1))
    return np.minimum(1, adjusted)[np.argsort(order, kind="stable")]


def variance_shares(
    values: Float[np.ndarray, "trial column"], factors: Mapping[str, Sequence[object]]
) -> Float[np.ndarray, "factor_and_residual column"]:
    """Share (0..1) of each column's variance that goes with each factor, in their order, and last what no one explains.

    Variance components of an additive model of crossed factors, by the mean squares of an analysis of variance: what
    chance alone would put between the levels of a factor is taken off, so that many levels gain nothing. The residual
    holds interactions and noise. All nan where a column does not vary.

    Raises:
        ValueError: not every combination of levels stands equally often, or nothing is left for the residual.
    """
    x = np.asarray(values, dtype=float)
    codes = {name: _codes(labels) for name, labels in factors.items()}
    cells = pd.DataFrame(codes).value_counts()
    if len(cells) != np.prod([c.max() + 1 for c in codes.values()]) or cells.nunique() > 1:
        raise ValueError(
            f"the variance cannot be divided over {', '.join(factors)}: every combination must have been asked "
            "equally often (and count: use protocol='paper')"
        )
    x = x - x.mean(0)
    left, freedom, squares = (x**2).sum(0), len(x) - 1, []
    for c in codes.values():
        between, levels = _between(x, c[None])[0], c.max() + 1
        left, freedom = left - between, freedom - (levels - 1)
        squares.append((between / max(1, levels - 1), len(x) / levels, levels))
    if freedom < 1:
        raise ValueError("one factor alone tells these trials apart, so nothing is left: ask at more depths or lengths")
    residual = np.maximum(0, left / freedom)
    parts = [
        np.maximum(0, mean_square - residual) / per_level if levels > 1 else np.zeros(x.shape[1])
        for mean_square, per_level, levels in squares
    ]
    parts = np.stack([*parts, residual])
    varies = (x**2).sum(0) > 1e-12
    return np.where(varies, parts / np.where(varies, parts.sum(0), 1), np.nan)


def _codes(labels: Sequence[object]) -> Int[np.ndarray, " row"]:
    return pd.factorize(pd.Series(list(labels), dtype=object))[0]  # a list of tuples is no array of them


def _sums(codes: Int[np.ndarray, " row"], x: Float[np.ndarray, "row column"]) -> Float[np.ndarray, "code column"]:
    sums = np.zeros((codes.max() + 1, x.shape[1]))
    np.add.at(sums, codes, x)
    return sums


def _between(
    x: Float[np.ndarray, "row column"], labels: Int[np.ndarray, "draw row"]
) -> Float[np.ndarray, "draw column"]:
    """Sum of squares between labels, of columns whose mean is 0."""
    counts = np.bincount(labels[0])
    return sum(((labels == c) @ x) ** 2 / n for c, n in enumerate(counts))  # pyright: ignore[reportReturnType]


def _permuted(
    codes: Int[np.ndarray, " row"], block: Int[np.ndarray, " row"], draws: int, shift: bool, rng: np.random.Generator
) -> Int[np.ndarray, "draw row"]:
    """`codes` shuffled, or rotated, within blocks."""
    if not shift:
        home = np.argsort(block, kind="stable")
        order = np.argsort(block + rng.random((draws, len(block))), axis=1)
        drawn = np.empty_like(order)
        drawn[:, home] = codes[order]
        return drawn
    drawn = np.empty((draws, len(codes)), dtype=int)
    for rows in (np.flatnonzero(block == b) for b in range(block.max() + 1)):
        turn = rng.integers(0, len(rows), (draws, 1))
        drawn[:, rows] = codes[rows][(np.arange(len(rows)) + turn) % len(rows)]
    return drawn
