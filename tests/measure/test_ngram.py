"""The n-gram model against counts made one by one."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhlens.measure.ngram import DISCOUNT, NGram

VOCABULARY = 4
documents = st.lists(st.lists(st.integers(0, VOCABULARY - 1), max_size=8), max_size=5)


def by_hand(corpus: list[list[int]], context: tuple[int, ...], token: int, order: int) -> float:
    """Longest context first, each order written out: what it saw, and what it passes on to the next shorter one."""
    if len(context) > order - 1:
        return by_hand(corpus, context[len(context) - order + 1 :], token, order)
    n = len(context)
    followers = [d[i + n] for d in corpus for i in range(len(d) - n) if tuple(d[i : i + n]) == context]
    shorter = by_hand(corpus, context[1:], token, order) if context else 1 / VOCABULARY
    if not followers:
        return shorter
    discounted = max(followers.count(token) - DISCOUNT, 0) / len(followers)
    return discounted + DISCOUNT * len(set(followers)) / len(followers) * shorter


@given(documents, st.lists(st.integers(0, VOCABULARY - 1), max_size=6), st.integers(1, 5))
def test_probabilities_are_those_counted_by_hand_and_add_up_to_one(corpus, context, order):
    ngram = NGram(corpus, VOCABULARY, order)
    found = [ngram.probability(context, token) for token in range(VOCABULARY)]
    assert found == pytest.approx([by_hand(corpus, tuple(context), token, order) for token in range(VOCABULARY)])
    assert sum(found) == pytest.approx(1)
    assert min(found) > 0


def test_losses_are_of_every_token_but_the_first():
    ngram = NGram([[0, 1, 2, 3] * 50], VOCABULARY)
    assert ngram.n_tokens == 200
    losses = ngram.losses([0, 1, 2, 3, 0])
    assert losses == pytest.approx([-math.log(ngram.probability([0, 1, 2, 3, 0][:i], t)) for i, t in
                                    ((1, 1), (2, 2), (3, 3), (4, 0))])  # fmt: skip
    assert losses.max() < 0.1, "a fixed cycle is learned"


def test_longer_contexts_predict_better_where_they_matter():
    rng = random.Random(0)
    corpus = [[a, b, (a + b) % 4] for a, b in ((rng.randrange(4), rng.randrange(4)) for _ in range(400))]
    short, long = NGram(corpus, VOCABULARY, 2), NGram(corpus, VOCABULARY, 3)
    held_out = [[a, b, (a + b) % 4] for a in range(4) for b in range(4)]
    last = [np.mean([model.losses(d)[-1] for d in held_out]) for model in (short, long)]
    assert last[1] < 0.2 < 1 < last[0]
