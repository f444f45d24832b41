from math import comb

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rhlens.results.heads import Head, check_heads, random_control_sets

heads = st.builds(Head, st.integers(0, 200), st.integers(0, 200))


@given(heads)
def test_a_head_prints_as_its_name_and_parses_back(head):
    assert str(head) == f"L{head.layer}H{head.head}"
    assert Head.parse(str(head)) == Head.parse(f"{head.layer}-{head.head}") == head
    layer, number = head
    assert (layer, number) == (head.layer, head.head)


@pytest.mark.parametrize("text", ["", "L1", "1-2-3", "LxHy", "L-1H2", "1.5-2", "²-3"])
def test_no_head_is_an_error(text):
    with pytest.raises(ValueError, match="names no head"):
        Head.parse(text)


@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_control_sets_are_disjoint_from_the_retrieval_heads_nested_and_seeded(n_layers, n_heads, data):
    every = [Head(a, b) for a in range(n_layers) for b in range(n_heads)]
    exclude = data.draw(st.sets(st.sampled_from(every), max_size=len(every) - 1))
    k = data.draw(st.integers(0, len(every) - len(exclude)))
    assume(k == 0 or comb(len(every) - len(exclude), k) >= 4)
    sets = random_control_sets(exclude, n_layers, n_heads, k, draws=4, seed=1)
    assert all(len(set(s)) == k and not set(s) & exclude and set(s) <= set(every) for s in sets)
    assert sets == random_control_sets(sorted(exclude), n_layers, n_heads, k, draws=4, seed=1)
    if k > 1:
        smaller = random_control_sets(exclude, n_layers, n_heads, 1, draws=1, seed=1)
        assert sets[0][:1] == smaller[0]


def test_control_sets_differ_between_draws_and_seeds_and_cover_all_heads():
    sets = random_control_sets([(0, 0)], 4, 8, 5, draws=60)
    assert len({tuple(s) for s in sets}) == 60
    assert {h for s in sets for h in s} == {Head(a, b) for a in range(4) for b in range(8)} - {Head(0, 0)}
    assert sets != random_control_sets([(0, 0)], 4, 8, 5, draws=60, seed=1)


def test_too_few_heads_for_a_control_is_an_error():
    for k, draws in ((4, 1), (3, 2), (2, 4)):
        with pytest.raises(ValueError, match="only 3 heads are left"):
            random_control_sets([(0, 0)], 1, 4, k, draws)
    assert len(random_control_sets([(0, 0)], 1, 4, 2, 3)) == 3


def test_heads_that_do_not_exist_are_named():
    assert check_heads([(1, 2)], 2, 4) == [Head(1, 2)]
    with pytest.raises(ValueError, match=r"L2H0 is not a head .* 2 layers of 4 heads"):
        check_heads([(0, 0), (2, 0)], 2, 4)
    with pytest.raises(ValueError, match="twice"):
        check_heads([(0, 0), (0, 0)], 2, 4)
