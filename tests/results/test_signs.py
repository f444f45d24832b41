"""Signs of a right answer, constructed so that some heads give them and others do not."""

import warnings

import numpy as np
import pandas as pd
import pytest

from rhlens.results.heads import Head
from rhlens.results.hits import SIGNS, Hits
from rhlens.results.prediction import auroc

TELLING = [Head(1, 2), Head(3, 0)]
KINDS = {"easy": 0.9, "hard": 0.4, "always": 1.0}


@pytest.fixture(autouse=True)
def no_warning_leaks():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def hits(seed: int = 0, needles: int = 60, of_each: int = 4) -> Hits:
    """Two heads copy in right answers, and aim in them more often than not; all others do either by chance."""
    rng, n = np.random.default_rng(seed), needles * of_each
    needle = np.repeat(np.arange(needles), of_each)
    kind = [list(KINDS)[i % 3] for i in needle]
    right = rng.random(n) < [KINDS[k] for k in kind]
    copied, aimed = rng.random((n, 4, 8)).round(1), rng.random((n, 4, 8)) < 0.5
    for h in TELLING:
        copied[:, h.layer, h.head] = np.where(right, 1.0, 0.25)
        aimed[:, h.layer, h.head] = rng.random(n) < np.where(right, 0.8, 0.2)
    labels = {"trial": range(n), "kind": kind, "needle": [f"needle {i}" for i in needle], "exact": right}
    trials = pd.DataFrame(labels | {"confidence": rng.normal(size=n) - 2})
    return Hits(trials, copied, aimed, "constructed")


HITS = hits()


def test_a_rate_is_the_mean_over_heads():
    for trial in range(len(HITS.trials)):
        copied = [HITS.copied[trial, 1, 2], HITS.copied[trial, 3, 0], HITS.copied[trial, 0, 5]]
        assert HITS.rate("copied", [*TELLING, (0, 5)])[trial] == pytest.approx(np.mean(copied))
        assert HITS.rate("aimed", TELLING)[trial] == np.mean([HITS.aimed[trial, h.layer, h.head] for h in TELLING])
    np.testing.assert_array_equal(HITS.rate("confidence", TELLING), HITS.trials["confidence"])
    np.testing.assert_array_equal(HITS.rate("confidence", []), HITS.trials["confidence"])


def test_random_rates_are_of_as_many_other_heads():
    rates = HITS.random_rates("copied", TELLING, draws=12, seed=3)
    assert rates.shape == (12, len(HITS.trials))
    np.testing.assert_array_equal(rates, HITS.random_rates("copied", TELLING, draws=12, seed=3))
    assert (rates != HITS.random_rates("copied", TELLING, draws=12, seed=4)).any()
    others = [(layer, head) for layer in range(4) for head in range(8) if (layer, head) not in TELLING]
    for rate in rates:
        pairs = [(a, b) for i, a in enumerate(others) for b in others[i + 1 :]]
        assert sum(np.allclose(HITS.rate("copied", pair), rate) for pair in pairs) == 1


def test_the_heads_that_tell_are_told_from_those_that_do_not():
    assert HITS.area("copied", TELLING).value == 1
    aimed = HITS.area("aimed", TELLING)
    assert 0.8 < aimed.low < aimed.value < 0.95
    assert HITS.area("confidence", TELLING).low < 0.5 < HITS.area("confidence", TELLING).high
    for sign in ("copied", "aimed"):
        advantage = HITS.advantage(sign, TELLING)
        assert advantage.low > 0.2
        assert advantage.value == pytest.approx(
            HITS.area(sign, TELLING).value
            - np.mean([auroc(HITS.right, rate).value for rate in HITS.random_rates(sign, TELLING)])
        )
        nothing = HITS.advantage(sign, [(0, 0), (2, 5)])
        assert nothing.low < 0 < nothing.high


def test_needles_are_what_is_resampled():
    clusters = list(HITS.trials["needle"])
    assert HITS.area("aimed", TELLING) == auroc(HITS.right, HITS.rate("aimed", TELLING), clusters)


def test_the_frame_has_a_row_a_sign():
    table = HITS.frame(TELLING)
    assert list(table) == ["group", "sign", "auroc", "low", "high", "random heads", "trials", "right"]
    assert list(table["sign"]) == list(SIGNS)
    assert list(HITS.frame(TELLING, by="kind")["sign"]) == list(SIGNS) * 3


def test_the_frame_by_a_column_judges_each_of_its_values_alone():
    table = HITS.frame(TELLING, by="kind").set_index(["kind", "sign"])
    assert len(table) == 9
    for kind in KINDS:
        chosen = np.flatnonzero(HITS.trials["kind"] == kind)
        some = Hits(HITS.trials.iloc[chosen], HITS.copied[chosen], HITS.aimed[chosen])
        for sign in SIGNS:
            row, area = table.loc[(kind, sign)], some.area(sign, TELLING)
            np.testing.assert_array_equal([row["auroc"], row["low"], row["high"]], area[:3])
            assert (row["trials"], row["right"]) == (len(chosen), some.right.sum())
            if sign != "confidence" and kind != "always":
                others = [auroc(some.right, rate).value for rate in some.random_rates(sign, TELLING)]
                assert row["random heads"] == pytest.approx(np.mean(others))
    assert table.loc["always", "auroc"].isna().all(), "nothing to tell apart"


def test_a_silent_answer_is_the_least_confident():
    trials = pd.DataFrame(
        {"needle": list("abcd"), "exact": [True, True, False, False], "confidence": [-0.1, -3.0, -np.inf, -np.inf]}
    )
    nothing = np.zeros((4, 2, 2))
    assert Hits(trials, nothing, nothing > 0).area("confidence", []).value == 1


@pytest.mark.parametrize(
    ("heads", "message"),
    [([], "no heads to judge"), ([(9, 0)], "L9H0 is not a head of this model"), ([(1, 2), (1, 2)], "named twice")],
)
def test_heads_that_cannot_be_judged_are_refused(heads, message):
    for ask in (HITS.rate, HITS.area, HITS.advantage):
        with pytest.raises(ValueError, match=message):
            ask("aimed", heads)
