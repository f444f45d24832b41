from collections import Counter
from math import comb

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rhlens.results.controls import control_sets
from rhlens.results.heads import Head

CONTROLS = ("random", "layer-matched", "score-bottom")


def every(n_layers, n_heads):
    return [Head(a, b) for a in range(n_layers) for b in range(n_heads)]


@given(st.sampled_from(CONTROLS), st.integers(1, 6), st.integers(2, 6), st.data())
def test_controls_are_disjoint_from_the_retrieval_heads_nested_and_seeded(control, n_layers, n_heads, data):
    exclude = data.draw(st.lists(st.sampled_from(every(n_layers, n_heads)), unique=True, max_size=n_layers * n_heads))
    most = min([n_heads - n for n in Counter(h.layer for h in exclude).values()] or [n_heads])
    top = exclude[: data.draw(st.integers(0, len(exclude)))]
    assume(all(2 * n <= n_heads for n in Counter(h.layer for h in exclude).values()) and most > 0)
    assume(not top or comb(n_layers * n_heads - len(exclude), len(top)) >= 4)
    scores = np.arange(n_layers * n_heads).reshape(n_layers, n_heads) % 3
    options = {"exclude": exclude, "shape": (n_layers, n_heads), "draws": 4, "seed": 1, "scores": scores}
    sets = control_sets(control, top, **options)
    assert all(len(set(s)) == len(top) and not set(s) & set(exclude) for s in sets)
    assert sets == control_sets(control, top, **options | {"exclude": sorted(exclude)})
    if len(top) > 1:
        assert sets[0][:1] == control_sets(control, top[:1], **options)[0]
    for chosen in sets:
        if control == "layer-matched":
            assert [h.layer for h in chosen] == [h.layer for h in top]
        if control == "score-bottom":
            pool = sorted(scores[h] for h in every(n_layers, n_heads) if h not in exclude)
            assert [scores[h] for h in chosen] == pool[: len(top)]


def test_random_controls_differ_between_draws_and_seeds_and_cover_all_heads():
    top = every(4, 8)[:5]
    sets = control_sets("random", top, [(0, 0)], (4, 8), draws=60)
    assert len({tuple(s) for s in sets}) == 60
    assert {h for s in sets for h in s} == set(every(4, 8)) - {Head(0, 0)}
    assert sets != control_sets("random", top, [(0, 0)], (4, 8), draws=60, seed=1)


def test_ties_among_the_lowest_are_broken_at_random():
    sets = control_sets("score-bottom", [Head(0, 0)], [(0, 0)], (2, 8), draws=30, scores=np.zeros((2, 8)))
    assert len({s[0] for s in sets}) > 5


@pytest.mark.parametrize(("k", "draws"), [(4, 1), (3, 2), (2, 4)])
def test_too_few_heads_for_a_control_is_an_error(k, draws):
    with pytest.raises(ValueError, match="only 3 heads are left"):
        control_sets("random", [Head(1, i) for i in range(k)], [(0, 0)], (1, 4), draws)
    assert len(control_sets("random", [Head(1, 0), Head(1, 1)], [(0, 0)], (1, 4), 3)) == 3


def test_what_cannot_be_matched_is_one_clear_sentence():
    with pytest.raises(ValueError, match="layer 0 has too few heads"):
        control_sets("layer-matched", [Head(0, 0), Head(0, 1)], [(0, 0), (0, 1)], (2, 3), 1)
    with pytest.raises(ValueError, match="needs scores"):
        control_sets("score-bottom", [Head(0, 0)], [(0, 0)], (2, 3), 1)
    with pytest.raises(ValueError, match="control must be one of random, layer-matched, score-bottom"):
        control_sets("placebo", [], [], (2, 3), 1)  # pyright: ignore[reportArgumentType] (what is tested)
