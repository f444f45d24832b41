"""Numbers as they come out of a model: which of them is the largest, and whether they are numbers at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

TIE = 1e-5
"""Weights that differ by less than this share of themselves are equal.

Where no position is encoded, the keys of a repeated token are the same, and get weights that differ by rounding alone:
otherwise on every path, in every batch, and with every number of threads.
"""


def strongest(pattern: Float[Tensor, "*row key"]) -> tuple[Int[Tensor, "*row"], Float[Tensor, "*row"]]:
    """The key that each row of attention weighs most, the first of equal ones (`TIE`), and the largest weight."""
    weight = pattern.amax(-1, keepdim=True)
    return _first(pattern >= weight * (1 - TIE)), weight.squeeze(-1)


def likeliest(logits: Float[Tensor, "*row vocab"]) -> Int[Tensor, "*row"]:
    """The token that each row of logits makes likeliest: the first of equally likely ones (`TIE`)."""
    return _first(logits >= logits.amax(-1, keepdim=True) - TIE)


def _first(found: Bool[Tensor, "*row n"]) -> Int[Tensor, "*row"]:
    # argmax promises the first of equal maxima, which topk does not, and is quicker on bytes than on floats.
    return found.view(torch.uint8).argmax(-1)


def check_numbers(values: Float[Tensor, "layer ..."], what: str, dtype: torch.dtype | None = None) -> None:
    """Raise ArithmeticError, which names the first layer of which some are not, unless all values are finite.

    Args:
        dtype: what they were computed in, if they were cast since.
    """
    if bool(torch.isfinite(values).all()):
        return
    layer = int((~torch.isfinite(values)).flatten(1).any(1).int().argmax())
    raise not_finite(f"{what} of layer {layer}", dtype or values.dtype)


def check_logits(logits: Tensor, again: Callable[[], Any], projections: Sequence[Any]) -> Tensor:
    """`logits`, once all are finite.

    Args:
        again: computes them once more, to see where it begins.
        projections: each layer's attention output projection.

    Raises:
        ArithmeticError: they are not; the first layer with such attention is named.
    """
    if bool(torch.isfinite(logits).all()):
        return logits
    with _not_finite_layers(projections) as layers:
        again()
    raise not_finite(f"attention of layer {min(layers)}" if layers else "logits, but in no attention", logits.dtype)


def not_finite(what: str, dtype: torch.dtype) -> ArithmeticError:
    """The error for NaN and infinity, with what can be done about them in a model of this type."""
    remedy = {
        torch.float16: "load the model with dtype='bfloat16' or 'float32', which do not end at 65504 as float16 does",
        torch.bfloat16: "load the model with dtype='float32', and if that is no better get its files anew",
    }.get(dtype, "its weights are damaged or too large, so get its files anew")
    return ArithmeticError(f"not a finite number in the {what} (in {str(dtype).removeprefix('torch.')}): {remedy}")


@contextmanager
def _not_finite_layers(projections: Sequence[Any]) -> Iterator[set[int]]:
    """Layers whose attention outputs hold other than finite numbers, of all that passes while inside."""
    found: set[int] = set()

    def look(module: Any, args: tuple[Tensor, ...], output: Any, layer: int) -> None:
        if not torch.isfinite(args[0]).all():
            found.add(layer)

    with ExitStack() as stack:
        for i, module in enumerate(projections):
            stack.callback(module.register_forward_hook(partial(look, layer=i)).remove)
        yield found
