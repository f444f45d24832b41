"""Permutation tests against all permutations, and shares of variance against known effects."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhlens.results.association import association, holm, variance_shares

FACTORS = {"needle": np.repeat(np.arange(12), 20), "depth": np.tile(np.repeat(np.arange(5), 4), 12),
           "length": np.tile(np.arange(4), 60)}  # fmt: skip
EFFECT = {
    name: np.random.default_rng(i).normal(size=codes.max() + 1) for i, (name, codes) in enumerate(FACTORS.items())
}


def between(values, labels) -> float:
    """Sum of squares between labels, from its definition."""
    values, labels = np.asarray(values, float), np.asarray(labels)
    return sum((values[labels == u].mean() - values.mean()) ** 2 * (labels == u).sum() for u in set(labels))


def orders(blocks, shift: bool):
    """Every order of rows in which rows stay in their block."""
    places = [np.flatnonzero(np.asarray(blocks) == b) for b in dict.fromkeys(blocks)]
    turns = [[np.roll(p, -i) for i in range(len(p))] if shift else itertools.permutations(p) for p in places]
    for chosen in itertools.product(*turns):
        order = np.empty(len(blocks), dtype=int)
        for place, new in zip(places, chosen, strict=True):
            order[place] = list(new)
        yield order


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("blocks", [list("aaaaaaa"), list("aaaabbb"), list("abababa")])
def test_p_is_the_share_of_all_permutations(shift, blocks):
    values, labels = np.array([3.0, 1.0, 2.0, 7.0, 5.0, 6.0, 9.0]), np.array(["x", "y", "x", "y", "z", "z", "y"])
    centred = values.copy()
    for b in set(blocks):
        centred[np.array(blocks) == b] -= values[np.array(blocks) == b].mean()
    found = between(centred, labels)
    every = [between(centred, labels[order]) for order in orders(blocks, shift)]
    expected = np.mean(np.array(every) >= found - 1e-9)
    share, p = association(values[:, None], list(labels), blocks, shift, permutations=20_000)
    assert p[0] == pytest.approx(expected, abs=0.012)
    assert share[0] == pytest.approx(found / (centred**2).sum())


def test_without_a_difference_p_is_uniform_and_with_one_it_is_small():
    rng = np.random.default_rng(0)
    labels, blocks = np.tile(np.arange(4), 12), np.repeat(np.arange(12), 4)
    _, p = association(rng.normal(size=(48, 600)), list(labels), list(blocks), permutations=2000)
    assert 0.03 <= np.mean(p <= 0.05) <= 0.07
    assert 0.45 <= np.mean(p <= 0.5) <= 0.55
    _, p = association((labels == 2)[:, None] + 0.1 * rng.normal(size=(48, 1)), list(labels), list(blocks))
    assert p[0] < 0.001


@given(st.integers(0, 1000))
def test_what_differs_between_blocks_is_no_evidence(seed):
    rng = np.random.default_rng(seed)
    x, labels, blocks = rng.normal(size=(24, 2)), [*rng.integers(0, 3, 24)], [*np.repeat(np.arange(6), 4)]
    shifted = x + 100 * rng.normal(size=6)[blocks][:, None]
    for a, b in zip(*(association(v, labels, blocks, permutations=99) for v in (x, shifted)), strict=True):
        np.testing.assert_allclose(a, b)


def test_a_column_that_does_not_vary_is_no_evidence():
    share, p = association(np.ones((6, 1)), list("aabbcc"))
    assert (share[0], p[0]) == (0, 1)
    assert association(np.ones((6, 0)), list("aabbcc"))[1].shape == (0,)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_steps_down(ps):
    expected = np.empty(len(ps))
    running = 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        running = max(running, min(1.0, (len(ps) - rank) * ps[i]))
        expected[i] = running
    np.testing.assert_allclose(holm(np.array(ps)), expected)


@pytest.mark.parametrize("name", FACTORS)
def test_one_factor_alone_has_all_of_the_variance(name):
    shares = variance_shares(EFFECT[name][FACTORS[name]][:, None], FACTORS)
    assert shares[:, 0] == pytest.approx([*(float(name == other) for other in FACTORS), 0.0])


def test_a_column_that_does_not_vary_has_no_shares_beside_one_that_does():
    varying = EFFECT["depth"][FACTORS["depth"]]
    shares = variance_shares(np.stack([np.full(240, 0.3), varying], axis=1), FACTORS)
    assert np.isnan(shares[:, 0]).all()
    assert shares[:, 1].sum() == pytest.approx(1)


def test_known_components_come_out():
    """Random effects of variance 4, 2 and 1 and noise of variance 1, over many draws."""
    rng, found = np.random.default_rng(0), []
    factors = {"a": np.repeat(np.arange(30), 400), "b": np.tile(np.repeat(np.arange(20), 20), 30),
               "c": np.tile(np.arange(20), 600)}  # fmt: skip
    for _ in range(60):
        effects = [
            rng.normal(0, np.sqrt(v), codes.max() + 1)[codes]
            for v, codes in zip((4, 2, 1), factors.values(), strict=True)
        ]
        found.append(variance_shares((sum(effects) + rng.normal(size=12_000))[:, None], factors)[:, 0])
    np.testing.assert_allclose(np.mean(found, axis=0), np.array([4, 2, 1, 1]) / 8, atol=0.03)


def test_chance_gives_many_levels_no_share():
    """Eta squared would give twelve needles 11 of 239 parts of pure noise, on average."""
    noise = np.random.default_rng(0).normal(size=(240, 300))
    shares = variance_shares(noise, FACTORS)
    assert shares[:3].mean() < 0.01
    assert shares[3].mean() > 0.97
    np.testing.assert_allclose(shares.sum(0), 1)


def test_the_mean_squares_are_those_of_an_analysis_of_variance():
    """Against least squares on dummy variables: the residual left by each factor's absence."""
    rng = np.random.default_rng(1)
    y = sum(EFFECT[n][c] for n, c in FACTORS.items()) + rng.normal(size=240)
    dummies = {n: np.eye(c.max() + 1)[c][:, 1:] for n, c in FACTORS.items()}

    def left(names) -> float:
        design = np.hstack([np.ones((240, 1)), *(dummies[n] for n in names)])
        return float(((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2).sum())

    freedom = {n: d.shape[1] for n, d in dummies.items()}
    noise = left(FACTORS) / (239 - sum(freedom.values()))
    parts = [
        ((left([m for m in FACTORS if m != n]) - left(FACTORS)) / freedom[n] - noise) / (240 / (freedom[n] + 1))
        for n in FACTORS
    ]
    parts.append(noise)
    np.testing.assert_allclose(variance_shares(y[:, None], FACTORS)[:, 0], np.array(parts) / sum(parts))


@given(st.floats(-5, 5), st.floats(0.1, 10))
def test_shares_know_no_unit(shift, scale):
    y = (sum(EFFECT[n][c] for n, c in FACTORS.items()) + np.sin(np.arange(240.0)))[:, None]
    np.testing.assert_allclose(variance_shares(shift + scale * y, FACTORS), variance_shares(y, FACTORS), atol=1e-6)


def test_designs_that_say_nothing_are_refused():
    y = np.arange(6.0)[:, None]
    with pytest.raises(ValueError, match="equally often"):
        variance_shares(y, {"a": list("aabbbb"), "b": list("xyxyxy")})
    with pytest.raises(ValueError, match="equally often"):
        variance_shares(y, {"a": list("aabbcc"), "b": list("xxxxxy")})
    with pytest.raises(ValueError, match="more depths or lengths"):
        variance_shares(y, {"a": list("abcdef"), "b": list("xxxxxx")})
    assert np.isnan(variance_shares(np.ones((6, 1)), {"a": list("aaabbb")})).all()
