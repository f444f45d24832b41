"""The SDPA twin: a second view of a Hugging Face model's weights whose attention never holds an n x n pattern."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import DynamicCache

from rhlens.model.fast_attention import NAME

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedModel

_TWINS: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()


def sdpa_twin(hf: PreTrainedModel) -> nn.Module | None:
    """A copy of `hf` that shares every weight and runs SDPA attention; None where SDPA would not compute the same.

    Architectures that let attention be exchanged get the function of `fast_attention`, which decodes too. Must be made
    before TransformerLens wraps `hf`. SDPA knows no soft-capped logits and no attention sinks, and a model class
    without it would go on eagerly without a word.
    """
    capped = getattr(hf.config, "attn_logit_softcapping", None)
    if not hf._supports_sdpa or capped or any("sinks" in name for name, _ in hf.named_parameters()):
        return None
    shared = {id(t): t for t in [*hf.parameters(), *hf.buffers()]}
    twin = copy.deepcopy(hf, shared)
    twin.set_attn_implementation(NAME if hf._supports_attention_backend else "sdpa")
    return twin.eval()


def pair(bridge: TransformerBridge, twin: nn.Module | None) -> None:
    """Let `bridge` prefill on `twin`, if there is one and the two agree; `twin_of` tells."""
    if twin is not None and _agree(bridge, twin):
        _TWINS[bridge] = twin


def twin_of(bridge: TransformerBridge) -> nn.Module | None:
    """The twin that `pair` accepted for `bridge`, if any."""
    return _TWINS.get(bridge)


@torch.inference_mode()
def _agree(bridge: TransformerBridge, twin: nn.Module, n_tokens: int = 24) -> bool:
    """Whether both give the same logits on a fixed sequence of tokens: 1e-3 of their spread in fp32, 5 % in 16 bits.

    The twin reads its second half over a cache of the first: it is to do that later.
    """
    parameter = next(twin.parameters())
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, int(bridge.cfg.d_vocab), (1, n_tokens), generator=generator).to(parameter.device)
    cache = DynamicCache()
    halves = [twin(half, past_key_values=cache, use_cache=True).logits for half in tokens.split(n_tokens // 2, dim=1)]
    a, b = bridge(tokens).float(), torch.cat(halves, dim=1).float()
    tolerance = 1e-3 if parameter.dtype == torch.float32 else 5e-2
    return bool((a - b).abs().max() <= tolerance * a.std().clamp_min(1e-6))
