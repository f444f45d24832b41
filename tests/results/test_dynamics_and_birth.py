"""When heads fire, on scores and copy events that were made up to depend on one thing each."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

import rhlens as rh
from rhlens.measure.profile import activation_by_kind
from rhlens.results.birth import ALIKE, RECALL, birth
from rhlens.results.dynamics import (
    ALWAYS_ON,
    DEPENDENT,
    PLACES,
    answer_positions,
    dynamics_of,
    effective_trials,
    fires_for,
    frequencies,
    head_variance,
    rates,
    wilson,
)
from rhlens.results.heads import Head
from rhlens.results.interop import read_scores
from rhlens.results.scores import HeadScores
from tests.support import firing

# FACTS.md, section 2: heads of 0.1 or more, and heads that fire in every trial.
PUBLISHED = {
    "llama-2-7b-80k": (33, 12),
    "Mistral-7B-v0.2-hf": (43, 31),
    "Mixtral-8x7B-v0.1": (63, 40),
    "Qwen1.5-14B": (61, 0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_as_many_heads_as_were_counted(published, name):
    table = frequencies(read_scores(published / f"{name}.json"))
    retrieving, always = PUBLISHED[name]
    assert (table["activity"] != "").sum() == retrieving
    assert (table["frequency"] == 1).sum() == always
    assert set(table.loc[table["frequency"] == 1, "activity"]) <= {ALWAYS_ON, ""}
    assert (table["low"] <= table["frequency"] + 1e-12).all()
    assert (table["frequency"] <= table["high"] + 1e-12).all()


@given(st.integers(1, 60), st.data())
def test_wilson_is_scipys(n, data):
    hits = data.draw(st.integers(0, n))
    expected = scipy_stats.binomtest(hits, n).proportion_ci(method="wilson")
    low, high = wilson(np.array([hits / n]), np.array([float(n)]))
    assert (low[0], high[0]) == (pytest.approx(expected.low, abs=1e-4), pytest.approx(expected.high, abs=1e-4))


def test_trials_of_one_needle_count_for_as_much_as_they_differ():
    rng, needles = np.random.default_rng(0), np.repeat(np.arange(200), 10)
    of_needle = np.repeat(rng.random((200, 1)) < 0.5, 10, axis=0)
    free = rng.random((2000, 1)) < 0.5
    assert effective_trials(of_needle, list(needles))[0] == pytest.approx(200, rel=0.05)
    assert effective_trials(free, list(needles))[0] == pytest.approx(2000, rel=0.15)
    assert effective_trials(free, list(range(2000)))[0] == 2000
    always = np.ones((2000, 1), dtype=bool)
    assert effective_trials(always, list(needles))[0] == 200, "nothing shows how alike they are"
    both = effective_trials(np.hstack([always, of_needle]), list(needles))
    assert both[0] == both[1], "the other head shows it"
    assert effective_trials(free, ["one"] * 2000)[0] == 1


@pytest.mark.slow
@pytest.mark.parametrize(("needles", "each"), [(14, 6), (28, 8), (60, 4)])
@pytest.mark.parametrize("alike", [0.0, 0.1, 0.4, 0.8])
def test_frequency_intervals_cover_the_truth(needles, each, alike):
    """Needles whose own frequencies follow a beta distribution of this correlation within needles."""
    truth, covered = np.array([0.3, 0.5, 0.7, 0.85, 0.95, 0.98]), np.zeros(6)
    for seed in range(500):
        rng = np.random.default_rng(seed)
        spread = (1 - alike) / alike if alike else np.inf
        own = rng.beta(truth * spread, (1 - truth) * spread, (needles, 6)) if alike else np.tile(truth, (needles, 1))
        active = np.concatenate([rng.random(own.shape) < own for _ in range(each)])
        low, high = wilson(active.mean(0), effective_trials(active, [*range(needles)] * each))
        covered += (low <= truth) & (truth <= high)
    assert (covered / 500 >= 0.9).all(), covered / 500


@pytest.mark.parametrize("by", ["needle", "kind", "depth", "length", "position", "nothing"])
def test_a_head_is_found_to_fire_for_what_it_fires_for(by):
    scores = firing(by)
    found = fires_for(scores, [Head(0, 0), Head(0, 1)], permutations=4000).set_index(["head", "by"])["adjusted"]
    sure = {label for (head, label), p in found.items() if head == "L0H1" and p < 0.05}
    # A kind is a set of needles.
    assert sure == {"needle": {"needle"}, "kind": {"needle", "kind"}, "nothing": set()}.get(by, {by})
    assert (found["L0H0"] == 1).all(), "a head that always fires follows nothing"


@pytest.mark.slow
def test_chance_is_rarely_called_a_context():
    wrong = [
        (fires_for(firing("nothing", seed), [Head(0, 1)], permutations=499, seed=seed)["adjusted"] < 0.05).any()
        for seed in range(200)
    ]
    assert np.mean(wrong) <= 0.08


def test_rates_are_the_shares_of_trials():
    scores = firing("kind")
    heads = [Head(0, 0), Head(0, 1)]
    table = rates(scores, heads)
    by_kind = table[table["by"] == "kind"].pivot(index="head", columns="level", values="rate")
    np.testing.assert_allclose(by_kind.loc[["L0H0", "L0H1"]], activation_by_kind(scores, heads))
    active = scores.values[:, 0, 1] > 0
    for depth in (0.0, 1.0):
        row = table[(table["by"] == "depth") & (table["level"] == depth) & (table["head"] == "L0H1")]
        assert row["rate"].item() == pytest.approx(active[scores.trials["depth"] == depth].mean())
        assert row["n"].item() == (scores.trials["depth"] == depth).sum()


def test_positions_are_counted_as_loops_count_them():
    scores = firing("nothing")
    wrong = scores.trials["trial"] % 5 == 0
    scores = HeadScores(scores.set_scores, scores.sum_scores, scores.trials.assign(exact=~wrong), copies=scores.copies)
    copied, needles, places = answer_positions(scores, [Head(0, 1), Head(0, 0)])
    assert len(copied) == len(needles) == len(places) == 5 * 28
    events = {tuple(event) for event in scores.copies[:, [0, 2, 3, 4]].tolist()}
    for at, needle in enumerate(dict.fromkeys(scores.trials["needle"])):
        rows = scores.trials.index[(scores.trials["needle"] == needle) & scores.trials["exact"]]
        for token in range(5):
            expected = [np.mean([(r, 0, head, token) in events for r in rows]) for head in (1, 0)]
            assert copied[5 * at + token] == pytest.approx(expected)
            assert places[5 * at + token] == PLACES[[0, 1, 1, 1, 2][token]]
            assert needles[5 * at + token] == needle


def test_variance_goes_to_what_scores_vary_with():
    for by in ("needle", "depth", "length"):
        table = head_variance(firing(by), [Head(0, 1)])
        assert table[by].item() > 0.5
        assert table[["needle", "depth", "length", "residual"]].sum(axis=1).item() == pytest.approx(1)
    assert head_variance(firing("nothing"), [Head(0, 1)])["residual"].item() > 0.9
    assert np.isnan(head_variance(firing("nothing"), [Head(0, 0)])["residual"].item()), "it does not vary"


def test_all_of_it_is_one_row_a_head():
    found = dynamics_of(firing("depth"), permutations=500)
    frame = found.frame().set_index("head")
    assert len(frame) == 4
    assert list(found.tests["head"].unique()) == ["L0H1"]
    assert frame.loc["L0H1", "p depth"] < 0.05
    assert np.isnan(frame.loc["L0H0", "p depth"])
    assert frame.loc["L0H1", "depth 0.0"] > frame.loc["L0H1", "depth 1.0"]
    assert (frame.loc["L0H0", "activity"], frame.loc["L0H1", "activity"]) == (ALWAYS_ON, DEPENDENT)


def test_what_is_not_known_is_said_to_be_so(published):
    scores = read_scores(published / "llama-2-7b-80k.json")
    found = dynamics_of(scores)
    assert not found.labelled
    assert found.frame().equals(found.frequencies)
    for function in (rates, fires_for, head_variance):
        with pytest.raises(ValueError, match="carry no labels"):
            function(scores, scores.top(2))


def test_copy_events_survive_a_file_and_are_those_of_the_scores(planted_llama, tmp_path):
    model, heads = planted_llama
    scores = rh.detect(model, rh.niah(model, [256], 3, needles=4))
    kept = HeadScores.load(scores.save(tmp_path / "s.safetensors"))
    np.testing.assert_array_equal(kept.copies, scores.copies)
    sums = np.zeros_like(scores.sum_scores)
    for trial, _, layer, head, token in scores.copies:
        n = scores.trials["answer_tokens"][trial]
        assert 0 <= token < n
        sums[trial, layer, head] += 1 / n
    np.testing.assert_allclose(sums, scores.sum_scores)
    copied, _, _ = answer_positions(scores, sorted(heads))
    assert copied.min() == 1, "planted heads copy every token"


def snapshot(means, recall: float) -> HeadScores:
    needles = np.repeat(np.arange(10), 2)
    values = np.repeat(np.asarray(means, float)[None], 20, axis=0)
    return HeadScores(values, values, pd.DataFrame({"needle": needles, "recall": recall}), "toy")


def test_a_birth_follows_every_head_that_ever_retrieves():
    early, middle, late = np.zeros((2, 3)), np.eye(2, 3) * 0.4, np.eye(2, 3) * 0.9
    middle[1, 2] = 0.2
    table = birth([(300, snapshot(late, 0.9)), (100, snapshot(early, 0.1)), (200, snapshot(middle, 0.5))])
    curves = {what: group.set_index("tokens")["value"].to_dict() for what, group in table.groupby("what")}
    assert curves[RECALL] == pytest.approx({100: 0.1, 200: 0.5, 300: 0.9})
    assert curves["L0H0"] == pytest.approx({100: 0, 200: 0.4, 300: 0.9})
    assert curves["L1H2"] == pytest.approx({100: 0, 200: 0.2, 300: 0}), "it retrieved once"
    assert set(curves) == {RECALL, ALIKE, "L0H0", "L1H1", "L1H2"}
    assert curves[ALIKE] == pytest.approx({200: np.corrcoef(middle.ravel(), late.ravel())[0, 1], 300: 1.0})
    with pytest.raises(ValueError, match="two snapshots or more"):
        birth([(1, snapshot(late, 1.0))])


def test_a_birth_needs_no_more_than_two_snapshots():
    table = birth([(1, snapshot(np.zeros((1, 2)), 0.0)), (2, snapshot([[0.2, 0.0]], 1.0))])
    assert list(table) == ["tokens", "what", "value", "low", "high", "n", "clusters"]
    assert table["what"].tolist() == [RECALL, "L0H0", RECALL, "L0H0", ALIKE]


def test_only_retrieval_heads_show_how_alike_trials_are():
    rng, needles = np.random.default_rng(0), list(np.repeat(np.arange(40), 5))
    of_needle, always = np.repeat(rng.random((40, 1)) < 0.5, 5, axis=0), np.ones((200, 1), dtype=bool)
    both = np.hstack([always, of_needle])
    assert effective_trials(both, needles, np.array([True, True]))[0] == pytest.approx(40, rel=0.05)
    assert effective_trials(both, needles, np.array([True, False]))[0] == 40, "as if nothing showed it"
    free = rng.random((200, 1)) < 0.5
    assert effective_trials(np.hstack([always, of_needle, free]), needles, np.array([True, False, True]))[0] > 120


def test_frequencies_say_of_retrieval_heads_whether_they_are_always_on():
    values = np.zeros((400, 1, 5))
    values[:, 0, 0], values[:200, 0, 1], values[:360, 0, 2], values[:, 0, 3] = 0.9, 0.8, 0.7, 0.05
    table = frequencies(HeadScores(values, values, pd.DataFrame({"trial": range(400)})))
    assert list(table) == ["head", "score", "frequency", "low", "high", "n", "activity"]
    assert table["head"].tolist() == ["L0H0", "L0H2", "L0H1", "L0H3", "L0H4"]
    assert table["activity"].tolist() == [ALWAYS_ON, "undecided", DEPENDENT, "", ""]
    assert table["score"].tolist() == pytest.approx([0.9, 0.63, 0.4, 0.05, 0])
    assert table["frequency"].tolist() == [1, 0.9, 0.5, 1, 0]
    assert (table["n"] == 400).all()
    expected = scipy_stats.binomtest(360, 400).proportion_ci(method="wilson")
    assert table.loc[1, ["low", "high"]].tolist() == pytest.approx([expected.low, expected.high], abs=1e-4)


def test_everything_known_is_what_each_part_says():
    scores = firing("depth")
    found, heads = dynamics_of(scores, permutations=300, seed=3), scores.retrieval_heads()
    assert found.labelled
    pd.testing.assert_frame_equal(found.frequencies, frequencies(scores))
    pd.testing.assert_frame_equal(found.rates, rates(scores, heads))
    pd.testing.assert_frame_equal(found.tests, fires_for(scores, [Head(0, 1)], 300, seed=3))
    pd.testing.assert_frame_equal(found.variance, head_variance(scores, heads))
    assert list(found.tests) == ["head", "by", "share", "p", "adjusted"]
    assert (found.tests["share"].between(0, 1)).all()
    assert found.tests.set_index("by").loc["depth", "share"] > 0.2
    other = fires_for(scores, [Head(0, 1)], 300, seed=4)
    assert (other["p"] != found.tests["p"]).any(), "another seed, other permutations"
    columns = set(found.frame())
    assert {"variance depth", "variance residual", "p depth", "kind kind 0", "depth 0.0", "position first"} <= columns
    unlabelled = HeadScores(scores.set_scores, scores.sum_scores, scores.trials.drop(columns="kind"))
    for nothing in (
        dynamics_of(unlabelled),
        dynamics_of(HeadScores(values := np.zeros((336, 2, 2)), values, scores.trials)),
    ):
        assert nothing.tests.empty
        assert nothing.rates.empty
        assert nothing.variance.empty
        assert len(nothing.frame()) == 4
    assert not dynamics_of(unlabelled).labelled
