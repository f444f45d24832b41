"""Areas under the ROC curve against their definition, counted pair by pair, and intervals against simulated truth."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, mannwhitneyu

from rhlens.results.prediction import auroc


@pytest.fixture(autouse=True)
def no_warning_leaks():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@st.composite
def samples(draw, draws: int = 1):
    """Both classes, values with many ties, clusters of any size."""
    n = draw(st.integers(2, 25))
    positive = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    positive[:2] = True, False
    values = np.array(draw(st.lists(st.integers(-4, 4), min_size=n * draws, max_size=n * draws)), dtype=float)
    clusters = draw(st.lists(st.sampled_from("abcde"), min_size=n, max_size=n))
    return positive, values.reshape(draws, n), clusters


def by_pairs(positive, values) -> float:
    """The definition: how often the positive one of two is higher, ties counting half."""
    wins, pairs = 0.0, 0
    for i in np.flatnonzero(positive):
        for j in np.flatnonzero(~positive):
            wins += 1.0 if values[i] > values[j] else 0.5 if values[i] == values[j] else 0.0
            pairs += 1
    return wins / pairs


@given(samples())
def test_the_area_is_that_of_all_pairs_whatever_the_clusters(sample):
    positive, (values,), clusters = sample
    found = auroc(positive, values, clusters)
    assert found.value == pytest.approx(by_pairs(positive, values), abs=1e-12)
    u = mannwhitneyu(values[positive], values[~positive]).statistic
    assert found.value == pytest.approx(u / (positive.sum() * (~positive).sum()), abs=1e-12)
    assert auroc(positive, values).value == pytest.approx(found.value, abs=1e-12)
    assert found.n == len(positive)
    if len(set(clusters)) > 1:
        assert 0 <= found.low <= found.high <= 1


@given(samples())
def test_negated_values_or_classes_mirror_area_and_interval(sample):
    positive, (values,), clusters = sample
    found = auroc(positive, values, clusters)
    for mirrored in (auroc(positive, -values, clusters), auroc(~positive, values, clusters)):
        assert mirrored.value == pytest.approx(1 - found.value, abs=1e-12)
        np.testing.assert_allclose([mirrored.low, mirrored.high], [1 - found.high, 1 - found.low], atol=1e-12)


@given(samples())
def test_only_the_order_of_values_counts(sample):
    positive, (values,), clusters = sample
    found = auroc(positive, values, clusters)
    for monotone in (np.exp(values), values**3 - 7, np.searchsorted(np.unique(values), values)):
        np.testing.assert_allclose(auroc(positive, monotone, clusters), found, atol=1e-12)


@given(samples(draws=4))
def test_draws_are_averaged_and_other_values_taken_off(sample):
    positive, values, clusters = sample
    areas = [by_pairs(positive, row) for row in values]
    assert auroc(positive, values, clusters).value == pytest.approx(np.mean(areas), abs=1e-12)
    less = auroc(positive, values[0], clusters, minus=values[1:])
    assert less.value == pytest.approx(areas[0] - np.mean(areas[1:]), abs=1e-12)


@given(samples())
def test_a_sign_is_no_better_than_itself(sample):
    positive, (values,), clusters = sample
    same = auroc(positive, values, clusters, minus=values)
    assert same.value == 0
    assert (same.low, same.high) == (0, 0) or (len(set(clusters)) == 1 and np.isnan([same.low, same.high]).all())


@given(samples(), st.integers(2, 4))
def test_copies_of_trials_within_their_clusters_add_no_certainty(sample, copies):
    positive, (values,), clusters = sample
    once = auroc(positive, values, clusters)
    more = auroc(np.tile(positive, copies), np.tile(values, copies), clusters * copies)
    np.testing.assert_allclose(more[:3], once[:3], atol=1e-12)


def test_copies_taken_for_trials_of_their_own_would():
    rng = np.random.default_rng(0)
    positive = rng.random(40) < 0.5
    values, clusters = rng.normal(size=40) + positive, [*range(40)] * 10
    honest = auroc(np.tile(positive, 10), np.tile(values, 10), clusters)
    fooled = auroc(np.tile(positive, 10), np.tile(values, 10))
    assert fooled.high - fooled.low < 0.5 * (honest.high - honest.low)


def test_draws_are_resampled_too():
    """Every other draw separates the classes rightly, the others wrongly: few draws say little about their mean."""
    positive = np.arange(60) % 2 == 0
    widths = []
    for n in (4, 64):
        found = auroc(positive, np.where(positive, 1.0, -1.0) * np.resize([1, -1], (n, 1)))
        assert found.value == 0.5
        widths.append(found.high - found.low)
    assert widths[0] >= 0.75
    assert 0.15 < widths[1] < 0.35


@pytest.mark.parametrize("positive", [[True] * 4, [False] * 4, []])
def test_one_class_alone_has_no_area(positive):
    found = auroc(np.array(positive, dtype=bool), np.arange(len(positive), dtype=float))
    assert np.isnan(found[:3]).all()
    assert found.n == len(positive)


def test_a_single_cluster_has_an_area_and_no_interval():
    found = auroc(np.array([True, False, False]), np.array([2.0, 1.0, 2.0]), ["a"] * 3)
    assert found.value == 0.75
    assert np.isnan([found.low, found.high]).all()


def test_clusters_that_hold_one_class_each_leave_resamples_without_a_pair():
    found = auroc(np.array([True, False]), np.array([1.0, 0.0]), ["a", "b"])
    assert found.value == 1
    assert 0 <= found.low <= found.high <= 1, "half of the resamples are passed over, no more"


def test_the_same_seed_gives_the_same_interval():
    rng = np.random.default_rng(2)
    positive, values = rng.random(60) < 0.4, rng.normal(size=60)
    assert auroc(positive, values, seed=3) == auroc(positive, values, seed=3)
    assert auroc(positive, values, seed=3) != auroc(positive, values, seed=4)


@pytest.mark.parametrize("n", [3, 5])
def test_values_that_do_not_fit_the_trials_are_refused(n):
    positive = np.array([True, False, True, False])
    for options in ({"values": np.zeros(n)}, {"values": np.zeros(4), "minus": np.zeros((2, n))}):
        with pytest.raises(ValueError, match=f"{n} values for 4 trials: give one a trial"):
            auroc(positive, **options)


CLUSTERS, OF_EACH = 40, 5


def clustered(rng, n_clusters: int):
    """Trials whose cluster moves both their chance of being positive and their value; and a weaker sign of the same."""
    clusters = np.repeat(np.arange(n_clusters), OF_EACH)
    ease, level = rng.normal(size=(2, n_clusters))[:, clusters]
    positive = rng.random(len(clusters)) < 1 / (1 + np.exp(-3 * ease))
    strong = 0.8 * positive + level + 0.5 * rng.normal(size=len(clusters))
    return positive, strong, strong + 1.5 * rng.normal(size=len(clusters)), clusters


def coverage(simulations: int) -> dict[str, float]:
    """Share of simulated intervals that hold the truth: of an area, of a difference, and with clusters left out."""
    rng = np.random.default_rng(7)
    positive, strong, weak, _ = clustered(rng, 200_000)
    ranks = [mannwhitneyu(x[positive], x[~positive]).statistic for x in (strong, weak)]
    area, other = np.array(ranks) / (positive.sum() * (~positive).sum())
    held = {"area": 0, "difference": 0, "unclustered": 0}
    for _ in range(simulations):
        positive, strong, weak, clusters = clustered(rng, CLUSTERS)
        for name, truth, found in (
            ("area", area, auroc(positive, strong, clusters)),
            ("difference", area - other, auroc(positive, strong, clusters, minus=weak)),
            ("unclustered", area, auroc(positive, strong)),
        ):
            held[name] += found.low <= truth <= found.high
    return {name: n / simulations for name, n in held.items()}


def test_a_few_simulated_intervals_hold_the_truth():
    share = coverage(50)
    assert share["area"] >= 0.86
    assert share["difference"] >= 0.86


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
    share = coverage(600)
    assert 0.92 <= share["area"] <= 0.975
    assert 0.92 <= share["difference"] <= 0.975
    assert share["unclustered"] < 0.90, "the simulation needs clusters that matter"


@pytest.mark.parametrize("n", [2, 5, 40])
def test_perfect_separation_of_few_is_no_certainty(n):
    """A bootstrap of values that tell perfectly would say 1.00 [1.00, 1.00] of three trials."""
    positive = np.arange(2 * n) < n
    found = auroc(positive, positive.astype(float))
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(proportion_low(n), abs=1e-4)
    against = auroc(positive, -positive.astype(float))
    assert (against.value, against.low) == (0, 0)
    assert against.high == pytest.approx(1 - found.low)


def proportion_low(n: int) -> float:
    """Wilson's lower end for n of n, by scipy."""
    return binomtest(n, n).proportion_ci(method="wilson").low
