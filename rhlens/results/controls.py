"""Sets of heads to compare the retrieval heads with: as many others, drawn so that they could refute."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from math import comb
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from rhlens.results.heads import Head

Control = Literal["random", "layer-matched", "score-bottom"]
"""`random`: any other heads; `layer-matched`: others of the same layers; `score-bottom`: the lowest scores."""


class TooFewHeadsError(ValueError):
    """A control cannot be drawn: not enough heads are left outside the retrieval heads."""


def check_control(control: str) -> None:
    """Raise ValueError unless `control` is one."""
    if control not in get_args(Control):
        raise ValueError(f"control must be one of {', '.join(get_args(Control))}, not {control!r}")


def control_sets(
    control: Control,
    top: Sequence[Head],
    exclude: Iterable[tuple[int, int]],
    shape: tuple[int, int],
    draws: int,
    seed: int = 0,
    scores: Float[np.ndarray, "layer head"] | None = None,
) -> list[list[Head]]:
    """`draws` sets of as many heads as `top`, each disjoint from `exclude` (the retrieval heads).

    For one draw the set of a smaller `k` is the beginning of the set of a larger one, so that a dose curve follows
    the same heads. The reference code draws from all heads, retrieval heads included; here a control can refute.

    Args:
        shape: layers, and heads of each.
        scores: mean retrieval scores, for `score-bottom`; ties are broken at random.

    Raises:
        TooFewHeadsError: too few other heads.
        ValueError: no scores.
    """
    check_control(control)
    barred = {Head(*h) for h in exclude}
    pool = [Head(layer, head) for layer in range(shape[0]) for head in range(shape[1]) if (layer, head) not in barred]
    rngs = [random.Random(f"control:{seed}:{draw}") for draw in range(draws)]
    if control == "layer-matched":
        return [_of_the_same_layers(top, pool, rng) for rng in rngs]
    if len(top) > 0 and comb(len(pool), len(top)) < (draws if control == "random" else 1):
        raise TooFewHeadsError(
            f"only {len(pool)} heads are left outside the ablated ones, too few for {draws} different control sets of "
            f"{len(top)}: lower k"
        )
    shuffled = [rng.sample(pool, len(pool)) for rng in rngs]
    if control == "score-bottom":
        if scores is None:
            raise ValueError("the control 'score-bottom' needs scores: give HeadScores instead of a list of heads")
        shuffled = [sorted(heads, key=scores.__getitem__) for heads in shuffled]
    return [heads[: len(top)] for heads in shuffled]


def _of_the_same_layers(top: Sequence[Head], pool: Sequence[Head], rng: random.Random) -> list[Head]:
    """For each head another one of its layer; small layers give few different sets."""
    left = {layer: rng.sample(heads, len(heads)) for layer, heads in _by_layer(pool).items()}
    chosen = []
    for h in top:
        if not left.get(h.layer):
            raise TooFewHeadsError(
                f"layer {h.layer} has too few heads outside the retrieval heads to match the ablated ones: lower k, or "
                "use control='random'"
            )
        chosen.append(left[h.layer].pop())
    return chosen


def _by_layer(heads: Iterable[Head]) -> dict[int, list[Head]]:
    layers: dict[int, list[Head]] = {}
    for h in heads:
        layers.setdefault(h.layer, []).append(h)
    return layers
