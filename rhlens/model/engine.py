"""The engine: prefill a prompt into a KV cache, then decode greedily while every head's argmax key is read.

Both run on a twin of the model (same weights, linear memory, prefixes that rows share) where there is one, else on
the model itself: prefill in chunks, decode on copies of the cache. Logits and argmax positions equal a plain eager
forward.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn
from transformers import DynamicCache

from rhlens import __version__
from rhlens.model.ablation import ATTENTION_METHODS, Ablation, Edits, HeadOutputs
from rhlens.model.caches import PromptLayer, cache_of, cut_all
from rhlens.model.continuing import averages, first_step, going_on, reading
from rhlens.model.decoding import Decoding, log_probs_of
from rhlens.model.fast_attention import NAME
from rhlens.model.hooked import bridge_to, projections_of
from rhlens.model.hooks import EnoughRead, mean_outputs, users_hooks
from rhlens.model.memory import in_parts, rows_that_fit
from rhlens.model.numbers import check_numbers
from rhlens.model.placement import device_of, devices_of, stacked
from rhlens.model.prefix import Prefix, n_common_rows
from rhlens.model.rotary import grown_to, length_of, long_factors
from rhlens.model.trace import Row, Trace
from rhlens.model.twin import changes_of, twin_of
from rhlens.results.heads import Head, check_heads
from rhlens.tasks.forms import turn_ends
from rhlens.tasks.spelling import exact_decoder, special_ids
from rhlens.tasks.turns import FIRST_LINE, Turn

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

TWIN_CHUNK, BRIDGE_CHUNK = 2048, 512
"""Tokens a prefill step: the bridge holds `[head, chunk, key]` patterns, the twin at most one boolean mask."""
LEAST_CHUNK = 256
"""Tokens of a row that are read in one step at least, however many rows are read side by side."""
ANSWER = 16
"""Tokens of an answer that one step is expected to check, when memory is planned."""


class Engine:
    """Runs one TransformerLens model: a TransformerBridge, or a HookedTransformer.

    Attributes:
        model: the bridge, or what stands in for one.
        kind: what `model` is called in results: `bridge` or `HookedTransformer`.
        hooked: hook points with hooks of the user's own; they act on `model` alone, so that is then what runs.
        changed: what else is not as it was when the model was loaded; `model` alone is then what runs, too.

    Raises:
        TypeError: the model is of another kind.
        ValueError: the bridge is in compatibility mode, where caches of the raw model are silently wrong; a layer
            has no attention; or there is no tokenizer.
    """

    def __init__(self, model: TransformerBridge) -> None:
        self.model: TransformerBridge = bridge_to(model)
        self.kind = "bridge" if self.model is model else "HookedTransformer"
        if getattr(model, "compatibility_mode", False):
            raise ValueError(
                "this model is in compatibility mode, which folds its weights: boot it anew and leave that off"
            )
        if bare := [i for i, block in enumerate(model.blocks) if not hasattr(block, "attn")]:
            raise ValueError(
                f"layers {bare} of this model have no attention heads to score: rhlens needs softmax attention "
                "in every layer (no state-space models)"
            )
        if model.tokenizer is None:
            raise ValueError("this model has no tokenizer to read its answers with: assign one to model.tokenizer")
        self.tokenizer: Any = model.tokenizer
        self.n_layers, self.n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
        self.n_ctx: int | None = getattr(model.cfg, "n_ctx", None)
        self.hooked = sorted(name for name, point in model.hook_dict.items() if users_hooks(point))
        self.changed = changes_of(model)
        self.twin: nn.Module | None = None if self.hooked or self.changed else twin_of(model)
        if self.changed and twin_of(model) is not None:
            print(
                f"{self.name}: {self.changed[0]} is not as it was when this model was loaded, so it is measured as it "
                "is now, on TransformerLens, in chunks; load it anew to measure on its fast copy",
                file=sys.stderr,
            )

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
        return "SDPA twin" if self.twin is not None else f"{self.kind}, chunks of {BRIDGE_CHUNK}"

    @property
    def decoder(self) -> nn.Module:
        """What decodes: the twin, if it runs the attention function that shows patterns and shares prefixes."""
        shows = self.twin is not None and self.twin.config._attn_implementation == NAME  # pyright: ignore
        return self.twin if self.twin is not None and shows else self.model

    @cached_property
    def device(self) -> torch.device:
        """Where tokens go, and what is read off heads comes together."""
        return device_of(self.model)

    def projections(self, runner: nn.Module) -> list[Any]:
        """Each layer's attention output projection in the twin or, below all hooks, in the model."""
        if runner is self.model:
            return projections_of(self.model)
        path = self.model.adapter.translate_transformer_lens_path
        return [runner.get_submodule(path(f"blocks.{i}.attn.o")) for i in range(self.n_layers)]

    @property
    def config(self) -> Any:
        """The Hugging Face configuration; a HookedTransformer's own."""
        return getattr(self.model.original_model, "config", self.model.cfg)

    @property
    def about(self) -> dict[str, str]:
        """What a result was measured with."""
        dtype = str(next(self.model.parameters()).dtype).removeprefix("torch.")
        decode = self.kind if self.decoder is self.model else "twin"
        paths = {"prefill": self.path, "decode": decode}
        return {"device": str(self.device), "dtype": dtype, **paths, "rhlens": __version__}

    @cached_property
    def one_piece(self) -> bool:
        """Whether rotary frequencies depend on how long the input is: a prefill in chunks would then rotate wrongly."""
        config = json.dumps(self.config.to_dict(), default=str)
        return any(found in config for found in ('"longrope"', '"dynamic"', '"use_dynamic_ntk_rope": true'))

    @cached_property
    def switch(self) -> int | None:
        """The longest input that is read with short rotary factors, where a longer one has others (longrope)."""
        return length_of(self.config, "longrope")

    @cached_property
    def grows_from(self) -> int | None:
        """The length beyond which each token changes the rotary frequencies (dynamic)."""
        return length_of(self.config, "dynamic")

    def reads_long(self, n_tokens: int, long: bool = False) -> bool:
        """Whether an input of so many tokens is read with long rotary factors."""
        return long or (self.switch is not None and n_tokens > self.switch)

    def check(self, heads: Sequence[tuple[int, int]]) -> list[Head]:
        """`heads`, once all exist in this model."""
        return check_heads(heads, self.n_layers, self.n_heads)

    def rows_at_once(self, length: int, shared: bool = False) -> int:
        """Prompts of this length that the free memory is enough for, side by side.

        Args:
            shared: rows that only go on from one prompt.
        """
        cfg, size = self.model.cfg, next(self.model.parameters()).element_size()
        cache = 2 * self.n_layers * (self.n_heads // self.group_size) * int(cfg.d_head) * size
        d_mlp = int(getattr(cfg, "d_mlp", None) or 4 * cfg.d_model)
        chunk = min(length, TWIN_CHUNK) * (8 * int(cfg.d_model) + 3 * d_mlp) * size
        patterns = 3 * 4 * ANSWER * self.n_heads * length  # a layer's, in fp32: scores, softmax, and its cast
        logits = 2 * 4 * ANSWER * int(cfg.d_vocab)
        return rows_that_fit(patterns + logits + (0 if shared else 2 * cache * length + chunk), devices_of(self.model))

    @torch.inference_mode()
    def prefill(self, tokens: Int[Tensor, "batch pos"]) -> Prefix:
        """Cache all but the last token of equally long prompts.

        Raises:
            ValueError: a prompt of fewer than two tokens, or longer than the model's context.
        """
        return Prefix(*self._read(self.checked(tokens), Edits((), "prefill", self.shape)))

    def checked(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
        """Prompts on the model's device, if it can read them: see `prefill`."""
        if tokens.shape[1] < 2:
            raise ValueError("a prompt needs at least two tokens")
        if self.n_ctx is not None and tokens.shape[1] > self.n_ctx:
            raise ValueError(f"a prompt of {tokens.shape[1]} tokens exceeds the model's context of {self.n_ctx}")
        return tokens.to(self.device)

    @torch.inference_mode()
    def extend(self, tokens: Int[Tensor, "row pos"], layers: list[PromptLayer], n_kept: int) -> Prefix:
        """`prefill`, given a cache whose last row begins as all prompts do, for so many tokens; it is taken over."""
        cut = cut_all(layers, n_kept, tokens.shape[1], tokens.shape[0])
        return Prefix(*self._read(tokens, Edits((), "prefill", self.shape), cache=cache_of(cut)))

    @torch.inference_mode()
    def under(
        self,
        clean: Prefix,
        ablations: Sequence[Ablation],
        rows: Sequence[int] | None = None,
        donors: Sequence[int] | None = None,
        means: Float[Tensor, "layer head d_head"] | None = None,
        before: Prefix | None = None,
    ) -> Prefix:
        """Prompts of a clean prefix, each under its own ablation; what no ablation touches is not read again.

        Args:
            ablations: one a prompt.
            rows: which prompts of `clean`; None takes them all.
            donors: for `resample`, the prompt of `clean` whose outputs each one gets.
            means: for `mean`, what `mean_outputs` returned.
            before: other prompts, read under the same ablations row by row: what they begin with alike is not read
                again, and they are given up.

        Raises:
            InterventionError: an ablation did not act.
        """
        rows = list(range(clean.tokens.shape[0])) if rows is None else list(rows)
        source = None if donors is None else torch.arange(len(rows), 2 * len(rows)).repeat(2)
        rows, ablations = [*rows, *(donors or ())], [*ablations, *([Ablation()] * len(donors or ()))]
        edits = Edits(ablations, "prefill", self.shape, means, source)
        tokens = clean.tokens[rows]
        if not edits and clean.is_cached:
            reads = [clean.reads[row] for row in rows]
            found = Prefix(clean.cache, tokens, clean.outputs[:, rows], ablations, clean, rows, donors, means, reads)
            found.long = clean.long
            return found
        n_kept = 0 if before is None or self.one_piece else n_common_rows(before.tokens, tokens)
        layers = cut_all(before.give_up(), n_kept, tokens.shape[1]) if before is not None and n_kept else []
        alike = len(tokens) > 1 and bool((tokens == tokens[0]).all())
        read = self._read(tokens, edits, clean.outputs[:, rows], cache_of(layers), alike, long=clean.long)
        found = Prefix(*read, ablations, clean, rows, donors, means)
        found.long = clean.long
        return found

    def reread(self, prefix: Prefix) -> Prefix:
        """The same prompts under the same ablations with long rotary factors, since what follows makes them longer.

        Raises:
            ValueError: outputs come from other prompts, which may not cross together.
        """
        if prefix.donors:
            raise ValueError(
                f"an answer grows beyond {self.switch} tokens, where this model's rotary factors switch, while heads "
                "get another prompt's outputs: choose a length that leaves room, or another method than resample"
            )
        clean = Prefix(*self._read(prefix.tokens, Edits((), "prefill", self.shape), long=True))
        clean.long = True
        again = self.under(clean, prefix.ablations, means=prefix.means) if prefix.ablations else clean
        again.guesses, again.turns = prefix.guesses, prefix.turns
        return again

    def _read(
        self,
        tokens: Int[Tensor, "row pos"],
        edits: Edits,
        clean: HeadOutputs | None = None,
        cache: DynamicCache | None = None,
        alike: bool = False,
        whole: bool = False,
        long: bool = False,
    ) -> tuple[DynamicCache, Int[Tensor, "row pos"], HeadOutputs]:
        """Read prompts but for their last token; replaced attention needs the bridge, which has patterns.

        Args:
            alike: all prompts are the same, a single row up to the layer in which their ablations make them differ.
            whole: the last layer puts out something at every position, which nothing but its own outputs depends on.
            long: see `reads_long`.
        """
        on_twin = self.twin is not None and not edits.methods.intersection(ATTENTION_METHODS)
        runner, size = (self.twin, TWIN_CHUNK) if on_twin and self.twin else (self.model, BRIDGE_CHUNK)
        if cache is None or not cache.layers:
            cache = cache_of([PromptLayer(tokens.shape[1]) for _ in range(self.n_layers)])
        body = tokens[:, cache.get_seq_length() : -1]
        n_rows, step = len(tokens), max(min(size, LEAST_CHUNK), size // len(tokens))
        below = edits.lowest if alike and on_twin and self.decoder is self.twin else 0
        grown_to(runner, tokens.shape[1])  # all of a prompt is read with the frequencies of its last token
        # All but the last token may be short enough for short factors, and with it the prompt is not.
        rotary = long_factors(runner, long or tokens.shape[1] - 1 == self.switch)
        with rotary, reading(self, runner, edits, below, n_rows, whole) as witness:
            for chunk in body[: 1 if below else None].split(body.shape[1] if self.one_piece else step, dim=1):
                with suppress(EnoughRead):
                    runner(chunk, past_key_values=cache, use_cache=True, logits_to_keep=1)
        check_numbers(witness.z, "attention")  # a position that went wrong spoils all that attend to it
        if edits and clean is not None:
            layers: list[Any] = cache.layers
            edits.prove(witness.z, clean, averages(self, edits, lambda layer, row: layers[layer].values[row]))
        return cache, tokens, witness.z.expand(-1, n_rows, -1, -1)

    @torch.inference_mode()
    def first_step(self, clean: Prefix) -> HeadOutputs:
        """Head outputs at the last token of the prompts of a clean prefix."""
        return first_step(self, clean)

    @torch.inference_mode()
    def mean_outputs(self, prompts: Sequence[Int[Tensor, "batch pos"]]) -> Float[Tensor, "layer head d_head"]:
        """Every head's output averaged over all positions of the prompts: what `mean` ablation puts in its place."""
        runner = self.twin if self.twin is not None else self.model

        def total(some: Sequence[Tensor]) -> Tensor:
            with mean_outputs(self.projections(runner), self.n_heads) as sums:
                self._read(self.checked(torch.stack(list(some))), Edits((), "prefill", self.shape), whole=True)
            return stacked(sums)

        parts = [found for tokens in prompts for _, found in in_parts(list(tokens), total)]
        return torch.stack(parts).sum(0) / sum(tokens[:, 1:].numel() for tokens in prompts)

    @torch.inference_mode()
    def log_probs(self, prefix: Prefix, replies: Sequence[Sequence[int]]) -> list[Float32[np.ndarray, " reply"]]:
        """Log-probability (nats) of each token of a given reply to each prompt, in one forward pass.

        Args:
            replies: one a row, those of donors included.

        Raises:
            InterventionError: an ablation did not act.
        """
        found: list[Float32[np.ndarray, " reply"]] = []
        for _, part in in_parts(range(prefix.n_asked), lambda rows: self._log_probs(prefix, rows, replies)):
            found += part
        return found

    def _log_probs(self, prefix: Prefix, asked: Sequence[int], replies: Sequence[Sequence[int]]) -> list[Any]:
        rows = prefix.with_donors(asked)
        width = max(len(replies[row]) for row in rows)
        if (room := self.room(prefix)) is not None and width > room:
            short = self._log_probs(prefix, asked, [reply[:room] for reply in replies])
            rest = self._log_probs(self.reread(prefix), asked, replies)
            return [np.concatenate([a, b[room:]]) for a, b in zip(short, rest, strict=True)]
        padded = torch.tensor([[*replies[row], *[0] * (width - len(replies[row]))] for row in rows], device=self.device)
        with going_on(self, prefix, asked) as (_, run):
            logits = run(torch.cat([prefix.last[rows], padded[:, :-1]], 1))
        found = []
        for i, row in enumerate(asked):  # one at a time: a vocabulary is large
            found.append(log_probs_of(logits[i], padded[i, : len(replies[row])]))
        return found

    def room(self, prefix: Prefix) -> int | None:
        """Tokens that may follow a prompt until its rotary factors switch; None where they do not."""
        crosses = self.switch is not None and not self.reads_long(prefix.length, prefix.long)
        return self.switch - prefix.length + 1 if crosses and self.switch is not None else None

    @torch.inference_mode()
    def decode(self, prefix: Prefix, max_new_tokens: int, read_heads: bool = True) -> list[Trace]:
        """Go on greedily from `prefix`, one trace a row, read as `prefix.turns` says.

        What `prefix` guesses is checked in one forward pass; the rest follows token by token.

        Args:
            read_heads: keep where every head looked; without it traces hold tokens only.

        Raises:
            ValueError: `max_new_tokens` is below 1.
            InterventionError: an ablation did not act, or a layer showed no attention pattern.
            ArithmeticError: attention weights or logits that are not numbers.
        """
        return _all_traces(Decoding(self, prefix, self._most(prefix, max_new_tokens), read_heads), prefix)

    @torch.inference_mode()
    def decode_and_score(
        self, prefix: Prefix, replies: Sequence[Sequence[int]], max_new_tokens: int
    ) -> tuple[list[Trace], list[Float32[np.ndarray, " reply"]]]:
        """`decode` without reading heads, and `log_probs`: one pass does for both where guesses begin with the replies.

        Raises:
            as those two do.
        """
        most, pairs = self._most(prefix, max_new_tokens), zip(replies, prefix.guesses, strict=False)
        one_by_one = self.room(prefix) is not None or self.grows_from is not None
        guessed = prefix.guesses and all([*guess[: most - 1]][: len(reply)] == [*reply] for reply, guess in pairs)
        # A donor goes on from what it says itself, and not from its reply begun again.
        if prefix.donors or not guessed or one_by_one:
            log_probs = self.log_probs(prefix, replies)
            return self.decode(prefix, most, read_heads=False), log_probs
        decoding = Decoding(self, prefix, most, read_heads=False)
        traces = _all_traces(decoding, prefix)
        return traces, [decoding.of_guess[row][: len(reply)] for row, reply in enumerate(replies)]

    def _most(self, prefix: Prefix, max_new_tokens: int) -> int:
        """Tokens that rows may say: no more than fit into the model's context."""
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
        return max_new_tokens if self.n_ctx is None else min(max_new_tokens, self.n_ctx - prefix.length + 1)

    @cached_property
    def eos_tokens(self) -> set[int]:
        """Every id that ends a generation: from the tokenizer, the configuration and the generation settings."""
        settings = getattr(self.model.original_model, "generation_config", None)
        found: list[Any] = [self.tokenizer.eos_token_id]
        for ids in (getattr(settings, "eos_token_id", None), getattr(self.config, "eos_token_id", None)):
            found += ids if isinstance(ids, list) else [ids]
        return {i for i in found if i is not None}

    @cached_property
    def special_tokens(self) -> set[int]:
        """Tokens that are no text."""
        return special_ids(self.tokenizer)

    @cached_property
    def turn_ends(self) -> set[int]:
        """Special tokens that end a turn in chat, whether or not they end a generation."""
        return turn_ends(self.tokenizer)

    def row(self, most: int, turn: Turn = FIRST_LINE, room: int | None = None) -> Row:
        """A row that may say `most` tokens of answer, and `room` tokens in all, read as its turn says."""
        decode = exact_decoder(self.tokenizer)
        return Row(self.eos_tokens, decode, most, turn, self.special_tokens, self.turn_ends, room)

    def text_of(self, tokens: Sequence[int] | np.ndarray, turn: Turn = FIRST_LINE) -> str:
        """What was said, as its turn says to read it; without one, up to the end of its first line."""
        row = self.row(len(tokens) + 1, turn)
        for token in tokens:
            row.add(int(token))
        return row.trace(self.shape).output


def _all_traces(decoding: Decoding, prefix: Prefix) -> list[Trace]:
    return [trace for _, traces in in_parts(range(prefix.n_asked), decoding.traces) for trace in traces]
