"""What stands behind a generated text: the tokens that heads copied, and where from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Int, Int32

from rhlens.results.heads import Head
from rhlens.results.html import result_html, small_map

SUPPORTED = 0.5
"""Attention weight from which on a copied token counts as supported."""


@dataclass(frozen=True, eq=False)
class Support:
    """One generation, token by token, and where some heads looked as each token was produced.

    A head copies a token where the key that it attends to most holds that same token.

    Attributes:
        tokens: prompt and output, as ids; the output is everything from `n_prompt` on.
        texts: the same, as text; a character of several tokens is with the last of them, and the others are empty.
        heads: the heads that were watched.
        source: of every output token and head, the position that the head attended to most.
        weight: how much of its attention went there.
    """

    tokens: Int[np.ndarray, " token"] = field(repr=False)
    texts: Sequence[str] = field(repr=False)
    n_prompt: int
    heads: Sequence[Head]
    source: Int32[np.ndarray, "step head"] = field(repr=False)
    weight: Float32[np.ndarray, "step head"] = field(repr=False)

    def __post_init__(self) -> None:
        steps = len(self.tokens) - self.n_prompt
        if self.source.shape != (steps, len(self.heads)) or self.weight.shape != self.source.shape:
            raise ValueError(
                f"{steps} tokens and {len(self.heads)} heads, but sources of shape {self.source.shape} and weights of "
                f"{self.weight.shape}"
            )

    def by(self, heads: Sequence[tuple[int, int]]) -> Support:
        """The same as some of the heads saw it.

        Raises:
            ValueError: one of them was not watched.
        """
        chosen = [Head(*h) for h in heads]
        if missing := [h for h in chosen if h not in self.heads]:
            raise ValueError(f"{', '.join(map(str, missing))} not among the heads that were watched: watch them too")
        at = [list(self.heads).index(h) for h in chosen]
        return replace(self, heads=chosen, source=self.source[:, at], weight=self.weight[:, at])

    @property
    def output(self) -> str:
        """What was generated, as one text."""
        return "".join(self.texts[self.n_prompt :])

    def copied(self) -> Bool[np.ndarray, "step head"]:
        """Which heads copied each output token, from the prompt or from the output before it."""
        return self.tokens[self.source] == self.tokens[self.n_prompt :, None]

    def from_prompt(self) -> Bool[np.ndarray, "step head"]:
        """Which heads copied each output token from the prompt."""
        return self.copied() & (self.source < self.n_prompt)

    def scores(self) -> Float[np.ndarray, " step"]:
        """Support of each output token, 0..1: the largest weight with which a head copied it from the prompt."""
        return np.where(self.from_prompt(), self.weight, 0.0).max(axis=1, initial=0.0)

    def sources(self) -> list[int | None]:
        """Of each output token, where in the prompt it was copied from with the largest weight; None if nowhere."""
        found: list[int | None] = []
        for source, weight, copied in zip(self.source, self.weight, self.from_prompt(), strict=True):
            found.append(int(source[np.where(copied, weight, -1.0).argmax()]) if copied.any() else None)
        return found

    def score(self) -> float:
        """Support of the whole output, 0..1: the mean over its tokens that hold a letter or a digit (nan without)."""
        telling, following = [], ""
        for text in reversed(self.texts[self.n_prompt :]):
            following = text or following[:1]  # a token without text of its own is part of the next character
            telling.insert(0, any(map(str.isalnum, following)))
        return float(self.scores()[telling].mean()) if any(telling) else float("nan")

    def frame(self) -> pd.DataFrame:
        """One row an output token: its text, support, whether that is enough, its source, and the heads that copied."""
        copied, rows = self.from_prompt(), []
        for step, (score, source) in enumerate(zip(self.scores(), self.sources(), strict=True)):
            rows.append(
                {
                    "token": self.texts[self.n_prompt + step],
                    "support": float(score),
                    "supported": bool(score >= SUPPORTED),
                    "source": source,
                    "around": None if source is None else "".join(self.texts[max(0, source - 4) : source + 3]),
                    "heads": " ".join(str(h) for h, yes in zip(self.heads, copied[step], strict=True) if yes),
                }
            )
        columns = ["token", "support", "supported", "source", "around", "heads"]
        return pd.DataFrame(rows, columns=columns).astype({"source": "Int64"})

    def __repr__(self) -> str:
        n = int((self.scores() >= SUPPORTED).sum())
        return f"Support({n} of {len(self.source)} tokens copied from the prompt by {len(self.heads)} heads)"

    def _repr_html_(self) -> str:
        weights = np.where(self.from_prompt(), self.weight, 0.0).T[:12].astype(float)
        tokens = [repr(text) for text in self.texts[self.n_prompt :]]
        drawn = small_map(weights, [str(h) for h in self.heads], tokens, "weight of what was copied")
        return result_html(self, self.frame(), drawn)
