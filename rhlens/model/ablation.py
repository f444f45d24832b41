"""Ablations: which heads are taken away, how, and when; and the proof that precisely that happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rhlens.results.cache import Window
from rhlens.results.heads import Head

Phase = Literal["prefill", "decode", "both"]
Method = Literal["zero", "mean", "uniform", "window", "resample"]
OUTPUT_METHODS: tuple[Method, ...] = ("zero", "mean", "resample")
ATTENTION_METHODS: tuple[Method, ...] = ("uniform", "window")
"""Methods that replace a head's output, and those that replace its attention."""

HeadOutputs = Float[Tensor, "layer row head d_head"]
"""`z` of every head at one position: what the attention output projections receive."""


_UNEDITABLE = "(some architectures cannot be edited so: use zero, mean or resample)"


class InterventionError(RuntimeError):
    """An intervention did not do what it says; its result would mean nothing."""


def check_ablation(method: str, phase: str) -> None:
    """Raise ValueError for an unknown method or phase."""
    for name, value, known in (("phase", phase, get_args(Phase)), ("method", method, get_args(Method))):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")


@dataclass(frozen=True)
class Ablation:
    """A condition: `heads` are taken away by `method` during `phase`.

    Methods: `zero` sets a head's output `z` to 0; `mean` to its mean over reference prompts; `resample` to its output
    in another prompt at the same place; `uniform` makes it attend to all visible keys alike, which is what the
    paper's released code does; `window` hides all keys but the first and the latest ones, as a cache that drops the
    rest would. Decoding starts with the last token of the prompt, whose attention fetches the first
    answer token; the prefill is everything before it.

    Raises:
        ValueError: an unknown phase or method.
    """

    heads: tuple[Head, ...] = ()
    phase: Phase = "decode"
    method: Method = "zero"
    may_be_idle: bool = False
    """Heads whose output is already what it would become are no error."""
    window: Window = field(default_factory=Window)
    """What `window` leaves visible."""

    def __post_init__(self) -> None:
        check_ablation(self.method, self.phase)
        object.__setattr__(self, "heads", tuple(Head(*h) for h in self.heads))

    def acts_in(self, phase: Literal["prefill", "decode"]) -> bool:
        return bool(self.heads) and self.phase in (phase, "both")


@dataclass
class Edits:
    """The ablations of one batch in one phase, row by row, as what each layer's hooks must do.

    Args:
        ablations: one a row.
        shape: layers and heads of the model.
        means: mean output of every head, for `mean`.
        donors: for `resample`, the row that each row takes its outputs from.
    """

    ablations: Sequence[Ablation]
    phase: Literal["prefill", "decode"]
    shape: tuple[int, int]
    means: Float[Tensor, "layer head d_head"] | None = None
    donors: Int[Tensor, " row"] | None = None
    expected: dict[int, Float[Tensor, "row head key"]] = field(default_factory=dict)
    """Of each layer whose attention is replaced, the weights that it should have at the position that is proven."""

    def __post_init__(self) -> None:
        self._named: dict[Method, Bool[Tensor, "layer row head"]] = {}
        for row, ablation in enumerate(self.ablations):
            if ablation.acts_in(self.phase):
                empty = torch.zeros(self.shape[0], len(self.ablations), self.shape[1], dtype=torch.bool)
                mask = self._named.setdefault(ablation.method, empty)
                for layer, head in ablation.heads:
                    mask[layer, row, head] = True
        if "mean" in self._named and self.means is None:
            raise ValueError("mean ablation needs the heads' mean outputs over reference prompts")
        if "resample" in self._named and self.donors is None:
            raise ValueError("resample ablation needs another prompt of the same length for every prompt")

    def __bool__(self) -> bool:
        return bool(self._named)

    @property
    def methods(self) -> set[Method]:
        return set(self._named)

    @property
    def lowest(self) -> int:
        """The first layer in which anything acts; the number of layers if nothing does."""
        return min(self.layers(*OUTPUT_METHODS, *ATTENTION_METHODS), default=self.shape[0])

    def layers(self, *methods: Method) -> list[int]:
        """Layers in which any of these methods acts."""
        return [i for i in range(self.shape[0]) if any(self._named[m][i].any() for m in methods if m in self._named)]

    def output(self, z: Float[Tensor, "row pos head d_head"], layer: int) -> Float[Tensor, "row pos head d_head"]:
        """The layer's head outputs as they should go on."""
        if z.ndim != 4 or z.shape[2] != self.shape[1]:
            raise InterventionError(
                f"z of layer {layer} has shape {tuple(z.shape)}, not [batch, pos, {self.shape[1]}, d_head]"
            )
        for method in OUTPUT_METHODS:
            if method in self._named and (mask := self._named[method][layer]).any():
                z = torch.where(mask.to(z.device)[:, None, :, None], self._instead(method, z, layer), z)
        return z

    def _instead(self, method: Method, z: Float[Tensor, "row *pos head d_head"], layer: int) -> Float[Tensor, ...]:
        if method == "mean" and self.means is not None:
            return self.means[layer].to(z)
        if method == "resample" and self.donors is not None:
            return z[self.donors.to(z.device)]
        return torch.zeros_like(z)

    def scores(self, scores: Float[Tensor, "row head query key"], layer: int) -> Float[Tensor, "row head query key"]:
        """The layer's attention scores as they should go on: all visible keys equal, or only those of a window seen."""
        hidden = torch.finfo(scores.dtype).min
        visible, edited = scores > hidden / 2, scores
        proven = slice(-1, None) if self.phase == "prefill" else slice(1)
        weights = scores[:, :, proven].float().softmax(-1)
        for method in ATTENTION_METHODS:
            if method not in self._named or not (mask := self._named[method][layer]).any():
                continue
            mask = mask.to(scores.device)[:, :, None, None]
            seen = visible if method == "uniform" else visible & self._kept(scores)
            edited = torch.where(mask, torch.where(seen, 0.0 if method == "uniform" else edited, hidden), edited)
            instead = seen[:, :, proven] * (1.0 if method == "uniform" else weights)
            weights = torch.where(mask, instead / instead.sum(-1, keepdim=True), weights)
        if self.phase == "prefill" or layer not in self.expected:
            self.expected[layer] = weights[:, :, 0]
        return edited

    def _kept(self, scores: Float[Tensor, "row head query key"]) -> Bool[Tensor, "row 1 query key"]:
        """Which keys the windows leave to each query; the last query is the last key's."""
        n_queries, n_keys = scores.shape[-2:]
        keys = torch.arange(n_keys, device=scores.device)
        since = keys[n_keys - n_queries :, None] - keys
        sink, recent = (
            torch.tensor(sizes, device=scores.device)[:, None, None, None]
            for sizes in zip(*(ablation.window for ablation in self.ablations), strict=True)
        )
        return (keys < sink) | (since < recent)

    def prove(
        self, seen: HeadOutputs, clean: HeadOutputs, averages: dict[int, Float[Tensor, "row head d_head"]]
    ) -> None:
        """Check, at one position, what the output projections received against what the ablations say.

        Args:
            seen: the outputs under the ablations.
            clean: the same without any.
            averages: of each layer whose attention is replaced, the value vectors averaged with the weights `expected`.

        Raises:
            InterventionError: a named head's output is not what its method makes it; a head of the first ablated layer
                changed without being named, be it in another row; or all named heads of a row were what they should
                become already.
        """
        named = torch.zeros(seen.shape[:3], dtype=torch.bool, device=seen.device)
        expected = clean.clone()
        for method, mask in self._named.items():
            mask = mask.to(seen.device)
            named |= mask
            for layer in range(self.shape[0]):
                instead = averages[layer] if method in ATTENTION_METHODS and layer in averages else None
                if mask[layer].any():
                    instead = self._instead(method, seen[layer], layer) if instead is None else instead
                    expected[layer] = torch.where(mask[layer][..., None], instead.to(clean), expected[layer])
        relative = 1e-4 if seen.dtype == torch.float32 else 3e-2
        of_layer = relative * clean.abs().amax((1, 2, 3)).clamp_min(1e-6)[:, None, None]
        # A head may be small beside its layer; only an average of many values needs the layer's slack.
        of_head = relative * torch.maximum(clean, expected).abs().amax(-1)
        loose = torch.zeros_like(named)
        for method in self.methods.intersection(ATTENTION_METHODS):
            loose |= self._named[method].to(seen.device)
        off = (seen - expected).abs().amax(-1)
        self._raise_for(
            named & (off > torch.where(loose, of_layer, of_head)),
            "the ablation of {} did not act: what reaches the output projection is not {}",
        )
        ablated = named.any(-1)  # [layer, row]
        first = torch.where(ablated.any(0), ablated.int().argmax(0), ablated.any(1).int().argmax())  # [row]
        # A row that was ablated only while its prompt was read rightly differs from the clean run afterwards.
        apart = [self.phase == "decode" and ablation.phase == "prefill" for ablation in self.ablations]
        alike = torch.arange(self.shape[0], device=seen.device)[:, None] <= first
        alike &= ~torch.tensor(apart, device=seen.device)
        self._raise_for((off > of_layer) & ~named & alike[..., None], "ablating other heads changed {} too")
        acts = ((expected - clean).abs().amax(-1) > 0) & named
        # A window may hide nothing that counted at this one position, and much elsewhere.
        must_act = [not ablation.may_be_idle and ablation.method != "window" for ablation in self.ablations]
        idle = torch.tensor(must_act, device=seen.device) & named.any(-1).any(0) & ~acts.any(-1).any(0)
        self._raise_for(named & idle[:, None], "ablating {} changes nothing: its output is {} already, so leave it out")

    def _raise_for(self, where: Bool[Tensor, "layer row head"], sentence: str) -> None:
        if not where.any():
            return
        row = int(where.nonzero()[0, 1])
        heads = [Head(int(layer), int(head)) for layer, head in where[:, row].nonzero()]
        made = {
            "zero": "zero",
            "mean": "its mean",
            "resample": "another prompt's",
            "uniform": f"its mean over all keys {_UNEDITABLE}",
            "window": f"its mean over the window {_UNEDITABLE}",
        }
        names = ", ".join(map(str, heads[:5])) + (" and others" if len(heads) > 5 else "")
        raise InterventionError(sentence.format(names, made[self.ablations[row].method]))
