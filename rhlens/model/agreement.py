"""Whether TransformerLens runs a checkpoint as plain Hugging Face does, and shows all that the engine reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from rhlens.model.placement import device_of

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedConfig, PreTrainedModel

N_TOKENS = 24


class Reference(NamedTuple):
    """What a plain Hugging Face model says, and shows, on a fixed sequence of tokens."""

    tokens: Int[Tensor, "1 pos"]
    logits: Float[Tensor, "1 pos vocab"]
    patterns: list[Float[Tensor, "1 head query key"]]


@torch.inference_mode()
def reference(hf: PreTrainedModel) -> Reference:
    """One eager forward, to be made before TransformerLens wraps `hf`."""
    size = hf.config.get_text_config().vocab_size
    tokens = torch.randint(0, size, (1, N_TOKENS), generator=torch.Generator().manual_seed(0)).to(device_of(hf))
    result = hf(tokens, output_attentions=True, use_cache=False)
    return Reference(tokens, result.logits, list(result.attentions or ()))


def unlike_attention(config: PreTrainedConfig) -> str | None:
    """Why a model of this configuration is not softmax attention over keys and values in every layer; None if it is."""
    try:
        kinds = [type(layer) for layer in DynamicCache(config=config).layers]
    except (AttributeError, LookupError, TypeError, ValueError):
        return "it is no language model that transformers knows to decode from keys and values"
    if getattr(config.get_text_config(), "kv_lora_rank", None):
        return "its keys and values are latent (MLA), and TransformerLens shows outputs that are not those of its heads"
    if not (odd := [i for i, kind in enumerate(kinds) if kind not in (DynamicLayer, DynamicSlidingWindowLayer)]):
        return None
    name = kinds[odd[0]].__name__
    if name == "LinearAttentionLayer":
        return f"layers {odd} are state-space, convolution or linear-attention layers, which have no heads to score"
    if name.startswith("LinearAttention"):
        return f"layers {odd} mix attention with a state-space model, whose state rhlens cannot share and cut"
    if name == "DummyLayer":
        return f"layers {odd} attend to keys and values of other layers and have none of their own"
    return f"layers {odd} compress or select the tokens that they attend to"


def unlike_plain(bridge: TransformerBridge, plain: Reference) -> str | None:
    """Why `bridge` cannot stand for the plain model; None if logits and every pattern are the same."""
    blocks = getattr(bridge, "blocks", ())
    if bare := [i for i, block in enumerate(blocks) if not hasattr(getattr(block, "attn", None), "o")]:
        return f"layers {bare} have no attention heads whose outputs could be told apart"
    patterns: dict[int, Tensor] = {}
    outputs: dict[int, Tensor] = {}  # the last ones: those of the second half
    hooks = [
        (f"blocks.{i}.attn.hook_{site}", lambda x, hook, i=i, found=found: found.update({i: x}))
        for i in range(len(blocks))
        for site, found in (("pattern", patterns), ("z", outputs))
    ]
    with bridge.hooks(fwd_hooks=hooks):
        logits = in_halves(bridge, plain.tokens)
    if logits is None:
        return "it keeps no keys and values to decode from"
    if not len(plain.patterns) == len(patterns) == len(outputs) == len(blocks):
        return "its layers do not show one attention pattern each"
    if not _same(logits, plain.logits):
        return "what TransformerLens makes of it says something else than plain Hugging Face"
    n_heads, half = int(bridge.cfg.n_heads), N_TOKENS // 2
    for i, want in enumerate(plain.patterns):
        if outputs[i].shape[:3] != (1, half, n_heads) or patterns[i].shape[1] != n_heads:
            return f"TransformerLens does not show {n_heads} heads in layer {i}"
        if not _same(patterns[i], want[:, :, half:]):
            return f"the attention that TransformerLens shows in layer {i} is not that of plain Hugging Face"
    return None


@torch.inference_mode()
def in_halves(model: nn.Module, tokens: Int[Tensor, "1 pos"]) -> Float[Tensor, "1 pos vocab"] | None:
    """Logits, the second half read over a cache of the first; None if nothing was cached."""
    cache = DynamicCache()
    found = [read(model, half, cache) for half in tokens.split(N_TOKENS // 2, dim=1)]
    return torch.cat(found, dim=1) if cache.get_seq_length() == N_TOKENS else None


def read(model: nn.Module, tokens: Int[Tensor, "row pos"], cache: DynamicCache) -> Float[Tensor, "row pos vocab"]:
    """Logits of tokens that go on from a cache, be they of a twin or of a bridge."""
    result: Any = model(tokens, past_key_values=cache, use_cache=True)
    logits = result if isinstance(result, Tensor) else result.logits
    return logits.to(tokens.device)


def distances(got: Float[Tensor, "*row values"], want: Float[Tensor, "*row values"]) -> Float[Tensor, "*row"]:
    """By how much each row is off at most, in units of the spread of what was wanted."""
    return (got.to(want.device).float() - want.float()).abs().amax(-1) / want.float().std().clamp_min(1e-6)


def _same(got: Float[Tensor, "*row values"], want: Float[Tensor, "*row values"]) -> bool:
    """Whether two ways to compute the same differ by rounding only.

    In 16 bits rotary angles are rounded sooner or later, and routers send single tokens to other experts: there, what
    counts is that most rows are alike, as no rows of another function would be.
    """
    if got.shape != want.shape:
        return False
    if not torch.isfinite(want).all():
        return True  # nothing to compare; the engine reports such numbers where they count
    off = distances(got, want)
    return bool(off.max() <= 1e-3 if want.dtype == torch.float32 else off.median() <= 0.25)
