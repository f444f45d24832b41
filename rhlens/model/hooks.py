"""What is read from attention heads while a model runs, and how ablations get into it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Float32, Int32
from torch import Tensor, nn

from rhlens.model.ablation import ATTENTION_METHODS, OUTPUT_METHODS, Edits, HeadOutputs, InterventionError
from rhlens.model.numbers import check_numbers, strongest
from rhlens.model.placement import stacked

if TYPE_CHECKING:
    from transformer_lens.hook_points import HookPoint
    from transformer_lens.model_bridge import TransformerBridge


@dataclass
class HeadReader:
    """Reads every head's argmax key and its weight from attention patterns; no pattern row outlives its layer."""

    n_layers: int
    _seen: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def fwd_hooks(self) -> list[tuple[str, Any]]:
        return [
            (f"blocks.{i}.attn.hook_pattern", lambda pattern, hook, i=i: self.see(pattern, i))
            for i in range(self.n_layers)
        ]

    def see(self, pattern: Float[Tensor, "row head query key"], layer: int) -> None:
        self._seen[layer] = strongest(pattern)

    def end_step(self) -> Looks:
        """What was seen since the last one.

        Raises:
            InterventionError: a layer showed no attention pattern.
            ArithmeticError: attention weights that are not numbers.
        """
        missing = [i for i in range(self.n_layers) if i not in self._seen]
        if missing:
            raise InterventionError(
                f"layers {missing} show no attention pattern: rhlens needs a softmax-attention model "
                "(state-space and linear-attention layers have no heads to score)"
            )
        seen = [self._seen[i] for i in range(self.n_layers)]
        self._seen = {}
        position, weight = (stacked(of_layers) for of_layers in zip(*seen, strict=True))
        check_numbers(weight, "attention weights")
        return Looks(position.int().cpu().numpy(), weight.float().cpu().numpy())


class Looks(NamedTuple):
    """Where every head looked most, and how much of its attention went there."""

    position: Int32[np.ndarray, "layer row head query"]
    weight: Float32[np.ndarray, "layer row head query"]


@contextmanager
def edited_bridge(bridge: TransformerBridge, edits: Edits) -> Iterator[None]:
    """The bridge under `edits`, while inside: outputs at `hook_z`, attention at `hook_attn_scores`."""
    hooks = [
        (f"blocks.{i}.attn.hook_z", lambda z, hook, i=i: edits.output(z, i)) for i in edits.layers(*OUTPUT_METHODS)
    ]
    hooks += [
        (f"blocks.{i}.attn.hook_attn_scores", lambda s, hook, i=i: edits.scores(s, i))
        for i in edits.layers(*ATTENTION_METHODS)
    ]
    with bridge.hooks(fwd_hooks=hooks):
        yield


@contextmanager
def edited_projections(projections: Sequence[nn.Module], edits: Edits) -> Iterator[None]:
    """The same on plain modules, for methods that replace outputs: edit the *input* of each output projection.

    Never its output: the projection mixes heads.
    """
    n_heads = edits.shape[1]

    def edit(module: nn.Module, args: tuple[Tensor, ...], layer: int) -> tuple[Tensor, ...]:
        z = edits.output(rearrange(args[0], "batch pos (head d) -> batch pos head d", head=n_heads), layer)
        return (rearrange(z, "batch pos head d -> batch pos (head d)"), *args[1:])

    with ExitStack() as stack:
        for i in edits.layers(*OUTPUT_METHODS):
            stack.callback(projections[i].register_forward_pre_hook(partial(edit, layer=i)).remove)
        yield


class Witness:
    """Head outputs at one position, as the output projections themselves receive them: after every hook.

    Args:
        position: 0, the first one that passes, or -1, the last one.
    """

    def __init__(self, projections: Sequence[nn.Module], n_heads: int, position: int) -> None:
        self._projections, self._n_heads, self._position = projections, n_heads, position
        self._z: dict[int, Float[Tensor, "row head d_head"]] = {}

    @property
    def z(self) -> HeadOutputs:
        """What was seen.

        Raises:
            InterventionError: a layer's projection was never used.
        """
        if missing := [i for i in range(len(self._projections)) if i not in self._z]:
            raise InterventionError(f"the attention output projections of layers {missing} were never called")
        n_rows = max(len(z) for z in self._z.values())
        return stacked([self._z[i].expand(n_rows, -1, -1) for i in range(len(self._projections))])

    @contextmanager
    def watching(self) -> Iterator[Witness]:
        """Look while inside."""
        with ExitStack() as stack:
            for i, module in enumerate(self._projections):
                stack.callback(module.register_forward_hook(partial(self._see, layer=i)).remove)
            yield self

    def _see(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor, layer: int) -> None:
        if layer not in self._z or self._position == -1:
            z = args[0][:, self._position]
            self._z[layer] = rearrange(z, "batch (head d) -> batch head d", head=self._n_heads).clone()


class EnoughRead(Exception):
    """Not an error: the last layer's keys and values are in the cache, which is all that a prompt is read for."""


@contextmanager
def no_further_than(projection: nn.Module) -> Iterator[None]:
    """A forward pass ends, by `EnoughRead`, once this output projection has seen its last position, while inside.

    Enter it after everything else that looks at the projection or edits its input.
    """

    def last_position(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][:, -1:], *args[1:])

    def stop(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        raise EnoughRead

    with ExitStack() as stack:
        stack.callback(projection.register_forward_pre_hook(last_position).remove)
        stack.callback(projection.register_forward_hook(stop).remove)
        yield


@contextmanager
def one_row_below(layer: nn.Module, n_rows: int) -> Iterator[None]:
    """A single row becomes `n_rows` equal ones as it enters this layer, while inside."""

    def expand(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, ...]:
        if args:
            return (args[0].expand(n_rows, -1, -1), *args[1:]), options
        return args, options | {"hidden_states": options["hidden_states"].expand(n_rows, -1, -1)}

    with ExitStack() as stack:
        stack.callback(layer.register_forward_pre_hook(expand, with_kwargs=True).remove)
        yield


@contextmanager
def mean_outputs(projections: Sequence[nn.Module], n_heads: int) -> Iterator[list[Float[Tensor, "head d_head"]]]:
    """Sums of every head's output over all rows and positions that pass while inside, one `[head, d_head]` a layer."""
    sums: list[Tensor] = [torch.zeros(()) for _ in projections]

    def add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor, layer: int) -> None:
        z = rearrange(args[0].float(), "batch pos (head d) -> (batch pos) head d", head=n_heads)
        sums[layer] = sums[layer].to(z) + z.sum(0)

    with ExitStack() as stack:
        for i, module in enumerate(projections):
            stack.callback(module.register_forward_hook(partial(add, layer=i)).remove)
        yield sums


def users_hooks(point: HookPoint) -> list[str]:
    """The modules that the hooks in `point` are from, but for what TransformerLens keeps there (OPT, XGLM)."""
    owners = [str(getattr(hook.user_hook, "__module__", "")) for hook in point.fwd_hooks]
    return [owner for owner in owners if not owner.startswith("transformer_lens.")]
