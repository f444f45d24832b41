"""An n-gram language model: what a model that only counts would make of a text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

DISCOUNT = 0.75


class NGram:
    """Interpolated absolute discounting: each order gives `DISCOUNT` of every count to the next lower one.

    The lowest order is uniform over the vocabulary, so that no token is impossible.

    Args:
        documents: token ids; no context reaches from one document into the next.
        order: tokens that count, the predicted one included.
    """

    def __init__(self, documents: Iterable[Sequence[int]], vocab_size: int, order: int = 5) -> None:
        self.vocab_size, self.order, self.n_tokens = vocab_size, order, 0
        self._counts: defaultdict[tuple[int, ...], int] = defaultdict(int)
        self._totals: defaultdict[tuple[int, ...], int] = defaultdict(int)
        self._distinct: defaultdict[tuple[int, ...], int] = defaultdict(int)
        for document in documents:
            self.n_tokens += len(document)
            for end in range(1, len(document) + 1):
                for start in range(max(0, end - order), end):
                    self._add(tuple(document[start:end]))

    def _add(self, gram: tuple[int, ...]) -> None:
        self._totals[gram[:-1]] += 1
        self._distinct[gram[:-1]] += gram not in self._counts
        self._counts[gram] += 1

    def probability(self, context: Sequence[int], token: int) -> float:
        """Of `token` after `context`."""
        p = 1 / self.vocab_size
        for n in range(min(self.order - 1, len(context)) + 1):
            seen = tuple(context[len(context) - n :])
            if total := self._totals.get(seen):
                kept = max(self._counts.get((*seen, token), 0) - DISCOUNT, 0)
                p = (kept + DISCOUNT * self._distinct[seen] * p) / total
        return p

    def losses(self, document: Sequence[int]) -> Float[np.ndarray, " token"]:
        """Negative log probability (nats) of every token but the first."""
        return np.array([-np.log(self.probability(document[:i], document[i])) for i in range(1, len(document))])
