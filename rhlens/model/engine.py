"""The engine: prefill a prompt into a KV cache, then decode greedily while every head's argmax key is read.

Prefill runs on an SDPA twin of the model (same weights, linear memory) where there is one, else on the bridge in
chunks; decode runs on the bridge, where the hooks are. Logits and argmax positions equal a plain eager forward.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int32, Int64
from torch import Tensor, nn
from transformers import DynamicCache

from rhlens import __version__
from rhlens.model.hooks import NO_ABLATION, Ablation, HeadReader, ablated_bridge, ablated_twin
from rhlens.model.twin import twin_of
from rhlens.results.heads import Head, check_heads

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

TWIN_CHUNK, BRIDGE_CHUNK = 2048, 512
"""Tokens a prefill step: the bridge holds `[head, chunk, key]` patterns, the twin at most one boolean mask."""


@dataclass(frozen=True, eq=False)
class Trace:
    """One greedy generation: per step the token, and per head where it looked most.

    Positions count from the prompt's first token; steps that follow the end of the answer are not kept.
    """

    tokens: Int64[np.ndarray, " step"]
    position: Int32[np.ndarray, "step layer head"]
    weight: Float32[np.ndarray, "step layer head"]


@dataclass(frozen=True, eq=False)
class Prefix:
    """A prompt but for its last token, in a KV cache; `fork` it to decode several conditions from one prefill."""

    cache: DynamicCache
    last: Int[Tensor, "batch 1"]
    length: int

    def fork(self) -> DynamicCache:
        """A cache that can grow on its own: layers are copied, keys and values shared (an update makes new ones)."""
        fork = copy.copy(self.cache)
        fork.layers = [copy.copy(layer) for layer in self.cache.layers]
        return fork


class Engine:
    """Runs one TransformerLens model.

    Raises:
        TypeError: the model is not a TransformerBridge.
        ValueError: the bridge is in compatibility mode, where caches of the raw model are silently wrong; or a layer
            has no attention.
    """

    def __init__(self, model: TransformerBridge) -> None:
        if type(model).__name__ != "TransformerBridge":
            raise TypeError(
                f"expected a TransformerLens TransformerBridge, not {type(model).__name__}: use rhlens.load"
            )
        if getattr(model, "compatibility_mode", False):
            raise ValueError(
                "this model is in compatibility mode, which folds its weights: boot it anew and leave that off"
            )
        if bare := [i for i, block in enumerate(model.blocks) if not hasattr(block, "attn")]:
            raise ValueError(
                f"layers {bare} of this model have no attention heads to score: rhlens needs softmax attention "
                "in every layer (no state-space models)"
            )
        self.model = model
        self.tokenizer: Any = model.tokenizer
        self.n_layers, self.n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
        self.n_ctx: int | None = getattr(model.cfg, "n_ctx", None)
        self.twin: nn.Module | None = twin_of(model)

    @property
    def name(self) -> str:
        """The model's name without the folders or the organisation before it."""
        return str(self.model.cfg.model_name).rstrip("/").rsplit("/", 1)[-1]

    @property
    def path(self) -> str:
        """Which prefill runs, for people."""
        return "SDPA twin" if self.twin is not None else f"bridge, chunks of {BRIDGE_CHUNK}"

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @cached_property
    def projections(self) -> list[str]:
        """Module path of each layer's attention output projection in the plain Hugging Face model."""
        return [self.model.adapter.translate_transformer_lens_path(f"blocks.{i}.attn.o") for i in range(self.n_layers)]

    @cached_property
    def fingerprint(self) -> str:
        """A checksum of weights, configuration and stop tokens: equal for equal models, whatever they are called."""
        config = {k: v for k, v in self.config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
        digest = hashlib.sha256(json.dumps([config, sorted(self.eos_tokens)], sort_keys=True, default=str).encode())
        for name, p in sorted(self.model.original_model.named_parameters()):
            flat = p.detach().flatten().float()
            ramp = torch.linspace(1, 2, len(flat), device=flat.device)  # tells heads that changed places apart
            sums = [x.sum(dtype=torch.float64).item() for x in (flat, flat.abs(), flat * ramp)]
            digest.update(f"{name} {tuple(p.shape)} {p.dtype} {sums}".encode())
        return digest.hexdigest()[:16]

    @property
    def config(self) -> Any:
        """The Hugging Face configuration."""
        return self.model.original_model.config

    @property
    def about(self) -> dict[str, str]:
        """What a result was measured with."""
        dtype = str(next(self.model.parameters()).dtype).removeprefix("torch.")
        return {"device": str(self.device), "dtype": dtype, "prefill": self.path, "rhlens": __version__}

    @cached_property
    def _one_piece(self) -> bool:
        """Whether rotary frequencies depend on how long the input is: a prefill in chunks would then rotate wrongly."""
        return any(f'"{kind}"' in self.config.to_json_string() for kind in ("longrope", "dynamic"))

    def check(self, heads: Sequence[tuple[int, int]]) -> list[Head]:
        """`heads`, once all exist in this model."""
        return check_heads(heads, self.n_layers, self.n_heads)

    @torch.inference_mode()
    def prefill(self, tokens: Int[Tensor, "batch pos"], ablation: Ablation = NO_ABLATION) -> Prefix:
        """Cache all but the last token of equally long prompts.

        Raises:
            ValueError: a prompt of fewer than two tokens, or longer than the model's context.
            InterventionError: an ablation did not act.
        """
        if tokens.shape[1] < 2:
            raise ValueError("a prompt needs at least two tokens")
        if self.n_ctx is not None and tokens.shape[1] > self.n_ctx:
            raise ValueError(f"a prompt of {tokens.shape[1]} tokens exceeds the model's context of {self.n_ctx}")
        tokens = tokens.to(self.device)
        heads, body = ablation.heads_in("prefill"), tokens[:, :-1]
        # No config: with one, sliding layers keep only their window and key positions stop being absolute.
        cache = DynamicCache()
        with ExitStack() as stack:
            if heads and self.twin is not None:
                stack.enter_context(ablated_twin(self.twin, self.projections, heads, self.n_heads))
            elif heads:
                stack.enter_context(ablated_bridge(self.model, heads))
            runner, size = (self.twin, TWIN_CHUNK) if self.twin is not None else (self.model, BRIDGE_CHUNK)
            for chunk in body.split(body.shape[1] if self._one_piece else size, dim=1):
                runner(chunk, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return Prefix(cache, tokens[:, -1:], tokens.shape[1])

    @torch.inference_mode()
    def decode(self, prefix: Prefix, max_new_tokens: int, ablation: Ablation = NO_ABLATION) -> list[Trace]:
        """Go on greedily from `prefix`, one trace a row; a row ends at EOS or at a line end after some text.

        Raises:
            ValueError: `max_new_tokens` is below 1.
            InterventionError: an ablation did not act, or a layer showed no attention pattern.
            ArithmeticError: attention weights or logits that are not numbers.
        """
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
        if self.n_ctx is not None:
            max_new_tokens = min(max_new_tokens, self.n_ctx - prefix.length + 1)
        reader, cache, current = HeadReader(self.n_layers), prefix.fork(), prefix.last
        rows = [_Row(self) for _ in range(current.shape[0])]
        with ExitStack() as stack:
            if heads := ablation.heads_in("decode"):
                stack.enter_context(ablated_bridge(self.model, heads))
            stack.enter_context(self.model.hooks(fwd_hooks=reader.fwd_hooks()))
            for _ in range(max_new_tokens):
                logits = self.model(current, past_key_values=cache, use_cache=True)[:, -1]
                reader.end_step()
                _check_numbers(logits, "logits")
                current = logits.argmax(-1, keepdim=True)
                for row, token in zip(rows, current[:, 0].tolist(), strict=True):
                    row.add(token)
                if all(row.done for row in rows):
                    break
        return self._traces(rows, reader)

    def _traces(self, rows: list[_Row], reader: HeadReader) -> list[Trace]:
        position = torch.stack(reader.position).cpu().numpy()  # [step, layer, batch, head]
        weight = torch.stack(reader.weight)
        _check_numbers(weight, "attention weights")
        weights = weight.cpu().numpy()
        return [
            Trace(
                np.array(row.tokens, dtype=np.int64),
                position[: len(row.tokens), :, b],
                weights[: len(row.tokens), :, b],
            )
            for b, row in enumerate(rows)
        ]

    @cached_property
    def eos_tokens(self) -> set[int]:
        """Every id that ends a generation, from the tokenizer and the model's generation settings."""
        settings = getattr(self.model.original_model, "generation_config", None)
        found = getattr(settings, "eos_token_id", None)
        ids = found if isinstance(found, list) else [found]
        return {i for i in [*ids, self.tokenizer.eos_token_id] if i is not None}

    def text_of(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Generated tokens as text, up to the end of their first line with anything on it."""
        text = self.tokenizer.decode([int(t) for t in tokens], skip_special_tokens=True).strip()
        return text.splitlines()[0].strip() if text else ""


class _Row:
    """The tokens of one row of a batch, and whether they are complete."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.tokens, self.done, self._text = engine, [], False, ""

    def add(self, token: int) -> None:
        if self.done:
            return
        if token in self.engine.eos_tokens:
            self.done = True
            return
        self.tokens.append(token)
        self._text += self.engine.tokenizer.decode([token])
        # A model may open its answer with a line break; only a line that says something can end.
        self.done = "\n" in self._text.lstrip()


def _check_numbers(values: Float[Tensor, ...], what: str) -> None:
    if not torch.isfinite(values).all():
        raise ArithmeticError(
            f"{what} in {values.dtype} are not finite: load the model with dtype='float32' or 'bfloat16'"
        )
