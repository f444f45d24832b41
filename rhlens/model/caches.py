"""Layers of KV caches: of a prompt, in memory that is reserved once, and of what follows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

States = Float[Tensor, "row kv_head pos d_head"]


class PromptLayer(DynamicLayer):
    """Keys and values of a prompt of known length: nothing is copied as it is read, or when its end is read anew."""

    def __init__(self, n_positions: int) -> None:
        super().__init__()
        self._n_positions = n_positions
        self._buffers: tuple[States, ...] = ()

    def update(self, key_states: States, value_states: States, *args: Any, **kwargs: Any) -> tuple[States, States]:
        start = self.get_seq_length()
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers = tuple(self._reserved(x) for x in (key_states, value_states))
        end = start + key_states.shape[2]
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = new
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values

    def _reserved(self, like: States) -> States:
        return like.new_empty(*like.shape[:2], self._n_positions, like.shape[3])

    def cut(self, n_kept: int, n_positions: int, n_rows: int | None = None) -> PromptLayer:
        """A layer that goes on from the first `n_kept` positions, in the same memory if it is enough.

        Args:
            n_rows: so many rows that all go on from the last one; None lets each go on from itself.
        """
        kept = [buffer[:, :, :n_kept] for buffer in self._buffers]
        same_rows = n_rows is None or n_rows == kept[0].shape[0] == 1
        if same_rows and n_positions <= self._n_positions:
            self.keys, self.values = kept
            return self
        layer = PromptLayer(n_positions)
        if n_kept:
            layer.update(*(x if n_rows is None else x[-1:].expand(n_rows, -1, -1, -1) for x in kept))
        return layer


class SuffixLayer(DynamicLayer):
    """Keys and values of what follows a prefix that is kept elsewhere."""

    def __init__(self, n_before: int) -> None:
        super().__init__()
        self.n_before = n_before

    def get_seq_length(self) -> int:
        return self.n_before + super().get_seq_length()


def cut_all(layers: list[PromptLayer], n_kept: int, n_positions: int, n_rows: int | None = None) -> list[PromptLayer]:
    """Every layer, `cut`; the list is emptied, so that the old ones go, one by one, as the new ones come."""
    found: list[PromptLayer] = []
    while layers:
        found.append(layers.pop(0).cut(n_kept, n_positions, n_rows))
    return found


def cache_of(layers: Sequence[DynamicLayer]) -> DynamicCache:
    """A cache of these layers."""
    # No config: with one, sliding layers keep only their window and key positions stop being absolute.
    cache: Any = DynamicCache()
    cache.layers = list(layers)
    return cache


def places_in(states: States, rows: Sequence[int]) -> list[int]:
    """Where these rows are in a layer's keys or values: all at 0 where one row stands for all, below every ablation."""
    return list(rows) if len(states) > 1 else [0] * len(rows)


def picked(cache: DynamicCache, rows: Sequence[int], n_less: int = 0) -> DynamicCache:
    """Some rows of a cache without their last `n_less` positions; as it grows, it leaves the other one as it is."""
    layers: list[Any] = []
    found: Any
    for found in cache.layers:
        keys, values = found.keys, found.values
        if (places := places_in(keys, rows)) != list(range(keys.shape[0])):
            index = torch.tensor(places, device=keys.device)
            keys, values = keys[index], values[index]
        layer = SuffixLayer(found.n_before) if isinstance(found, SuffixLayer) else DynamicLayer()
        layer.lazy_initialization(keys, values)
        end = keys.shape[2] - n_less
        layer.keys, layer.values = keys[:, :, :end], values[:, :, :end]
        layers.append(layer)
    return cache_of(layers)
