"""The engine: prefill a prompt into a KV cache, then decode greedily while every head's argmax key is read.

Prefill runs on an SDPA twin of the model (same weights, linear memory) where there is one, else on the bridge in
chunks; decode runs on the bridge, where the hooks are. Logits and argmax positions equal a plain eager forward.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn
from transformers import DynamicCache

from rhlens import __version__
from rhlens.model.ablation import Ablation, Edits, HeadOutputs
from rhlens.model.hooks import HeadReader, Witness, edited_bridge, edited_projections, mean_outputs
from rhlens.model.prefix import Prefix
from rhlens.model.trace import Row, Trace, check_numbers, traces_of
from rhlens.model.twin import twin_of
from rhlens.results.heads import Head, check_heads

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

TWIN_CHUNK, BRIDGE_CHUNK = 2048, 512
"""Tokens a prefill step: the bridge holds `[head, chunk, key]` patterns, the twin at most one boolean mask."""


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
    def shape(self) -> tuple[int, int]:
        """Layers, and heads of each."""
        return self.n_layers, self.n_heads

    @property
    def group_size(self) -> int:
        """Query heads that share keys and values: 1 but for grouped-query attention."""
        return self.n_heads // (getattr(self.model.cfg, "n_key_value_heads", None) or self.n_heads)

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

    def projections(self, runner: nn.Module) -> list[nn.Module]:
        """Each layer's attention output projection in the twin or, below all hooks, in the bridge."""
        if runner is self.model:
            return [block.attn.o.original_component for block in self.model.blocks]
        path = self.model.adapter.translate_transformer_lens_path
        return [runner.get_submodule(path(f"blocks.{i}.attn.o")) for i in range(self.n_layers)]

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
    def prefill(self, tokens: Int[Tensor, "batch pos"]) -> Prefix:
        """Cache all but the last token of equally long prompts.

        Raises:
            ValueError: a prompt of fewer than two tokens, or longer than the model's context.
        """
        if tokens.shape[1] < 2:
            raise ValueError("a prompt needs at least two tokens")
        if self.n_ctx is not None and tokens.shape[1] > self.n_ctx:
            raise ValueError(f"a prompt of {tokens.shape[1]} tokens exceeds the model's context of {self.n_ctx}")
        tokens = tokens.to(self.device)
        return Prefix(*self._read(tokens, Edits((), "prefill", self.shape)))

    @torch.inference_mode()
    def under(
        self,
        clean: Prefix,
        ablations: Sequence[Ablation],
        rows: Sequence[int] | None = None,
        donors: Sequence[int] | None = None,
        means: Float[Tensor, "layer head d_head"] | None = None,
    ) -> Prefix:
        """Prompts of a clean prefix, each under its own ablation; what no ablation touches is not read again.

        Args:
            ablations: one a prompt.
            rows: which prompts of `clean`; None takes them all.
            donors: for `resample`, the prompt of `clean` whose outputs each one gets.
            means: for `mean`, what `mean_outputs` returned.

        Raises:
            InterventionError: an ablation did not act.
        """
        rows = list(range(clean.tokens.shape[0])) if rows is None else list(rows)
        source = None if donors is None else torch.arange(len(rows), 2 * len(rows)).repeat(2)
        rows, ablations = [*rows, *(donors or ())], [*ablations, *([Ablation()] * len(donors or ()))]
        edits = Edits(ablations, "prefill", self.shape, means, source)
        tokens = clean.tokens[rows]
        if edits:
            cache, tokens, outputs = self._read(tokens, edits, clean.outputs[:, rows])
        else:
            cache, outputs = clean.fork(rows), clean.outputs[:, rows]
        return Prefix(cache, tokens, outputs, ablations, clean, rows, donors, means)

    def _read(
        self, tokens: Int[Tensor, "row pos"], edits: Edits, clean: HeadOutputs | None = None
    ) -> tuple[DynamicCache, Int[Tensor, "row pos"], HeadOutputs]:
        """Read prompts but for their last token; uniform attention needs the bridge, which has patterns."""
        on_twin = self.twin is not None and "uniform" not in edits.methods
        runner, size = (self.twin, TWIN_CHUNK) if on_twin and self.twin else (self.model, BRIDGE_CHUNK)
        body = tokens[:, :-1]
        # No config: with one, sliding layers keep only their window and key positions stop being absolute.
        cache = DynamicCache()
        with self._edited(runner, edits, cache, -1, clean) as witness:
            for chunk in body.split(body.shape[1] if self._one_piece else size, dim=1):
                runner(chunk, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache, tokens, witness.z

    @contextmanager
    def _edited(
        self, runner: nn.Module, edits: Edits, cache: DynamicCache, position: int, clean: HeadOutputs | None
    ) -> Iterator[Witness]:
        """`runner` under `edits`, proven on leaving at its first (0) or last (-1) position, against a clean run."""
        projections = self.projections(runner)
        with ExitStack() as stack:
            if edits and runner is self.model:
                stack.enter_context(edited_bridge(self.model, edits))
            elif edits:
                stack.enter_context(edited_projections(projections, edits))
            witness = stack.enter_context(Witness(projections, self.n_heads, position).watching())
            yield witness
        if edits and clean is not None:
            edits.prove(witness.z, clean, self._averages(edits, cache))

    def _averages(self, edits: Edits, cache: DynamicCache) -> dict[int, Float[Tensor, "row head d_head"]]:
        """Mean value vectors over the keys that uniform heads saw: what they must put out."""
        averages = {}
        for layer, visible in edits.visible.items():
            weights = visible.float()  # [row, head, key]
            attention: Any = cache.layers[layer]
            values = attention.values[:, :, : weights.shape[-1]].float()
            values = values.repeat_interleave(self.n_heads // values.shape[1], dim=1)
            averages[layer] = torch.einsum("rhk,rhkd->rhd", weights / weights.sum(-1, keepdim=True), values)
        return averages

    @contextmanager
    def _going_on(self, prefix: Prefix) -> Iterator[DynamicCache]:
        """A fork of the prefix's cache to go on from, on the bridge, under its ablations of decoding."""
        n_rows, n_asked = prefix.tokens.shape[0], prefix.n_asked
        source = torch.arange(n_asked, 2 * n_asked).repeat(2) if n_rows > n_asked else None
        edits = Edits(prefix.ablations, "decode", self.shape, prefix.means, source)
        cache = prefix.fork()
        if not edits or prefix.origin is None:
            yield cache
            return
        clean = self._first_step(prefix.origin)[:, prefix.rows]
        with self._edited(self.model, edits, cache, 0, clean):
            yield cache

    def _first_step(self, clean: Prefix) -> HeadOutputs:
        """Head outputs at the last token of the prompts of a clean prefix."""
        if clean.first_step is None:
            with Witness(self.projections(self.model), self.n_heads, 0).watching() as witness:
                self.model(clean.last, past_key_values=clean.fork(), use_cache=True)
            clean.first_step = witness.z
        return clean.first_step

    @torch.inference_mode()
    def mean_outputs(self, prompts: Sequence[Int[Tensor, "batch pos"]]) -> Float[Tensor, "layer head d_head"]:
        """Every head's output averaged over all positions of the prompts: what `mean` ablation puts in its place."""
        runner = self.twin if self.twin is not None else self.model
        with mean_outputs(self.projections(runner), self.n_heads) as sums:
            for tokens in prompts:
                self.prefill(tokens)
        return torch.stack(sums) / sum(tokens[:, 1:].numel() for tokens in prompts)

    @torch.inference_mode()
    def log_probs(self, prefix: Prefix, replies: Sequence[Sequence[int]]) -> list[Float32[np.ndarray, " reply"]]:
        """Log-probability (nats) of each token of a given reply to each prompt, in one forward pass.

        Args:
            replies: one a row, those of donors included.

        Raises:
            InterventionError: an ablation did not act.
        """
        width = max(map(len, replies))
        padded = torch.zeros(len(replies), width, dtype=torch.long)
        for row, reply in enumerate(replies):
            padded[row, : len(reply)] = torch.tensor(list(reply))
        padded = padded.to(self.device)
        with self._going_on(prefix) as cache:
            tokens = torch.cat([prefix.last, padded[:, :-1]], 1)
            logits = self.model(tokens, past_key_values=cache, use_cache=True).float()
        check_numbers(logits, "logits")
        found = logits.log_softmax(-1).gather(-1, padded[..., None])[..., 0].cpu().numpy()
        return [found[row, : len(reply)] for row, reply in enumerate(replies[: prefix.n_asked])]

    @torch.inference_mode()
    def decode(self, prefix: Prefix, max_new_tokens: int) -> list[Trace]:
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
        reader, current = HeadReader(self.n_layers), prefix.last
        rows = [Row(self.eos_tokens, self.tokenizer.decode) for _ in range(prefix.n_asked)]
        with self._going_on(prefix) as cache, self.model.hooks(fwd_hooks=reader.fwd_hooks()):
            for _ in range(max_new_tokens):
                logits = self.model(current, past_key_values=cache, use_cache=True)[:, -1]
                reader.end_step()
                check_numbers(logits, "logits")
                current = logits.argmax(-1, keepdim=True)
                for row, token in zip(rows, current[: len(rows), 0].tolist(), strict=True):
                    row.add(token)
                if all(row.done for row in rows):
                    break
        return traces_of(rows, reader)

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
