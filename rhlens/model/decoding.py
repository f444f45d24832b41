"""Greedy decoding of many rows, each of which may be guessed: one forward pass checks a whole guess."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor
from transformers import DynamicCache

from rhlens.model.caches import picked
from rhlens.model.continuing import going_on
from rhlens.model.hooks import HeadReader, Looks
from rhlens.model.numbers import likeliest
from rhlens.model.prefix import Prefix
from rhlens.model.trace import Trace
from rhlens.tasks.turns import FIRST_LINE

if TYPE_CHECKING:
    from rhlens.model.engine import Engine


class Branch(NamedTuple):
    """Rows that have said equally many tokens.

    Attributes:
        asked: rows of the prefix; their donors come after them in cache and tokens.
        cache: what they have said; None before they start.
        tokens: what they read next: their last token, and at the start their guesses.
    """

    asked: list[int]
    cache: DynamicCache | None
    tokens: Int[Tensor, "row pos"]


class Decoding:
    """Lets rows of a prefix go on until each has ended.

    Args:
        most: tokens a row may say.
        read_heads: keep where every head looked.

    Attributes:
        of_guess: of each row, the log-probability (nats) of every token of its guess after those before it, if heads
            are not read.
    """

    def __init__(self, engine: Engine, prefix: Prefix, most: int, read_heads: bool) -> None:
        self._engine, self._prefix, self._most = engine, prefix, most
        self._reader = HeadReader(engine.n_layers) if read_heads else None
        self.of_guess: dict[int, Float32[np.ndarray, " guess"]] = {}

    def traces(self, asked: Sequence[int]) -> list[Trace]:
        """One trace a row of `asked`, in that order."""
        n_ctx, turns = self._engine.n_ctx, self._prefix.turns
        room = None if n_ctx is None else n_ctx - self._prefix.length + 1
        self._rows = {row: self._engine.row(self._most, turns[row] if turns else FIRST_LINE, room) for row in asked}
        self._finish(list(asked))
        return [self._rows[row].trace(self._engine.shape) for row in asked]

    def _finish(self, asked: list[int]) -> None:
        """Let rows go on until each has ended, or has as many tokens as short rotary factors serve; then from there."""
        self._room = self._engine.room(self._prefix)
        todo = [self._start(asked)]
        while todo:
            todo += self._advance(todo.pop())
        if crossing := [row for row in asked if not self._rows[row].done]:
            self._prefix = self._engine.reread(self._prefix)
            self._finish(crossing)

    def _goes_on(self, row: int) -> bool:
        return not self._rows[row].done and (self._room is None or len(self._rows[row].tokens) < self._room)

    def _guess(self, row: int) -> Sequence[int]:
        """What a row may say next, given that it has said nothing; or what it has said."""
        if row in self._rows and self._rows[row].tokens:
            return self._rows[row].tokens
        fits = self._most - 1 if self._room is None else min(self._most, self._room) - 1
        if self._engine.grows_from is not None:
            fits = min(fits, max(0, self._engine.grows_from - self._prefix.length))
        return self._prefix.guesses[row][:fits] if self._prefix.guesses else ()

    def _start(self, asked: list[int]) -> Branch:
        guesses = [list(self._guess(row)) for row in self._prefix.with_donors(asked)]
        width = max(map(len, guesses))
        padded = torch.tensor([g + [0] * (width - len(g)) for g in guesses], dtype=torch.long).reshape(
            len(guesses), width
        )
        last = self._prefix.last[self._prefix.with_donors(asked)]
        return Branch(asked, None, torch.cat([last, padded.to(last)], dim=1))

    def _advance(self, branch: Branch) -> list[Branch]:
        """Go on with a branch until rows part, or most are done; what is left of it."""
        asked, tokens, n = branch.asked, branch.tokens, len(branch.asked)
        n_said = [0 if branch.cache is not None else len(self._rows[row].tokens) for row in asked]
        with going_on(self._engine, self._prefix, asked, branch.cache, self._reader) as (cache, run):
            while True:
                logits = run(tokens)
                said = likeliest(logits)
                if branch.cache is None and self._reader is None:
                    self.of_guess |= {row: log_probs_of(logits[i], tokens[i, 1:]) for i, row in enumerate(asked)}
                steps = self._steps(asked, tokens, said)
                self._note(asked, logits, said.tolist(), steps, n_said)
                alive = [i for i, row in enumerate(asked) if self._goes_on(row)]
                if tokens.shape[1] > 1 or 2 * len(alive) <= n:
                    break
                tokens, n_said = said, [0] * n
        branches = []
        for n_steps in {steps[i] for i in alive}:
            rows = [i for i in alive if steps[i] == n_steps]
            rows_and_donors = rows + [n + i for i in rows if self._prefix.donors]
            kept = picked(cache, rows_and_donors, tokens.shape[1] - n_steps)
            branches.append(Branch([asked[i] for i in rows], kept, said[rows_and_donors, n_steps - 1 : n_steps]))
        return branches

    def _steps(self, asked: list[int], tokens: Tensor, said: Tensor) -> list[int]:
        """How many of the tokens each row said are its own: up to the first that its guess did not foresee."""
        if tokens.shape[1] == 1:
            return [1] * len(asked)
        if all(self._rows[row].tokens for row in asked):
            return [1 + len(self._rows[row].tokens) for row in asked]
        right = (tokens[:, 1:] == said[:, :-1]).tolist()
        lengths = [len(self._guess(row)) for row in self._prefix.with_donors(asked)]
        steps = [1 + [*r[:n], False].index(False) for r, n in zip(right, lengths, strict=True)]
        # A donor gives its outputs step by step: no row may be ahead of its own.
        donors = steps[len(asked) :] or steps
        return [min(pair) for pair in zip(steps[: len(asked)], donors, strict=True)]

    def _note(
        self,
        asked: list[int],
        logits: Float[Tensor, "row pos vocab"],
        said: list[list[int]],
        steps: list[int],
        n_said: list[int],
    ) -> None:
        """Give rows what they said in a pass, but for what they had said before it (`n_said`)."""
        if self._reader is None:
            for i, row in enumerate(asked):
                for token in said[i][n_said[i] : steps[i]]:
                    self._rows[row].add(token)
            return
        looks, of_asked = self._reader.end_step(), logits[: len(asked)].float()
        logprobs = (of_asked.amax(-1) - of_asked.logsumexp(-1)).tolist()
        for i, row in enumerate(asked):
            for j in range(n_said[i], steps[i]):
                seen = Looks(looks.position[:, i, :, j], looks.weight[:, i, :, j])
                self._rows[row].add(said[i][j], logprobs[i][j], seen)


def log_probs_of(logits: Float[Tensor, "pos vocab"], tokens: Int[Tensor, " token"]) -> Float32[np.ndarray, " token"]:
    """Log-probability (nats) of each token, where the first so many `logits` foretell them."""
    of_row = logits[: len(tokens)].float()
    return (of_row.gather(-1, tokens[:, None])[:, 0] - of_row.logsumexp(-1)).cpu().numpy()
