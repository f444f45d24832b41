"""Attention heads by name, and the groups that share keys and values."""

from __future__ import annotations

import re
from collections.abc import Sequence
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
        match = re.fullmatch(r"L?(\d{1,18})(?:H|-)(\d{1,18})", text.strip(), re.IGNORECASE | re.ASCII)
        if match is None:
            raise ValueError(f"{text!r} names no head: write it like L16H19 or 16-19")
        return cls(int(match[1]), int(match[2]))


def kv_group(h: tuple[int, int], group_size: int) -> Head:
    """The group of query heads that share keys and values with `h`, as layer and group number."""
    return Head(h[0], h[1] // group_size)


def heads_of_group(group: tuple[int, int], group_size: int) -> list[Head]:
    """All query heads of a group."""
    return [Head(group[0], group[1] * group_size + i) for i in range(group_size)]


def check_heads(heads: Sequence[tuple[int, int]], n_layers: int, n_heads: int) -> list[Head]:
    """`heads` as `Head`s, once all of them exist in a model of this shape and none is named twice."""
    result = [Head(*h) for h in heads]
    for h in result:
        if not (0 <= h.layer < n_layers and 0 <= h.head < n_heads):
            raise ValueError(f"{h} is not a head of this model, which has {n_layers} layers of {n_heads} heads")
    if len(set(result)) != len(result):
        raise ValueError("a head is named twice: name each head once")
    return result
