"""Activation patching: one prompt is run while some heads get what they computed on another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rhlens.model.ablation import InterventionError
from rhlens.model.drift import evaluating
from rhlens.model.engine import Engine
from rhlens.model.numbers import check_logits, check_numbers
from rhlens.model.placement import stacked
from rhlens.model.prefix import Prefix
from rhlens.results.heads import Head

Site = Literal["z", "pattern", "q", "k", "v"]
"""What is patched of a head: its output, its attention, its queries, or its group's keys or values."""
Positions = Literal["answer", "all"]
"""`answer`: from the last prompt token on; `all`: from the first token on in which the two prompts differ."""

Heads = Sequence[Head]
Activations = dict[int, Tensor]
"""By layer, `[row, pos, head, d_head]` (`pattern`: `[row, head, query, key]`)."""


class PatchRun:
    """A base and a source prompt that differ in few tokens, both followed by the same reply.

    What stands before the patched positions is read once, into a cache that all patches share; from there on memory
    grows with the square of the tokens, since patterns are held.

    Args:
        start: the first position that is run under patches.
        reply: the tokens that are made to follow both prompts.

    Raises:
        ValueError: rotary frequencies change within the reply, and one pass cannot have both.
    """

    def __init__(
        self, engine: Engine, base: Int[Tensor, " pos"], source: Int[Tensor, " pos"], start: int, reply: Sequence[int]
    ) -> None:
        self.engine, self.n_reply = engine, len(reply)
        start = 0 if engine.one_piece else start
        check_one_pass(engine, len(base), len(reply))
        self._sources: dict[Site, Activations] = {}
        forced = torch.tensor(list(reply[:-1]), dtype=torch.long)
        self._suffixes = {"base": torch.cat([base[start:], forced]), "source": torch.cat([source[start:], forced])}
        before = [tokens[: start + 1] for tokens in (base, source)]
        cached = [engine.prefill(tokens[None]) if start > 0 else None for tokens in before[:1]]
        same = torch.equal(before[0][:-1], before[1][:-1])
        cached += cached if same else [engine.prefill(before[1][None])]
        self._cached: dict[str, Prefix | None] = dict(zip(("base", "source"), cached, strict=True))

    def run(
        self, side: Literal["base", "source"], n_rows: int = 1, hooks: Sequence[tuple[str, Any]] = ()
    ) -> Float[Tensor, "row reply vocab"]:
        """Logits of the reply, `n_rows` times side by side under hooks of TransformerLens."""
        prefix, model = self._cached[side], self.engine.model
        tokens = self._suffixes[side][None].expand(n_rows, -1).to(self.engine.device)

        def forward() -> Float[Tensor, "row reply vocab"]:
            cache = prefix.fork([0] * n_rows) if prefix else None
            return model(tokens, past_key_values=cache, use_cache=cache is not None, logits_to_keep=self.n_reply)

        with evaluating(model), model.hooks(fwd_hooks=list(hooks)):
            return check_logits(forward(), forward, self.engine.projections(model))

    def record(
        self, side: Literal["base", "source"], names: Mapping[int, str], n_rows: int = 1, hooks: Sequence[Any] = ()
    ) -> tuple[Activations, Float[Tensor, "row reply vocab"]]:
        """Activations at the named hooks, by layer, and the logits."""
        found: Activations = {}
        keep = [(name, lambda x, hook, i=i: found.__setitem__(i, x.detach().clone())) for i, name in names.items()]
        logits = self.run(side, n_rows, [*hooks, *keep])
        if missing := [name for i, name in names.items() if i not in found]:
            raise InterventionError(f"the hooks {', '.join(missing)} never fired: this architecture has no such site")
        return found, logits

    def source(self, site: Site) -> Activations:
        """What every head computed on the source prompt."""
        if site not in self._sources:
            self._sources[site], _ = self.record("source", site_names(self.engine, site))
        return self._sources[site]

    @torch.inference_mode()
    def logits(self, side: Literal["base", "source"]) -> Float[Tensor, "reply vocab"]:
        """Logits of the reply without a patch."""
        return self.run(side)[0]

    @torch.inference_mode()
    def patched(self, sets: Sequence[Heads], site: Site) -> Float[Tensor, "row reply vocab"]:
        """Logits of the reply to the base prompt, one row a set of heads that are patched together.

        Args:
            sets: under `k` and `v`, heads are numbers of key-value groups.
        """
        return self.run("base", len(sets), self.patches(sets, site, self.source(site)))

    @torch.inference_mode()
    def prove(self, site: Site) -> None:
        """Check that patching every head at once moves the run, and with outputs all the way to the source's answer.

        Raises:
            InterventionError: it does not.
        """
        base = self.logits("base")
        if torch.equal(base, self.logits("source")):
            return  # the needle is out of sight, so there is nothing to move
        n_heads = self.source(site)[0].shape[_head_dim(site)]
        everything = [Head(layer, head) for layer in range(self.engine.n_layers) for head in range(n_heads)]
        moved = self.patched([everything], site)[0]
        if (moved - base).abs().max() <= 1e-6 * base.abs().max():
            raise InterventionError(f"patching {site!r} changes nothing on this architecture: use site='z'")
        if site == "z":
            self._prove_arrival(moved, "outputs")

    @torch.inference_mode()
    def prove_paths(self, site: Site) -> None:
        """Check what path patching needs: outputs and `site` can be patched, and attention layers can be held.

        Raises:
            InterventionError: one of them cannot.
        """
        self.prove("z")
        self.prove(site)
        there, _ = self.record("source", self._attention_names)
        held = [(name, lambda x, hook, i=i: there[i].to(x)) for i, name in self._attention_names.items()]
        self._prove_arrival(self.run("base", 1, held)[0], "attention layers")

    def _prove_arrival(self, moved: Float[Tensor, "reply vocab"], what: str) -> None:
        """Once all that attention put out is the source's, so must the answer be: tokens from there on are the same."""
        base, source = self.logits("base"), self.logits("source")
        if (moved - source).abs().max() > 0.05 * (base - source).abs().max().clamp_min(1e-6):
            raise InterventionError(f"patching all {what} does not give the other prompt's answer: try dtype='float32'")

    @property
    def _attention_names(self) -> dict[int, str]:
        return {i: f"blocks.{i}.hook_attn_out" for i in range(self.engine.n_layers)}

    def patches(self, sets: Sequence[Heads], site: Site, values: Activations) -> list[tuple[str, Any]]:
        """Hooks that give each row's heads what `values` hold; one row of values serves all rows."""
        dim = _head_dim(site)
        hooks = []
        for layer, name in site_names(self.engine, site).items():
            mask = torch.zeros(len(sets), values[layer].shape[dim], dtype=torch.bool)
            for row, heads in enumerate(sets):
                mask[row, [h.head for h in heads if h.layer == layer]] = True
            if mask.any():
                shaped = mask[:, :, None, None] if dim == 1 else mask[:, None, :, None]
                hooks.append((name, lambda x, hook, m=shaped, v=values[layer]: torch.where(m.to(x.device), v.to(x), x)))
        return hooks

    @torch.inference_mode()
    def through(self, senders: Heads, receivers: Heads, site: Site) -> Float[Tensor, "row reply vocab"]:
        """Path patching: each sender's output from the source prompt reaches only the receivers' site.

        Every row first runs with its sender patched and all later attention layers held at the base prompt's
        outputs, so that the change arrives by the residual stream and the MLPs alone (Wang et al. 2022, IOI); what
        the receivers' site computes then is patched into a run of the base prompt.
        """
        frozen, _ = self.record("base", self._attention_names)
        below = torch.tensor([sender.layer for sender in senders])
        hooks = self.patches([[sender] for sender in senders], "z", self.source("z"))
        hooks += [
            (name, lambda x, hook, i=i: torch.where((below < i)[:, None, None].to(x.device), frozen[i], x))
            for i, name in self._attention_names.items()
        ]
        wanted = {i: name for i, name in site_names(self.engine, site).items() if i in {r.layer for r in receivers}}
        arrived, _ = self.record("base", wanted, len(senders), hooks)
        values = {i: arrived.get(i, x) for i, x in self.source(site).items()}
        return self.run("base", len(senders), self.patches([receivers] * len(senders), site, values))

    def attribution(
        self, right: Int[Tensor, " n"], wrong: Int[Tensor, " n"], at: Sequence[int]
    ) -> Float[Tensor, "layer head"]:
        """What patching each head's output would change, to first order: gradient times difference of outputs.

        Of the mean logit difference between tokens `right` and `wrong` at the reply's positions `at`.
        """
        names = site_names(self.engine, "z")
        with torch.inference_mode():
            source = self.source("z")
            recorded, _ = self.record("base", names)
        # Leaves that are added to z have its gradient, and no weight needs one.
        nudges = {i: torch.zeros_like(z).requires_grad_() for i, z in recorded.items()}
        with torch.enable_grad():
            hooks = [(name, lambda z, hook, i=i: z + nudges[i]) for i, name in names.items()]
            logits = self.run("base", 1, hooks)[0]
            rows = torch.arange(len(at), device=logits.device)
            chosen = logits[list(at)].float()
            metric = (chosen[rows, right.to(logits.device)] - chosen[rows, wrong.to(logits.device)]).mean()
            gradients = torch.autograd.grad(metric, list(nudges.values()))
        changes = {i: g.float() * (source[i] - recorded[i]) for i, g in zip(nudges, gradients, strict=True)}
        found = stacked([changes[i].sum((0, 1, 3)) for i in names])
        check_numbers(found, "gradients by the outputs", logits.dtype)
        return found


def check_one_pass(engine: Engine, n_tokens: int, n_reply: int) -> None:
    """Raise ValueError unless a prompt and its reply can be read in one pass as they would be token by token."""
    total = n_tokens + n_reply - 1
    crosses = engine.switch is not None and n_tokens <= engine.switch < total
    if crosses or (engine.grows_from is not None and total > max(n_tokens, engine.grows_from)):
        raise ValueError(
            f"a prompt of {n_tokens} tokens and its reply reach beyond {engine.switch or engine.grows_from} tokens, "
            "where this model's rotary frequencies change, and patching reads both in one pass: choose another length"
        )


def _head_dim(site: Site) -> int:
    return 1 if site == "pattern" else 2


def site_names(engine: Engine, site: Site) -> dict[int, str]:
    """The hook of each layer."""
    return {i: f"blocks.{i}.attn.hook_{site}" for i in range(engine.n_layers)}
