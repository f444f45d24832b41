"""Attention of the twin: SDPA while prompts are read; explicit, over prefixes that rows share, while they go on.

Transformers hands every attention layer to the function that is registered here, whatever the architecture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

from rhlens.model.ablation import ATTENTION_METHODS
from rhlens.model.caches import SuffixLayer, cache_of, places_in

if TYPE_CHECKING:
    from rhlens.model.ablation import Edits
    from rhlens.model.hooks import HeadReader

NAME = "rhlens"

Queries = Float[Tensor, "row head query d_head"]
Keys = Float[Tensor, "row kv_head key d_head"]


@dataclass
class Shared:
    """Rows that go on from cached prompts, several from one: the prompts' keys and values are never copied.

    Attributes:
        cache: keys and values of the prompts.
        reads: of each row, its prompt.
        edits: attention to replace, if any.
        reader: is shown every pattern.
    """

    cache: DynamicCache
    reads: Sequence[int]
    edits: Edits | None = None
    reader: HeadReader | None = None

    def __post_init__(self) -> None:
        self._edited = self.edits.layers(*ATTENTION_METHODS) if self.edits else []

    def suffixes(self) -> DynamicCache:
        """An empty cache for what the rows go on with."""
        layers: list[Any] = self.cache.layers
        return cache_of([SuffixLayer(layer.keys.shape[2]) for layer in layers])

    def values(self, layer: int, row: int) -> Float[Tensor, "kv_head key d_head"]:
        """A row's value vectors in the prompt."""
        prompt: Any = self.cache.layers[layer]
        return prompt.values[places_in(prompt.values, self.reads)[row]]

    @contextmanager
    def acting(self) -> Iterator[None]:
        """The twin attends to the prompts too, while inside."""
        token = _SHARED.set(self)
        try:
            yield
        finally:
            _SHARED.reset(token)

    def attend(
        self, query: Queries, key: Keys, value: Keys, mask: Bool[Tensor, "#row 1 query key"] | None,
        scaling: float, layer: int,
    ) -> Queries:  # fmt: skip
        """Outputs of attention over prompt and suffix."""
        edited = self.edits is not None and layer in self._edited
        on_cpu = query.device.type == "cpu" and query.shape[-1] == value.shape[-1]
        if self.reader is None and not edited and mask is None and on_cpu:
            return self._unseen(query, key, value, scaling, layer)
        prompt: Any = self.cache.layers[layer]
        n_rows, n_heads, n_queries, d_head = query.shape
        n_prompt, n_kv = prompt.keys.shape[2], key.shape[1]
        grouped = query.reshape(n_rows, n_kv, -1, d_head)  # query heads of one key-value head side by side
        scores = query.new_empty(n_rows, n_kv, grouped.shape[2], n_prompt + key.shape[2])
        self._each_prompt(grouped, prompt.keys.transpose(-1, -2), scores[..., :n_prompt])
        scores[..., n_prompt:] = grouped @ key.transpose(-1, -2)
        scores = scores.mul_(scaling).view(n_rows, n_heads, n_queries, -1)
        if mask is not None:
            scores.masked_fill_(~mask[..., : scores.shape[-1]], torch.finfo(scores.dtype).min)
        elif n_queries > 1:
            scores[..., -n_queries:].masked_fill_(_hidden(query), torch.finfo(scores.dtype).min)
        if self.edits is not None and edited:
            scores = self.edits.scores(scores, layer)
        pattern = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
        if self.reader is not None:
            self.reader.see(pattern, layer)
        pattern = pattern.view(n_rows, n_kv, -1, pattern.shape[-1])
        out = value.new_empty(*grouped.shape[:-1], value.shape[-1])
        self._each_prompt(pattern[..., :n_prompt], prompt.values, out)
        out += pattern[..., n_prompt:] @ value
        return out.view(n_rows, n_heads, n_queries, -1)

    def _unseen(self, query: Queries, key: Keys, value: Keys, scaling: float, layer: int) -> Queries:
        """`attend` where nobody looks at the weights: those of the prompt are never held."""
        prompt: Any = self.cache.layers[layer]
        n_rows, n_heads, n_queries, d_head = query.shape
        grouped = query.reshape(n_rows, key.shape[1], -1, d_head)
        past, past_weight = torch.empty_like(grouped), query.new_empty(grouped.shape[:-1], dtype=torch.float32)
        reads = places_in(prompt.keys, self.reads)
        for of_prompt in dict.fromkeys(reads):
            rows = [row for row, read in enumerate(reads) if read == of_prompt]
            together = grouped[rows].transpose(0, 1).flatten(1, 2)[None]  # [1, kv_head, row query, d_head]
            states = (x[of_prompt : of_prompt + 1] for x in (prompt.keys, prompt.values))
            for whole, found in zip(
                (past, past_weight), _flash(together, *states, 0.0, False, scale=scaling), strict=True
            ):
                whole[rows] = found[0].unflatten(1, (len(rows), -1)).transpose(0, 1)
        scores = (grouped @ key.transpose(-1, -2) * scaling).view(n_rows, n_heads, n_queries, -1).float()
        scores[..., -n_queries:].masked_fill_(_hidden(query), torch.finfo(scores.dtype).min)
        scores = scores.view(*grouped.shape[:-1], -1)
        share = torch.sigmoid(past_weight - scores.logsumexp(-1))[..., None].to(query.dtype)
        own = scores.softmax(-1).to(value.dtype) @ value
        return torch.lerp(own, past, share).view(n_rows, n_heads, n_queries, -1)

    def _each_prompt(
        self, left: Float[Tensor, "row kv_head m k"], right: Float[Tensor, "prompt kv_head k n"], out: Tensor
    ) -> None:
        """`left @ right` into `out`, each row with its own prompt; rows of one prompt share one product."""
        reads = places_in(right, self.reads)
        if reads == list(range(right.shape[0])):
            out.copy_(left @ right)
            return
        for prompt in dict.fromkeys(reads):
            rows = [row for row, read in enumerate(reads) if read == prompt]
            alone = len(rows) == len(reads)
            together = (left if alone else left[rows]).transpose(0, 1).flatten(1, 2)  # [kv_head, row m, k]
            product = (together @ right[prompt]).unflatten(1, (len(rows), -1)).transpose(0, 1)
            if alone:
                out.copy_(product)
            else:
                out[rows] = product


def _hidden(query: Queries) -> Bool[Tensor, "query key"]:
    """Keys of later queries."""
    return torch.ones(query.shape[2], query.shape[2], dtype=torch.bool, device=query.device).triu(1)


_SHARED: ContextVar[Shared | None] = ContextVar("shared", default=None)
_ONLY_KEYS: ContextVar[int | None] = ContextVar("only_keys", default=None)


@contextmanager
def only_keys_of(layer: int) -> Iterator[None]:
    """This layer attends from the last position alone, while inside: its output is all positions' output."""
    token = _ONLY_KEYS.set(layer)
    try:
        yield
    finally:
        _ONLY_KEYS.reset(token)


def attention(
    module: nn.Module, query: Queries, key: Keys, value: Keys, attention_mask: Tensor | None,
    scaling: float | None = None, **options: Any,
) -> tuple[Float[Tensor, "row query head d_head"], None]:  # fmt: skip
    """What transformers calls instead of its own attention."""
    shared, layer = _SHARED.get(), module.layer_idx
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if shared is not None:
        return shared.attend(query, key, value, attention_mask, scale, int(layer)).transpose(1, 2).contiguous(), None  # pyright: ignore[reportArgumentType]
    n_queries, n_past = query.shape[2], key.shape[2] - query.shape[2]
    if layer == _ONLY_KEYS.get() and n_queries > 1:
        last = attention_mask if attention_mask is None else attention_mask[:, :, -1:]
        out, _ = attention(module, query[:, :, -1:], key, value, last, scaling, **options)
        return out.expand(-1, n_queries, -1, -1), None
    if attention_mask is None and n_past > 0 and n_queries > 1:
        return _with_past(query, key, value, scale, n_past).transpose(1, 2).contiguous(), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)


def _with_past(query: Queries, key: Keys, value: Keys, scale: float, n_past: int) -> Queries:
    """Causal attention of the last tokens: to all of the past, without a mask, and to themselves, joined by weight.

    SDPA's own causal mode is for queries and keys of one length; with a mask it takes twice as long on a CPU.
    """
    n_rows, n_heads, n_queries, _ = query.shape
    groups = n_heads // key.shape[1]
    grouped = query.reshape(n_rows, key.shape[1], groups * n_queries, -1)
    past, weight = _flash(grouped, key[:, :, :n_past], value[:, :, :n_past], 0.0, False, scale=scale)
    own = [repeat_kv(x[:, :, n_past:], groups) for x in (key, value)]
    out, own_weight = _flash(query, *own, 0.0, True, scale=scale)
    share = torch.sigmoid(weight.reshape(own_weight.shape) - own_weight)[..., None]
    return torch.lerp(out, past.reshape(out.shape), share.to(out.dtype))


def _flash(*args: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """Attention and the logarithm of each row's softmax sum."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args, **options)


def mask(*args: Any, **options: Any) -> Tensor | None:
    """No mask where the function above needs none: plain causal attention, on a CPU."""
    plain = options.get("mask_function", causal_mask_function) is causal_mask_function
    if plain and options.get("attention_mask") is None and str(options.get("device", "cpu")) == "cpu":
        return None
    return sdpa_mask(*args, **options)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, mask)
