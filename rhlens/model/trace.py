"""Traces: what a model said, token by token, and where every head looked while it said so."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from rhlens.model.hooks import Looks
from rhlens.tasks.spelling import Pieces, char_spans
from rhlens.tasks.turns import FIRST_LINE, Ended, Turn


@dataclass(frozen=True, eq=False)
class Trace:
    """One greedy generation: per step the token, its log-probability (nats), and per head where it looked most.

    Positions count from the prompt's first token; steps that follow the end of the answer are not kept.

    Attributes:
        answering: which steps are of the answer; those before are reasoning. None: all of them.
        output: the answer as text.
        ended: why there is no more of it.
    """

    tokens: Int64[np.ndarray, " step"]
    logprob: Float32[np.ndarray, " step"]
    position: Int32[np.ndarray, "step layer head"]
    weight: Float32[np.ndarray, "step layer head"]
    answering: Bool[np.ndarray, " step"] | None = field(default=None, repr=False)
    output: str = ""
    ended: Ended = "limit"


class Row:
    """The tokens of one row of a batch, where heads looked for each, and whether they are complete.

    Args:
        eos_tokens: ids that end a generation.
        decode: from ids to the very text, special tokens included (`exact_decoder`).
        most: tokens that the answer may have.
        turn: how what is said is read.
        special: ids that are no text; those in `turn_ends` end an answer, though not what comes before it.
        room: tokens that fit into the model's context.
    """

    def __init__(
        self,
        eos_tokens: Collection[int],
        decode: Callable[[list[int]], str],
        most: int,
        turn: Turn = FIRST_LINE,
        special: Collection[int] = (),
        turn_ends: Collection[int] = (),
        room: int | None = None,
    ) -> None:
        self._eos_tokens, self._special, self._turn_ends = eos_tokens, special, turn_ends
        self._most, self._room, self._turn = most, room, turn
        self._pieces = Pieces(decode)
        self.tokens: list[int] = []
        self._logprobs: list[float] = []
        self._looks: list[Looks] = []
        self._n_reasoning = 0
        self._start: int | None = None
        self.ended: Ended | None = None

    @property
    def done(self) -> bool:
        return self.ended is not None

    def add(self, token: int, logprob: float | None = None, looks: Looks | None = None) -> None:
        """One token more, with its log-probability and where heads looked, if somebody read that."""
        if self.done:
            return
        if token in self._eos_tokens or (token in self._turn_ends and self._is_answering()):
            self.ended = "end of turn"
            return
        self.tokens.append(token)
        if logprob is not None:
            self._logprobs.append(logprob)
        if looks is not None:
            self._looks.append(looks)
        self._pieces.add(token)
        self.ended = self._end()

    @property
    def _is_full(self) -> bool:
        return self._room is not None and len(self.tokens) >= self._room

    def _is_answering(self) -> bool:
        self._start = self._turn.answer_start("".join(self._pieces.pieces))
        return self._start is not None

    def _end(self) -> Ended | None:
        if not self._is_answering():
            self._n_reasoning = len(self.tokens)
            spent = self._n_reasoning >= self._turn.max_reasoning_tokens
            return "reasoning limit" if spent or self._is_full else None
        if end := self._turn.answer_end(self._answer()):
            return end[1]
        spent = len(self.tokens) - self._n_reasoning >= self._most
        return "limit" if spent or self._is_full else None

    def _answer(self) -> str:
        """What was said of the answer; special tokens are no words, but stand between them."""
        if self._start is None:
            return ""
        found, at = "", 0
        for token, piece in zip(self.tokens, self._pieces.pieces, strict=True):
            at += len(piece)
            if at > self._start:
                found += " " if token in self._special else piece[-(at - self._start) :]
        return found

    def trace(self, shape: tuple[int, int]) -> Trace:
        """What was said, and what heads of a model of `shape` looked at; no steps where nobody read that."""
        n, spans = len(self._looks), char_spans(self._pieces.finish())
        start = self._start if self._is_answering() else None
        answering = [start is not None and (end > start or start == 0) for _, end in spans]
        position = np.array([looks.position for looks in self._looks], dtype=np.int32)
        weight = np.array([looks.weight for looks in self._looks], dtype=np.float32)
        return Trace(
            np.array(self.tokens, dtype=np.int64),
            np.array(self._logprobs, dtype=np.float32),
            position.reshape(n, *shape),
            weight.reshape(n, *shape),
            np.array(answering, dtype=bool),
            self._turn.output(self._answer()),
            self.ended or "limit",
        )
