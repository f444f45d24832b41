"""Traces: what a model said, token by token, and where every head looked while it said so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32, Int64

from rhlens.model.hooks import Looks


@dataclass(frozen=True, eq=False)
class Trace:
    """One greedy generation: per step the token, its log-probability (nats), and per head where it looked most.

    Positions count from the prompt's first token; steps that follow the end of the answer are not kept.
    """

    tokens: Int64[np.ndarray, " step"]
    logprob: Float32[np.ndarray, " step"]
    position: Int32[np.ndarray, "step layer head"]
    weight: Float32[np.ndarray, "step layer head"]


class Row:
    """The tokens of one row of a batch, where heads looked for each, and whether they are complete.

    Args:
        most: tokens it may have.
    """

    def __init__(self, eos_tokens: set[int], decode: Callable[[list[int]], str], most: int) -> None:
        self._eos_tokens, self._decode, self._most, self._text = eos_tokens, decode, most, ""
        self.tokens: list[int] = []
        self._logprobs: list[float] = []
        self._looks: list[Looks] = []
        self.done = False

    def add(self, token: int, logprob: float | None = None, looks: Looks | None = None) -> None:
        """One token more, with its log-probability and where heads looked, if somebody read that."""
        if self.done:
            return
        if token in self._eos_tokens:
            self.done = True
            return
        self.tokens.append(token)
        if logprob is not None:
            self._logprobs.append(logprob)
        if looks is not None:
            self._looks.append(looks)
        self._text += self._decode([token])
        # A model may open its answer with a line break; only a line that says something can end.
        self.done = "\n" in self._text.lstrip() or len(self.tokens) >= self._most

    def trace(self, shape: tuple[int, int]) -> Trace:
        """What was said, and what heads of a model of `shape` looked at; no steps where nobody read that."""
        n = len(self._looks)
        position = np.array([looks.position for looks in self._looks], dtype=np.int32)
        weight = np.array([looks.weight for looks in self._looks], dtype=np.float32)
        return Trace(
            np.array(self.tokens, dtype=np.int64),
            np.array(self._logprobs, dtype=np.float32),
            position.reshape(n, *shape),
            weight.reshape(n, *shape),
        )
