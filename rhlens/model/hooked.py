"""HookedTransformers behind what the engine asks of a TransformerBridge; here is all in which the two differ.

TransformerLens 3.9 is the last release that has them. They have no twin, so prompts are read in chunks whose attention
patterns are held: exact, and the slow way. Weights may be folded and centred as `from_pretrained` does: patterns and
answers stay the same. Where value biases are folded away (GPT-2, Qwen2), an output of zero is another ablation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import DynamicCache

Vectors = Float[Tensor, "row pos kv_head d_head"]
See = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]
"""Of a module, what went in and what came out."""


def bridge_to(model: Any) -> Any:
    """What the engine runs: a bridge as it is, a HookedTransformer as `Hooked`.

    Raises:
        TypeError: it is neither.
    """
    names = {base.__name__ for base in type(model).__mro__}  # 4.x has no HookedTransformer to import
    if "TransformerBridge" in names:
        return model
    if "HookedTransformer" in names:
        return Hooked(model)
    raise TypeError(
        "expected a TransformerBridge or HookedTransformer of TransformerLens, "
        f"not {type(model).__name__}: use rhlens.load"
    )


def projections_of(model: Any) -> list[Any]:
    """Each layer's attention output projection, below all hooks, of what `bridge_to` returned."""
    if isinstance(model, Hooked):
        return [BehindPoint(block.attn.hook_z) for block in model.blocks]
    return [block.attn.o.original_component for block in model.blocks]


class Hooked(nn.Module):
    """A HookedTransformer that runs on caches of transformers.

    Its own cache grows by copies and cannot be cut, but keys leave either one unrotated, so both give the same.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.original_model = model
        self.cfg, self.tokenizer, self.blocks = model.cfg, model.tokenizer, model.blocks
        self.hooks, self.hook_dict = model.hooks, model.hook_dict

    def forward(
        self,
        tokens: Int[Tensor, "row pos"],
        past_key_values: DynamicCache | None = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> Float[Tensor, "row kept vocab"]:
        """Logits of the last `logits_to_keep` tokens, or of all; with a cache, which then grows by `tokens`."""
        cache = None if past_key_values is None else _Cache(past_key_values, self.cfg, tokens.shape[0])
        # Without a mask, pad tokens at an end would be hidden, and EOS is often the pad token.
        logits = self.original_model(tokens, past_kv_cache=cache, attention_mask=torch.ones_like(tokens))
        self._release_tables()
        return logits[:, -logits_to_keep:]

    def _release_tables(self) -> None:
        """Rotary tables grow with the longest input; what grew in inference mode would be of no use to autograd."""
        with torch.inference_mode(False):
            for block in self.blocks:
                for name, table in block.attn.named_buffers(recurse=False):
                    if table.is_inference():
                        setattr(block.attn, name, table.clone())


class BehindPoint:
    """What passes a hook point, as a module right behind it would get it; HookedTransformers multiply without one."""

    def __init__(self, point: nn.Module) -> None:
        self._point = point

    def register_forward_hook(self, hook: See, /) -> RemovableHandle:
        """Let `hook` see what passes, after all that was registered before it."""

        def see(point: nn.Module, _: Any, z: Tensor) -> None:
            hook(point, (z.flatten(2),), z)

        return self._point.register_forward_hook(see)


class _Cache:
    """A cache of transformers with the interface of TransformerLens's."""

    def __init__(self, cache: DynamicCache, cfg: Any, n_rows: int) -> None:
        self._n_past, self._n_rows = cache.get_seq_length(), n_rows
        shape = n_rows, self._n_past, cfg.n_key_value_heads or cfg.n_heads, cfg.d_head
        self._entries = [_Entry(layer, torch.empty(shape, device="meta")) for layer in cache.layers]

    def __getitem__(self, layer: int) -> _Entry:
        return self._entries[layer]

    def append_attention_mask(self, mask: Int[Tensor, "row new"]) -> Int[Tensor, "row pos"]:
        """All positions so far: no row is padded."""
        return mask.new_ones(self._n_rows, self._n_past + mask.shape[1])


class _Entry:
    """One layer, with positions before heads; only the shape of `past_keys` is ever asked for."""

    def __init__(self, layer: Any, past_keys: Vectors) -> None:
        self._layer, self.past_keys = layer, past_keys

    def append(self, keys: Vectors, values: Vectors) -> tuple[Vectors, Vectors]:
        keys, values = self._layer.update(keys.transpose(1, 2), values.transpose(1, 2))
        return keys.transpose(1, 2), values.transpose(1, 2)
