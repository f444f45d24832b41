"""What is read from and done to attention heads while a model runs, with a guard that each intervention acted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from rhlens.results.heads import Head

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Phase = Literal["prefill", "decode", "both"]


class InterventionError(RuntimeError):
    """An intervention did not do what it says; its result would mean nothing."""


@dataclass(frozen=True)
class Ablation:
    """A condition: the output `z` of `heads` is zero during `phase`.

    Decoding starts with the last token of the prompt, whose attention fetches the first answer token; the prefill is
    everything before it.
    """

    heads: tuple[Head, ...] = ()
    phase: Phase = "decode"

    def __post_init__(self) -> None:
        if self.phase not in get_args(Phase):
            raise ValueError(f"phase must be one of {', '.join(get_args(Phase))}, not {self.phase!r}")
        object.__setattr__(self, "heads", tuple(Head(*h) for h in self.heads))

    def heads_in(self, phase: Literal["prefill", "decode"]) -> tuple[Head, ...]:
        return self.heads if self.phase in (phase, "both") else ()


NO_ABLATION = Ablation()


@dataclass
class HeadReader:
    """Collects, per decode step, every head's argmax key and its weight; a pattern row never leaves its hook.

    Attributes:
        position: one `[layer, batch, head]` tensor a step.
        weight: the same, the attention weight at that position.
    """

    n_layers: int
    position: list[Int[Tensor, "layer batch head"]] = field(default_factory=list)
    weight: list[Float[Tensor, "layer batch head"]] = field(default_factory=list)
    _step: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def fwd_hooks(self) -> list[tuple[str, Any]]:
        return [(f"blocks.{i}.attn.hook_pattern", partial(self._read, layer=i)) for i in range(self.n_layers)]

    def _read(self, pattern: Float[Tensor, "batch head query key"], hook: Any, layer: int) -> None:
        row = pattern[:, :, -1]
        # argmax, not max: only argmax promises the first of equal maxima on every device.
        at = row.argmax(-1, keepdim=True)
        self._step[layer] = at[..., 0].int(), row.gather(-1, at)[..., 0].float()

    def end_step(self) -> None:
        """Close a decode step.

        Raises:
            InterventionError: a layer showed no attention pattern.
        """
        missing = [i for i in range(self.n_layers) if i not in self._step]
        if missing:
            raise InterventionError(
                f"layers {missing} show no attention pattern: rhlens needs a softmax-attention model "
                "(state-space and linear-attention layers have no heads to score)"
            )
        steps = [self._step[i] for i in range(self.n_layers)]
        self.position.append(torch.stack([position for position, _ in steps]))
        self.weight.append(torch.stack([weight for _, weight in steps]))
        self._step = {}


class _ZeroHeads:
    """Zeroes heads of `z` layer by layer, and remembers how large each was before."""

    def __init__(self, heads: Sequence[Head], n_heads: int) -> None:
        self.n_heads = n_heads
        self.by_layer: dict[int, list[int]] = {}
        for layer, head in heads:
            self.by_layer.setdefault(layer, []).append(head)
        self._size: dict[int, Float[Tensor, " ablated"]] = {}

    def __call__(
        self, z: Float[Tensor, "batch pos head d_head"], hook: Any = None, *, layer: int
    ) -> Float[Tensor, "batch pos head d_head"]:
        if z.ndim != 4 or z.shape[2] != self.n_heads:
            raise InterventionError(
                f"z of layer {layer} has shape {tuple(z.shape)}, not [batch, pos, {self.n_heads}, d]"
            )
        heads = self.by_layer[layer]
        z = z.clone()
        size = z[:, :, heads].abs().amax((0, 1, 3))
        self._size[layer] = torch.maximum(size, self._size[layer]) if layer in self._size else size
        z[:, :, heads] = 0
        return z

    def verify(self) -> None:
        """Raise unless every layer's hook fired, and some head of the set had an output to take away.

        One dead head in a set is no error: a random control may draw it.
        """
        for layer in self.by_layer:
            if layer not in self._size:
                raise InterventionError(f"the ablation of layer {layer} never acted: its hook did not fire")
        if self._size and not any(size.any() for size in self._size.values()):
            names = ", ".join(str(Head(layer, h)) for layer, heads in self.by_layer.items() for h in heads)
            raise InterventionError(f"ablating {names} changes nothing, since its output is always zero: leave it out")


@contextmanager
def ablated_bridge(bridge: TransformerBridge, heads: Sequence[Head]) -> Iterator[None]:
    """Zero `heads` at `hook_z` while inside; raise on leaving if that changed nothing."""
    zero = _ZeroHeads(heads, bridge.cfg.n_heads)
    hooks = [(f"blocks.{layer}.attn.hook_z", partial(zero, layer=layer)) for layer in zero.by_layer]
    with bridge.hooks(fwd_hooks=hooks):
        yield
    zero.verify()


@contextmanager
def ablated_twin(twin: nn.Module, projections: Sequence[str], heads: Sequence[Head], n_heads: int) -> Iterator[None]:
    """The same on the twin: zero the heads' slices of the *input* of each attention output projection.

    Never its output: the projection mixes heads.
    """
    zero = _ZeroHeads(heads, n_heads)

    def edit(module: nn.Module, args: tuple[Tensor, ...], layer: int) -> tuple[Tensor, ...]:
        z = zero(rearrange(args[0], "batch pos (head d) -> batch pos head d", head=n_heads), layer=layer)
        return (rearrange(z, "batch pos head d -> batch pos (head d)"), *args[1:])

    handles = [
        twin.get_submodule(projections[layer]).register_forward_pre_hook(partial(edit, layer=layer))
        for layer in zero.by_layer
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    zero.verify()
