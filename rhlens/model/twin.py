"""The SDPA twin: a second view of a Hugging Face model's weights whose attention never holds an n x n pattern."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from rhlens.model.agreement import N_TOKENS, Reference, distances, in_halves, read
from rhlens.model.drift import State, changes, state_of
from rhlens.model.fast_attention import NAME, Shared

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedModel

_TWINS: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()
_STATES: WeakKeyDictionary[nn.Module, State] = WeakKeyDictionary()

ROUNDINGS = 16
"""By how many rounding steps of a 16-bit type logits may be off, in the mean over tokens.

Measured on trained, planted and tiny models: 3 to 11 steps, in bfloat16 and float16 alike; with a scale of attention
that is wrong by a tenth 21 and more in trained ones, with a wrong window 130 and more in all. A single token may be
off by far more, where heads or experts are as good as tied.
"""


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


def pair(bridge: TransformerBridge, twin: nn.Module | None, plain: Reference) -> None:
    """Let `bridge` prefill on `twin`, if there is one and the two together say what the plain model says."""
    _STATES[bridge] = state_of(bridge.original_model)
    if twin is not None and _agree(bridge, twin, plain):
        _TWINS[bridge] = twin


def twin_of(bridge: TransformerBridge) -> nn.Module | None:
    """The twin that `pair` accepted for `bridge`, if any."""
    return _TWINS.get(bridge)


def changes_of(bridge: TransformerBridge) -> list[str]:
    """What has changed in a bridge's model since it was loaded, so that its twin is another: see `drift.changes`."""
    before = _STATES.get(bridge)
    return changes(before, state_of(bridge.original_model)) if before is not None else []


@torch.inference_mode()
def _agree(bridge: TransformerBridge, twin: nn.Module, plain: Reference) -> bool:
    """Whether logits are the same on all ways taken, to 1e-3 of their spread in fp32 and to `ROUNDINGS` in 16 bits.

    The twin goes on from its own cache while prompts are read; then what decodes does, and from the bridge's too.
    """
    first, second = plain.tokens.split(N_TOKENS // 2, dim=1)
    try:
        found = [in_halves(twin, plain.tokens)]
        for reader in (twin, bridge):
            cache = DynamicCache()
            found.append(torch.cat([read(reader, first, cache), _decoded(bridge, twin, second, cache)], dim=1))
    except RuntimeError:  # caches of different shapes, or a kernel that does not take them
        return False
    return all(logits is not None and _close(distances(logits, plain.logits), logits.dtype) for logits in found)


def _close(off: Float[Tensor, " row"], dtype: torch.dtype) -> bool:
    return bool(off.max() <= 1e-3 if dtype == torch.float32 else off.mean() <= ROUNDINGS * torch.finfo(dtype).eps)


def _decoded(
    bridge: TransformerBridge, twin: nn.Module, tokens: Int[Tensor, "1 pos"], cache: DynamicCache
) -> Float[Tensor, "1 pos vocab"]:
    """Logits as they are computed once the prompt is read."""
    if twin.config._attn_implementation != NAME:  # pyright: ignore
        return read(bridge, tokens, cache)
    shared = Shared(cache, [0])
    with shared.acting():
        return read(twin, tokens, shared.suffixes())
