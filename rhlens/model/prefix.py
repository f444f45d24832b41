"""A prompt in a KV cache, from which any number of conditions go on."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import DynamicCache

from rhlens.model.ablation import Ablation, HeadOutputs


class Prefix:
    """Equally long prompts but for their last token, in a KV cache, each read under its own ablation (or none).

    Attributes:
        tokens: the whole prompts.
        n_asked: the first so many rows are to be answered; the others only give their outputs to resampled heads.
        ablations: one a row; none on a clean prefix.
        outputs: what the attention output projections received at one position while the prompts were read.
        first_step: the same at the last token of the prompts, once a clean prefix was asked for it.
        origin: the clean prefix that this one is `rows` of, to be compared with.
    """

    def __init__(
        self,
        cache: DynamicCache,
        tokens: Int[Tensor, "row pos"],
        outputs: HeadOutputs,
        ablations: Sequence[Ablation] = (),
        origin: Prefix | None = None,
        rows: Sequence[int] = (),
        donors: Sequence[int] | None = None,
        means: Tensor | None = None,
    ) -> None:
        self.cache, self.tokens, self.outputs = cache, tokens, outputs
        self.ablations, self.means = tuple(ablations), means
        self.origin, self.rows, self.donors = origin, list(rows), donors
        self.first_step: HeadOutputs | None = None

    @property
    def n_asked(self) -> int:
        return self.tokens.shape[0] // (2 if self.donors else 1)

    @property
    def length(self) -> int:
        """Tokens of each prompt, the last one included."""
        return self.tokens.shape[1]

    @property
    def last(self) -> Int[Tensor, "row 1"]:
        return self.tokens[:, -1:]

    def fork(self, rows: Sequence[int] | None = None) -> DynamicCache:
        """A cache that can grow on its own, with the same keys and values (an update makes new ones) or picked rows."""
        fork = copy.copy(self.cache)
        fork.layers = [copy.copy(layer) for layer in self.cache.layers]
        if rows is not None and list(rows) != list(range(self.tokens.shape[0])):
            index = torch.tensor(rows, device=self.tokens.device)
            layers: list[Any] = fork.layers  # of attention: the engine takes no others
            for layer in layers:
                layer.keys, layer.values = layer.keys[index], layer.values[index]
        return fork
