"""Maps of the effect of every single head, on effects that are written down."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

import rhlens as rh
from rhlens.results.maps import NOTABLE, CausalMap
from rhlens.results.scores import HeadScores
from rhlens.results.stats import mean_ci
from tests.support import shown

NEEDLES = np.repeat(list("abcde"), 2)
NOISE = np.random.default_rng(0).normal(size=(10, 2, 3))
EFFECTS = np.array([[0.0, 0.9, 0.1], [-0.6, 0.2, 0.3]]) + 0.01 * NOISE


def causal_map(effects=EFFECTS, **about) -> CausalMap:
    effects = np.asarray(effects, dtype=float)
    return CausalMap(effects, pd.DataFrame({"needle": NEEDLES[: len(effects)], "logprob": -1.0}), **about)


def scores(means) -> HeadScores:
    values = np.repeat(np.asarray(means, dtype=float)[None], 4, 0)
    return HeadScores(values, values, pd.DataFrame({"needle": range(4)}))


def test_a_heads_effect_is_its_mean_over_trials_with_an_interval_over_needles():
    found = causal_map(1000 * EFFECTS)
    np.testing.assert_allclose(found.mean(), 1000 * EFFECTS.mean(0))
    ci = found.effect_ci((1, 0))
    assert ci == mean_ci(1000 * EFFECTS[:, 1, 0], list(NEEDLES), lowest=-np.inf)
    assert ci.low < ci.value < ci.high < -1, "nothing bounds nats"
    constant = causal_map(np.full((10, 1, 1), 0.3)).effect_ci((0, 0))
    assert constant == (*[pytest.approx(0.3)] * 3, 10, 5), "nor is width made up"
    assert found.needles == list(NEEDLES)


def test_the_largest_effects_come_first():
    found = causal_map()
    assert found.top(3) == [rh.Head(0, 1), rh.Head(1, 2), rh.Head(1, 1)]
    assert causal_map(np.zeros((2, 3, 4))).top() == [rh.Head(i // 4, i % 4) for i in range(10)], "ties in their order"
    table = found.frame()
    assert list(table) == ["name", "layer", "head", "effect", "low", "high"]
    assert len(table) == 6
    assert table["effect"].is_monotonic_decreasing
    row = found.frame(k=2).iloc[-1]
    assert (row["name"], row["layer"], row["head"]) == ("L1H2", 1, 2)
    assert tuple(row[["effect", "low", "high"]]) == found.effect_ci((1, 2))[:3]


def test_rank_correlation_is_that_of_effect_and_score():
    means = np.array([[0.0, 0.3, 0.8], [0.1, 0.9, 0.0]])
    found = causal_map().spearman(scores(means))
    assert found.value == pytest.approx(scipy_stats.spearmanr(EFFECTS.mean(0).ravel(), means.ravel()).statistic)
    assert found.n == 10
    order = EFFECTS.mean(0).argsort(axis=None).argsort().reshape(2, 3) / 10
    assert causal_map().spearman(scores(order)) == (*[pytest.approx(1)] * 3, 10, 5), "noise that changes no rank"
    assert causal_map().spearman(scores(order.max() - order)).value == pytest.approx(-1)
    by_needle = np.where(NEEDLES[:, None, None] == "a", -10, 1) * np.repeat(EFFECTS[:1], 10, 0)
    assert causal_map(by_needle).spearman(scores(order)).low < 0 < causal_map(by_needle).spearman(scores(order)).high


def test_what_does_not_vary_has_no_rank_correlation():
    for effects, means in ((EFFECTS, np.ones((2, 3))), (np.ones((10, 2, 3)), EFFECTS.mean(0) + 1)):
        assert np.isnan(causal_map(effects).spearman(scores(means)).value)


def test_scores_of_another_model_are_refused():
    for ask in (causal_map().spearman, causal_map().frame, causal_map().disagreements):
        with pytest.raises(ValueError, match=r"of 3 x 2 heads, the map of 2 x 3: take scores of the same model$"):
            ask(scores(np.ones((3, 2))))


@pytest.mark.parametrize(
    ("effect", "score", "disagrees"),
    [
        (0.0, 0.5, "score without effect"),
        (-0.5, 0.1, "score without effect"),
        (0.04, np.mean([0.1, 0.1, 0.1]), "score without effect"),
        (NOTABLE, 0.5, ""),
        (0.5, 0.5, ""),
        (0.5, 0.0, "effect without score"),
        (NOTABLE, 0.09, "effect without score"),
        (0.04, 0.0, ""),
        (-0.5, 0.0, ""),
    ],
)
def test_effect_and_score_disagree_where_one_is_surely_without_the_other(effect, score, disagrees):
    found = causal_map(np.full((10, 1, 1), effect))
    row = found.frame(scores([[score]])).iloc[0]
    assert row["score"] == pytest.approx(score)
    assert row["disagrees"] == disagrees
    assert len(found.disagreements(scores([[score]]))) == bool(disagrees)


def test_what_is_unsure_is_no_disagreement():
    spread = np.where(NEEDLES == "a", 4.0, -0.5)[:, None, None]  # mean .4, and an interval on both sides of 0
    assert causal_map(spread).frame(scores([[0.0]]))["disagrees"].item() == ""
    assert causal_map(spread).frame(scores([[0.9]]))["disagrees"].item() == ""
    alone = CausalMap(np.array([[[0.0, 0.9]]]), pd.DataFrame({"needle": ["a"]}))
    assert list(alone.frame(scores([[0.9, 0.0]]))["disagrees"]) == ["", ""], "one needle has no interval"


def test_disagreements_are_rows_of_the_frame():
    effects = np.repeat(np.array([[[0.5, 0.4, 0.0]]]), 10, 0)
    table = causal_map(effects).disagreements(scores([[0.0, 0.9, 0.9]]))
    assert list(table["name"]) == ["L0H0", "L0H2"]
    assert list(table.index) == [0, 1]


def test_every_trial_and_head_has_a_row(tmp_path):
    table = pd.read_csv(causal_map().save(tmp_path / "new" / "map.csv"))
    assert list(table) == ["needle", "logprob", "layer", "head", "effect"]
    np.testing.assert_allclose(table["effect"], EFFECTS.ravel())
    assert list(table["needle"]) == list(np.repeat(NEEDLES, 6))


def test_rows_that_do_not_fit_are_refused():
    for effects in (EFFECTS[0], EFFECTS[1:]):
        with pytest.raises(ValueError, match=r"effects must be \[trial, layer, head\], one row a trial, not \("):
            CausalMap(effects, causal_map().trials)


def test_a_map_says_what_it_is():
    found = causal_map(np.repeat(np.array([[[0.0, 0.9], [0.5, 0.25]]]), 10, 0), model="toy")
    about = "10 trials, zero, both, nats per token; L0H1 0.90, L1H0 0.50, L1H1 0.25"
    assert repr(found) == f"CausalMap(toy: {about})"
    assert repr(CausalMap(found.effects, found.trials)) == f"CausalMap(model: {about})"


def test_a_map_shows_every_head_and_lists_ten():
    found = causal_map(np.repeat(np.linspace(0, 1, 12).reshape(1, 3, 4), 10, 0))
    page = shown(found)
    assert (page.line, page.label) == (repr(found), "nats per token")
    assert (page.cells["L2 H3"], page.cells["L0 H0"], len(page.cells)) == ("1.000", "0.000", 12)
    assert page.headings == list(found.frame())
    assert [row[0] for row in page.rows] == [str(h) for h in found.top(10)]
