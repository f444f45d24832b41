"""Traces: what a model said, token by token, and where every head looked while it said so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor

from rhlens.model.hooks import HeadReader


@dataclass(frozen=True, eq=False)
class Trace:
    """One greedy generation: per step the token, and per head where it looked most.

    Positions count from the prompt's first token; steps that follow the end of the answer are not kept.
    """

    tokens: Int64[np.ndarray, " step"]
    position: Int32[np.ndarray, "step layer head"]
    weight: Float32[np.ndarray, "step layer head"]


class Row:
    """The tokens of one row of a batch, and whether they are complete."""

    def __init__(self, eos_tokens: set[int], decode: Callable[[list[int]], str]) -> None:
        self._eos_tokens, self._decode, self._text = eos_tokens, decode, ""
        self.tokens: list[int] = []
        self.done = False

    def add(self, token: int) -> None:
        if self.done:
            return
        if token in self._eos_tokens:
            self.done = True
            return
        self.tokens.append(token)
        self._text += self._decode([token])
        # A model may open its answer with a line break; only a line that says something can end.
        self.done = "\n" in self._text.lstrip()


def traces_of(rows: Sequence[Row], reader: HeadReader) -> list[Trace]:
    """One trace a row, from what was read at every step.

    Raises:
        ArithmeticError: attention weights that are not numbers.
    """
    position = torch.stack(reader.position).cpu().numpy()  # [step, layer, batch, head]
    weight = torch.stack(reader.weight)
    check_numbers(weight, "attention weights")
    weights = weight.cpu().numpy()
    return [
        Trace(
            np.array(row.tokens, dtype=np.int64),
            position[: len(row.tokens), :, b],
            weights[: len(row.tokens), :, b],
        )
        for b, row in enumerate(rows)
    ]


def check_numbers(values: Float[Tensor, ...], what: str) -> None:
    """Raise ArithmeticError unless all values are finite."""
    if not torch.isfinite(values).all():
        raise ArithmeticError(
            f"{what} in {values.dtype} are not finite: load the model with dtype='float32' or 'bfloat16'"
        )
