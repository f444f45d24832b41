"""A prompt in a KV cache, from which any number of conditions go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Int
from torch import Tensor
from transformers import DynamicCache

from rhlens.model.ablation import Ablation, HeadOutputs
from rhlens.model.caches import PromptLayer, cache_of, picked
from rhlens.tasks.turns import Turn


class Prefix:
    """Equally long prompts but for their last token, in a KV cache, each read under its own ablation (or none).

    Attributes:
        tokens: the whole prompts, one a row.
        n_asked: the first so many rows are to be answered; the others only give their outputs to resampled heads.
        ablations: one a row; none on a clean prefix.
        outputs: what the attention output projections received at one position while the prompts were read.
        first_step: the same at the last token of the prompts, once a clean prefix was asked for it.
        origin: the clean prefix that this one is `rows` of, to be compared with.
        reads: of each row, its place in the cache.
        guesses: what rows may go on with, if somebody has an idea; only what a row itself would say is taken.
        long: prompts are read with long rotary factors, however short they are.
        turns: how what each row says is read; without any, up to the end of its first line.
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
        reads: Sequence[int] | None = None,
    ) -> None:
        self._cache, self.tokens, self.outputs = cache, tokens, outputs
        self.ablations, self.means = tuple(ablations), means
        self.origin, self.rows, self.donors = origin, list(rows), donors
        self.reads = list(range(len(tokens)) if reads is None else reads)
        self.first_step: HeadOutputs | None = None
        self.long = False
        self.guesses: list[Sequence[int]] = []
        self.turns: list[Turn] = []

    @property
    def is_cached(self) -> bool:
        return bool(self._cache.layers)

    @property
    def cache(self) -> DynamicCache:
        """Keys and values of the prompts, each once however many rows go on from it.

        Raises:
            RuntimeError: they were given up.
        """
        if not self.is_cached:
            raise RuntimeError("this prefix was given up when other prompts were read: read its prompts again")
        return self._cache

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

    def with_donors(self, asked: Sequence[int]) -> list[int]:
        """Rows that are asked, and after them the rows that give them outputs."""
        return [*asked, *(self.n_asked + row for row in asked if self.donors)]

    def fork(self, rows: Sequence[int] | None = None) -> DynamicCache:
        """A cache that can grow on its own, with the same keys and values (an update makes new ones) or picked rows."""
        return picked(self.cache, self.reads if rows is None else [self.reads[row] for row in rows])

    def give_up(self) -> list[PromptLayer]:
        """The cache's layers; the prefix holds nothing any more."""
        layers: list[Any] = self.cache.layers
        self._cache.layers = []
        return layers

    def outline(self) -> Prefix:
        """What an ablated prefix is compared with: the same without its keys and values."""
        outline = Prefix(cache_of([]), self.tokens, self.outputs)
        outline.first_step, outline.long = self.first_step, self.long
        return outline


def n_common_rows(before: Int[Tensor, "row pos"], after: Int[Tensor, "row pos"]) -> int:
    """Tokens that can stay in a cache of the prompts `before`: every row begins with them, and one is left to read."""
    n = min(before.shape[1] - 1, after.shape[1] - 2)
    differs = (before[:, :n] != after[:, :n]).any(0)
    return int(differs.int().argmax()) if differs.any() else n
