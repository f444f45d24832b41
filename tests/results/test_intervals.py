"""Intervals of any statistic: what they must not depend on, and what they must."""

import numpy as np
import pandas as pd
import pytest

from rhlens.results.stats import Interval, bootstrap_ci, clusters_of, difference, mean_ci

VALUES = np.random.default_rng(0).normal(2, 1, (60, 3))
CLUSTERS = list(np.repeat(np.arange(15), [1, 7] * 7 + [4]))


def first(means) -> float:
    return float(means[0])


def ratio(means) -> float:
    return float(means[0] / means[1])


def test_the_interval_of_a_mean_is_that_of_theory():
    found = bootstrap_ci(first, VALUES, resamples=4000)
    half = 1.96 * VALUES[:, 0].std() / np.sqrt(60)
    assert found.value == pytest.approx(VALUES[:, 0].mean())
    assert found.n == 60
    assert (found.value - found.low, found.high - found.value) == (pytest.approx(half, rel=0.1),) * 2


def test_what_is_constant_is_sure_however_its_clusters_are_drawn():
    constant = np.full((4, 60, 2), 3.0)
    for values in (constant, constant[0]):
        assert bootstrap_ci(first, values, CLUSTERS) == (*[pytest.approx(3)] * 3, 60, 15)
    proportional = VALUES[:, :1] * [2.0, 1.0]
    assert bootstrap_ci(ratio, proportional, CLUSTERS) == (*[pytest.approx(2)] * 3, 60, 15)


def test_draws_of_one_result_add_nothing():
    for clusters in (None, CLUSTERS):
        one = bootstrap_ci(ratio, VALUES, clusters)
        assert bootstrap_ci(ratio, VALUES[None], clusters) == one
        assert bootstrap_ci(ratio, np.stack([VALUES] * 3), clusters) == (*map(pytest.approx, one[:3]), 60, one.clusters)


def test_draws_that_differ_widen_the_interval():
    apart = np.stack([VALUES + shift for shift in (-2, 0, 2)])
    narrow, wide = bootstrap_ci(first, VALUES), bootstrap_ci(first, apart)
    assert wide.value == pytest.approx(narrow.value)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
    assert wide.high - wide.low == pytest.approx(2 * 1.96 * np.sqrt(8 / 9), rel=0.25)


def test_trials_of_one_cluster_are_drawn_together():
    repeated, clusters = np.repeat(VALUES[:15], 4, axis=0), list(np.repeat(np.arange(15), 4))
    assert bootstrap_ci(ratio, repeated, clusters)[:3] == pytest.approx(bootstrap_ci(ratio, VALUES[:15])[:3])
    assert bootstrap_ci(ratio, repeated, clusters).n == 60
    named = [f"needle {c}" for c in clusters]
    assert bootstrap_ci(ratio, repeated, named) == bootstrap_ci(ratio, repeated, clusters), "names do not matter"


def test_the_same_seed_gives_the_same_interval():
    assert bootstrap_ci(ratio, VALUES) == bootstrap_ci(ratio, VALUES)
    assert bootstrap_ci(ratio, VALUES, seed=1) != bootstrap_ci(ratio, VALUES)
    assert mean_ci(VALUES[:, 0], seed=1) != mean_ci(VALUES[:, 0])


def test_a_single_cluster_has_no_interval():
    found = bootstrap_ci(first, VALUES, ["a"] * 60)
    assert found.value == pytest.approx(VALUES[:, 0].mean())
    assert np.isnan([found.low, found.high]).all()
    assert found.n == 60
    assert np.isnan(mean_ci(np.array([]))[:3]).all()
    assert np.isnan(mean_ci(np.array([2.0, 3.0]), ["a", "a"], lowest=-np.inf)[1:3]).all()


def test_the_width_of_what_does_not_vary_stays_within_its_bounds():
    assert mean_ci(np.ones(4)).high == 1
    assert mean_ci(np.zeros(4)).low == 0
    assert mean_ci(np.zeros(4), lowest=-1.0).low == -mean_ci(np.zeros(4)).high < 0
    assert mean_ci(np.full(4, 3.0)).high == 3, "sums may pass 1"
    assert mean_ci(np.full(4, 0.5)).low == max(0, 0.5 - mean_ci(np.zeros(4)).high)


def test_a_difference_is_as_sure_as_both_of_its_sides_together():
    a, b = Interval(0.9, 0.6, 1.0, 20, 4), Interval(0.5, 0.2, 0.54, 10, 5)
    found = difference(a, b)
    assert found.value == pytest.approx(0.4)
    assert found.low == pytest.approx(0.4 - np.hypot(0.3, 0.04)), "the lower end of one and the upper of the other"
    assert found.high == pytest.approx(0.4 + np.hypot(0.1, 0.3))
    assert (found.n, found.clusters) == (30, 9)
    back = difference(b, a)
    assert (back.low, back.high) == (pytest.approx(-found.high), pytest.approx(-found.low))


def test_rows_of_one_needle_are_alike_and_rows_without_stand_alone():
    assert clusters_of(pd.DataFrame({"needle": list("aab")})) == list("aab")
    assert clusters_of(pd.DataFrame({"kind": list("aab")})) == [0, 1, 2]


def test_an_interval_reads_as_a_sentence_has_it():
    assert str(Interval(0.1234, -1.0, 0.999, 7)) == "0.12 [-1.00, 1.00], n = 7"
    assert str(Interval(0.5, 0.1, 0.9, 12, 12)) == "0.50 [0.10, 0.90], n = 12", "trials that have nothing in common"
    assert str(Interval(0.5, 0.1, 0.9, 12, 3)) == "0.50 [0.10, 0.90], n = 12 of 3 needles"
