"""What other projects publish of heads that is no score per trial: values of key-value heads, and ranked lists.

Neither can be a `HeadScores`. Those are scores of query heads on trials, and what is computed from them (activation
frequency, intervals, heads from 0.1 on) would be made up for a table without trials or a list without scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np
import pandas as pd
from jaxtyping import Float

from rhlens.results.heads import Head
from rhlens.results.html import head_map, result_html
from rhlens.results.scores import SHOWN, HeadScores

LARGEST = 2**14
"""Heads of the largest map that is drawn for a list: more than any model has."""


@dataclass(frozen=True, eq=False)
class KVHeadScores:
    """One value a key-value head, without trials: DuoAttention's gates, or our best query head of each group.

    Attributes:
        values: near 1 where DuoAttention keeps the whole cache, near 0 where a window is enough.
    """

    values: Float[np.ndarray, "layer kv_head"] = field(repr=False)
    model: str = ""

    @property
    def n_layers(self) -> int:
        return self.values.shape[0]

    @property
    def n_kv_heads(self) -> int:
        """Key-value heads of a layer; how many query heads share each is not known."""
        return self.values.shape[1]

    def top(self, k: int = 10) -> list[Head]:
        """The `k` key-value heads with the highest values, numbered as such; ties in layer and head order."""
        if k < 0:
            raise ValueError(f"k must be 0 or more, not {k}")
        order = np.argsort(-self.values, axis=None, kind="stable")[:k]
        return [Head(*divmod(int(i), self.n_kv_heads)) for i in order]

    def __repr__(self) -> str:
        return f"KVHeadScores({self.model or 'model'}: {self.n_layers} x {self.n_kv_heads} key-value heads)"

    def _repr_html_(self) -> str:
        rows = [{"name": str(h), "layer": h.layer, "kv_head": h.head, "value": self.values[h]} for h in self.top(SHOWN)]
        return result_html(self, pd.DataFrame(rows), head_map(self.values, "value", "KV"))


@dataclass(frozen=True)
class HeadList(Sequence[Head]):
    """Query heads in order of importance, without scores (QRHead); goes wherever a list of heads does."""

    heads: tuple[Head, ...]
    model: str = ""

    def top(self, k: int = 10) -> list[Head]:
        """The first `k` heads."""
        if k < 0:
            raise ValueError(f"k must be 0 or more, not {k}")
        return list(self.heads[:k])

    def __len__(self) -> int:
        return len(self.heads)

    @overload
    def __getitem__(self, index: int) -> Head: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Head, ...]: ...
    def __getitem__(self, index: int | slice) -> Head | tuple[Head, ...]:
        return self.heads[index]

    def __repr__(self) -> str:
        first = ", ".join(map(str, self.heads[:3]))
        return f"HeadList({self.model or 'model'}: {len(self)} heads; {first}{', ...' if len(self) > 3 else ''})"

    def _repr_html_(self) -> str:
        rows = [{"rank": i, "name": str(h), "layer": h.layer, "head": h.head} for i, h in enumerate(self.top(SHOWN), 1)]
        layers, heads = np.max([*self.heads, (-1, -1)], axis=0) + 1
        if layers * heads > LARGEST:  # a file may name any head
            return result_html(self, pd.DataFrame(rows))
        ranks = np.full((layers, heads), np.nan)
        for i, h in enumerate(self.heads):
            ranks[h] = len(self) - i
        return result_html(self, pd.DataFrame(rows), head_map(ranks, "listed heads, first ones deepest"))


Ranking = HeadScores | KVHeadScores | HeadList
"""Whatever a file may say of heads."""
