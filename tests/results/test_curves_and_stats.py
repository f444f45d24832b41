import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from rhlens.claims.causal import causal
from rhlens.results.curves import RANDOM, TOP, AblationCurve
from rhlens.results.stats import clustered_ci, mean_ci


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
    np.testing.assert_array_equal(c.matrix(RANDOM, 2), [[1, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(c.matrix(RANDOM, 0), c.matrix(TOP, 0))
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


def test_a_model_that_never_retrieved_cannot_pass_the_causal_claim():
    assert not causal(curve({0: BAD, 4: BAD}, {4: [BAD, BAD]})).holds


def test_a_claim_needs_a_measured_k():
    c = curve({0: GOOD, 4: BAD}, {4: [GOOD]})
    for k in (0, 3):
        with pytest.raises(ValueError, match="the curve has no k"):
            causal(c, k)


def test_intervals_know_their_n_and_do_not_collapse_on_shares():
    assert mean_ci(np.array(GOOD)).low == pytest.approx(scipy_stats.binomtest(N, N).proportion_ci(method="wilson").low)
    assert mean_ci(np.array(GOOD)).low < 0.95
    empty = mean_ci(np.array([]))
    assert empty.n == 0
    assert np.isnan(empty.value)
    x = np.random.default_rng(0).normal(size=200)
    ci = mean_ci(x)
    assert ci.low < x.mean() < ci.high
    assert ci.high - ci.low == pytest.approx(2 * 1.96 * x.std() / np.sqrt(200), rel=0.15)
    assert mean_ci(x) == mean_ci(x)


def test_two_way_intervals_are_wider_when_draws_disagree():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, (6, 50))
    agree, differ = clustered_ci(noise), clustered_ci(noise + np.linspace(-1, 1, 6)[:, None])
    assert differ.high - differ.low > 5 * (agree.high - agree.low)
    assert agree.n == 50
