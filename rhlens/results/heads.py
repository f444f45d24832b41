"""Attention heads by name, and random sets of them to compare with."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from math import comb
from typing import NamedTuple


class Head(NamedTuple):
    """One attention head; prints as `L16H19` and unpacks as `layer, head`."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head}"

    __repr__ = __str__

    @classmethod
    def parse(cls, text: str) -> Head:
        """The head that `L16H19` or `16-19` names.

        Raises:
            ValueError: it is neither form.
        """
        match = re.fullmatch(r"L?(\d+)(?:H|-)(\d+)", text.strip(), re.IGNORECASE | re.ASCII)
        if match is None:
            raise ValueError(f"{text!r} names no head: write it like L16H19 or 16-19")
        return cls(int(match[1]), int(match[2]))


def random_control_sets(
    exclude: Iterable[tuple[int, int]], n_layers: int, n_heads: int, k: int, draws: int, seed: int = 0
) -> list[list[Head]]:
    """`draws` random sets of `k` heads, each disjoint from `exclude` (the retrieval heads): the paper's control.

    The reference code draws from all heads, retrieval heads included; here a control can refute. For one draw the set
    of a smaller `k` is the beginning of the set of a larger one, so that a dose curve follows the same heads.

    Raises:
        ValueError: the heads that remain do not make `draws` different sets.
    """
    barred = {Head(*h) for h in exclude}
    pool = [Head(layer, head) for layer in range(n_layers) for head in range(n_heads) if (layer, head) not in barred]
    if k > 0 and comb(len(pool), k) < draws:
        raise ValueError(
            f"only {len(pool)} heads are left outside the ablated ones, too few for {draws} different control sets of "
            f"{k}: lower k"
        )
    return [random.Random(f"control:{seed}:{draw}").sample(pool, len(pool))[:k] for draw in range(draws)]


def check_heads(heads: Sequence[tuple[int, int]], n_layers: int, n_heads: int) -> list[Head]:
    """`heads` as `Head`s, once all of them exist in a model of this shape and none is named twice."""
    result = [Head(*h) for h in heads]
    for h in result:
        if not (0 <= h.layer < n_layers and 0 <= h.head < n_heads):
            raise ValueError(f"{h} is not a head of this model, which has {n_layers} layers of {n_heads} heads")
    if len(set(result)) != len(result):
        raise ValueError("a head is named twice: name each head once")
    return result
