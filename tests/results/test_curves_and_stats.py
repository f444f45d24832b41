import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from rhlens.claims.causal import causal
from rhlens.results.curves import TOP, AblationCurve
from rhlens.results.stats import mean_ci, permutation_p
from tests.support import shown


def curve(top: dict[int, list[float]], random: dict[int, list[list[float]]]) -> AblationCurve:
    rows = [("top", k, 0, t, r) for k, values in top.items() for t, r in enumerate(values)]
    rows += [
        ("random", k, d, t, r) for k, draws in random.items() for d, v in enumerate(draws) for t, r in enumerate(v)
    ]
    return AblationCurve(
        pd.DataFrame(rows, columns=["heads", "k", "draw", "trial", "recall"]).assign(exact=False), "toy"
    )


N = 40
GOOD, BAD = [1.0] * N, [0.0] * N


def test_a_curve_reads_its_cells_and_pairs_by_trial():
    c = curve({0: [1, 1, 0], 2: [0, 1, 0]}, {2: [[1, 1, 0], [1, 0, 0]]})
    np.testing.assert_array_equal(c.matrix(TOP, 2), [[0, 1, 0]])
    np.testing.assert_array_equal(c.matrix("random", 2), [[1, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(c.matrix("random", 0), c.matrix(TOP, 0))
    assert c.contrast(2).value == pytest.approx(np.mean([[1, 0, 0], [1, -1, 0]]))
    assert (c.ks, c.draws) == ([0, 2], 2)
    summary = c.summary().set_index(["heads", "k"])
    assert summary.loc[("random", 2), "recall"] == pytest.approx(0.5)
    assert summary.loc[("random", 2), "draws"] == 2


@pytest.mark.parametrize(
    ("top", "random", "holds"),
    [
        (BAD, [GOOD, GOOD], True),
        (GOOD, [GOOD, GOOD], False),  # the top heads do not matter
        (BAD, [BAD, BAD], False),  # any damage breaks the model: the control refutes
        ([1.0] * 24 + [0.0] * 16, [GOOD, GOOD], False),  # hurt, not destroyed
        (BAD, [GOOD, BAD], False),  # controls break the model half of the time
    ],
)
def test_the_causal_claim_says_yes_and_no_rightly(top, random, holds):
    claim = causal(curve({0: GOOD, 4: top}, {4: random}))
    assert claim.holds is holds
    assert ("does NOT hold" in str(claim)) is not holds
    assert "toy" in str(claim)


def share(p: float) -> list[float]:
    return [1.0] * round(p * N) + [0.0] * (N - round(p * N))


@pytest.mark.parametrize(
    ("clean", "top", "random", "holds"),
    [
        (share(0.0), BAD, [BAD, BAD], False),  # never retrieved
        (share(0.1), BAD, [share(0.1)] * 2, False),  # hardly retrieves
        (GOOD, share(0.45), [GOOD] * 2, False),  # destroyed on average, but the interval reaches half
        (GOOD, share(0.2), [GOOD] * 2, True),
        (GOOD, BAD, [share(0.8)] * 2, False),  # controls keep too little
        (GOOD, BAD, [share(0.9)] * 2, True),
        (share(0.75), share(0.05), [share(0.7)] * 2, True),  # all relative to the unablated model
        (share(0.75), share(0.33), [share(0.7)] * 2, False),
    ],
)
def test_the_causal_claim_knows_its_bounds(clean, top, random, holds):
    assert causal(curve({0: clean, 4: top}, {4: random})).holds is holds


def test_one_trial_proves_nothing():
    claim = causal(curve({0: [0.8], 4: [0.2]}, {4: [[0.8]]}))
    assert not claim.holds
    assert claim.statistic.low < 0 < claim.statistic.high


def test_the_contrast_is_paired_by_trial():
    alike = curve({0: share(0.5), 1: share(0.5)}, {1: [share(0.5)] * 3})
    crossed = curve({0: share(0.5), 1: share(0.5)[::-1]}, {1: [share(0.5)] * 3})
    assert alike.contrast(1).value == crossed.contrast(1).value == 0
    assert crossed.contrast(1).high - crossed.contrast(1).low > 2 * (alike.contrast(1).high - alike.contrast(1).low)


def test_a_claim_needs_a_measured_k():
    c = curve({0: GOOD, 4: BAD}, {4: [GOOD]})
    for k in (0, 3):
        with pytest.raises(ValueError, match="the curve has no k"):
            causal(c, k)
    with pytest.raises(ValueError, match="the curve has no k"):
        c.level(TOP, 3)


def test_what_a_curve_hands_out_does_not_change_it():
    c = curve({0: GOOD, 4: BAD}, {4: [GOOD]})
    c.frame()["recall"] = 0.5
    assert c.level(TOP, 0).value == 1.0


def test_intervals_know_their_n_and_never_collapse():
    wilson = scipy_stats.binomtest(N, N).proportion_ci(method="wilson").low
    assert mean_ci(np.array(GOOD)) == (1.0, pytest.approx(wilson, abs=1e-4), 1.0, N, N)
    assert mean_ci(np.ones((5, N))).low == pytest.approx(wilson, abs=1e-4), "draws of one result add no trials"
    assert mean_ci(np.array([0.8])).low < 0.1
    empty = mean_ci(np.array([]))
    assert empty.n == 0
    assert np.isnan(empty.value)


def test_the_bootstrap_agrees_with_theory_and_is_seeded():
    x = np.random.default_rng(0).uniform(size=200)
    ci = mean_ci(x)
    assert ci.low < x.mean() < ci.high
    assert ci.high - ci.low == pytest.approx(2 * 1.96 * x.std() / np.sqrt(200), rel=0.1)
    assert mean_ci(x) == mean_ci(x)


def test_trials_of_one_needle_count_as_one():
    values = np.repeat(np.random.default_rng(0).uniform(size=20), 10)
    needles = np.repeat(np.arange(20), 10)
    naive, honest = mean_ci(values), mean_ci(values, list(needles))
    assert honest.high - honest.low == pytest.approx(np.sqrt(10) * (naive.high - naive.low), rel=0.15)
    assert honest.value == naive.value
    assert honest.n == 200


def test_draws_and_trials_are_both_resampled():
    rng = np.random.default_rng(0)
    noise = rng.normal(0.5, 0.1, (6, 50))
    agree, draws_differ = mean_ci(noise), mean_ci(noise + np.linspace(-0.3, 0.3, 6)[:, None])
    trials_differ = mean_ci(noise + np.linspace(-0.3, 0.3, 50))
    assert draws_differ.high - draws_differ.low > 4 * (agree.high - agree.low)
    assert trials_differ.high - trials_differ.low > 2 * (agree.high - agree.low)
    assert agree.n == 50


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(1, 5))
def test_an_interval_holds_its_mean_and_stays_in_range(values, n_needles):
    ci = mean_ci(np.array(values), [i % n_needles for i in range(len(values))])
    assert -1e-9 <= ci.low <= ci.value + 1e-9
    assert ci.value - 1e-9 <= ci.high <= 1 + 1e-9


def test_the_sign_flip_test_counts_flips():
    assert permutation_p(np.ones(3)) == pytest.approx(1 / 8)
    assert permutation_p(np.array([2.0, -1.0])) == pytest.approx(2 / 4)  # ++ and -+... of (2, -1): sums 1, -3, 3, -1
    assert permutation_p(np.zeros(5)) == 1.0
    assert permutation_p(np.ones(40), ["a"] * 20 + ["b"] * 20) == pytest.approx(1 / 4), "clusters flip together"
    assert permutation_p(np.ones(40)) < 0.001
    assert permutation_p(-np.ones(40)) == 1.0


def test_the_sign_flip_test_keeps_its_level():
    rng = np.random.default_rng(0)
    ps = np.array([permutation_p(rng.normal(size=10)) for _ in range(400)])
    assert 0.02 <= (ps <= 0.05).mean() <= 0.09
    assert 0.4 <= (ps <= 0.5).mean() <= 0.6


def test_a_curve_is_written_into_folders_that_are_made(tmp_path):
    found = curve({0: GOOD, 4: BAD}, {4: [GOOD]})
    for _ in range(2):
        path = found.save(tmp_path / "one" / "two" / "curve.csv")
    pd.testing.assert_frame_equal(pd.read_csv(path), found.frame())


def test_nothing_ablated_is_nothing_to_compare():
    with pytest.raises(ValueError, match="measure a k above 0"):
        curve({0: GOOD}, {}).contrast(0)
    assert np.isnan(permutation_p(np.array([1.0, np.nan])))


def test_a_curve_knows_its_p_values_and_controls():
    c = curve({0: GOOD, 4: BAD}, {4: [GOOD, GOOD]})
    assert c.controls == ["random"]
    assert c.p_value(4) < 0.001
    assert curve({0: GOOD, 4: GOOD}, {4: [GOOD, GOOD]}).p_value(4) == 1.0


def test_what_nothing_bounds_gets_no_invented_width():
    assert mean_ci(np.full(5, -2.5), lowest=-np.inf)[:3] == (-2.5, -2.5, -2.5)
    assert np.isnan(mean_ci(np.array([-2.5]), lowest=-np.inf).low)
    low, high = mean_ci(np.array([-3.0, -1.0, -2.0] * 10), lowest=-np.inf)[1:3]
    assert -3 < low < -2 < high < -1


def test_the_p_of_draws_ranks_the_top_set_among_the_control_sets():
    def with_draws(recalls):
        rows = [{"heads": "top", "k": k, "draw": 0, "trial": t, "needle": t, "recall": r}
                for k, r in ((0, 1.0), (2, 0.5)) for t in range(3)]  # fmt: skip
        rows += [{"heads": "random", "k": 2, "draw": d, "trial": t, "needle": t, "recall": r}
                 for d, r in enumerate(recalls) for t in range(3)]  # fmt: skip
        return AblationCurve(pd.DataFrame(rows))

    assert with_draws([0.9] * 19).draw_p(2) == pytest.approx(1 / 20)
    assert with_draws([0.9] * 18 + [0.2]).draw_p(2) == pytest.approx(2 / 20)
    assert with_draws([0.5] * 19).draw_p(2) == 1, "ties count against the top heads"


def test_a_curve_shows_its_recall():
    found = curve({0: [1, 1, 0], 2: [0, 1, 0]}, {2: [[1, 1, 0], [1, 0, 0]]})
    page = shown(found)
    assert page.line == repr(found) == "AblationCurve(toy: zero, decode, k = [0, 2], 2 control draws)"
    assert repr(AblationCurve(found.answers)).startswith("AblationCurve(model: ")
    assert page.label == "recall"
    assert page.cells == {"top k=0": "0.667", "top k=2": "0.333", "random k=0": "0.667", "random k=2": "0.500"}
    assert page.headings == list(found.summary()) == ["heads", "k", "recall", "low", "high", "trials", "draws"]
