"""Early stop: on streams of scores whose answer is known, and on a planted model."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rhlens as rh
from rhlens.measure.early_stop import rounds, stability
from rhlens.results.scores import HeadScores


def scores_of(values, needles) -> HeadScores:
    """Scores `[trial, head]` of a model of one layer."""
    values = np.asarray(values, dtype=float)[:, None, :]
    return HeadScores(values, values, pd.DataFrame({"needle": needles}), "made up")


def test_heads_far_apart_are_stable_and_heads_alike_are_not():
    rng, needles = np.random.default_rng(0), list(range(20))
    apart = rng.normal([0.9, 0.6, 0.02, 0.0], 0.02, size=(20, 4))
    assert stability(scores_of(apart, needles)) == 1.0
    alike = np.array([[0.9, 0.5 + x, 0.5 - x, 0.0] for x in (0.2, -0.2) * 9 + (0.1, 0.0)])
    assert 0.4 < stability(scores_of(alike, needles), k=2) < 0.8
    assert stability(scores_of(np.zeros((20, 4)), needles)) == 1.0, "surely there are none"
    assert stability(scores_of(np.zeros((20, 4)), needles), k=2) == 0.0, "which two of four is anybody's guess"
    assert stability(scores_of(np.ones((20, 4)), needles)) == 1.0, "surely all of them"


def test_depths_of_one_needle_do_not_make_up_for_other_needles():
    """Two heads that take turns by needle: a hundred trials of four needles say less than twenty needles."""
    turns = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    assert stability(scores_of(np.repeat(turns, 25, 0), np.repeat(range(4), 25)), k=1) == 0.0
    more = np.concatenate([turns, turns])
    assert stability(scores_of(np.repeat(more, 10, 0), np.repeat(range(8), 10)), k=1) < 0.97
    many = np.concatenate([turns] * 20)
    assert stability(scores_of(many, range(80)), k=1) > 0.99


@settings(max_examples=8)
@given(st.integers(0, 1000), st.integers(1, 3))
def test_the_stability_is_what_loops_over_resamples_find(seed, k):
    rng = np.random.default_rng(seed)
    values, needles = rng.normal(size=(30, 5)) * 0.3 + rng.uniform(size=5), rng.integers(0, 8, 30).tolist()
    scores = scores_of(values, needles)
    kept = np.zeros(k)
    for _ in range(500):
        drawn = rng.choice(np.unique(needles), len(set(needles)))
        mean = np.concatenate([values[np.array(needles) == needle] for needle in drawn]).mean(0)
        kept += np.isin([h.head for h in scores.top(k)], np.argsort(-mean)[:k])
    assert stability(scores, k) == pytest.approx(kept.min() / 500, abs=0.1)


def test_rounds_ask_about_every_needle_before_another_depth(tokenizer):
    trials = rh.niah(tokenizer, [256, 300], 4, needles=6)
    found = rounds(trials)
    assert sorted(t.index for group in found for t in group) == list(range(48))
    assert [len({t.needle for t in group}) for group in found] == [6] * 8
    assert len({(t.length, t.depth) for t in found[0]}) > 2, "each at a length and depth of its own"
    assert [[t.tokens for t in group] for group in rounds(trials[::-1])] == [[t.tokens for t in g] for g in found]


def test_a_planted_model_needs_few_of_many_trials(planted_llama, capsys, tmp_path):
    model, copy_heads = planted_llama
    trials = rh.niah(model, [256], 8, needles=7)
    early = rh.detect(model, trials, stop_when_stable=0.95, out=tmp_path)
    said = capsys.readouterr().err
    assert set(early.retrieval_heads()) == copy_heads
    assert early.n_trials < 28
    assert f"stopped after {early.n_trials} of 56 trials, {56 - early.n_trials} saved" in said
    assert early.trials["needle"].value_counts().nunique() == 1
    again = rh.detect(model, trials, stop_when_stable=0.95, out=tmp_path)
    np.testing.assert_array_equal(again.sum_scores, early.sum_scores)
    whole = rh.detect(model, trials, out=tmp_path)
    assert whole.n_trials == 56
    kept = whole.trials["trial"].isin(early.trials["trial"]).to_numpy()
    np.testing.assert_array_equal(whole.sum_scores[kept], early.sum_scores)


def test_what_is_never_stable_asks_everything(tiny_llama, capsys):
    trials = rh.niah(tiny_llama, [200], 2, needles=5)
    assert rh.detect(tiny_llama, trials, stop_when_stable=0.95, top=3, max_new_tokens=3).n_trials == 10
    assert "stopped" not in capsys.readouterr().err


def test_a_stop_that_means_nothing_is_refused(tiny_llama):
    trials = rh.niah(tiny_llama, [200], 2, needles=4)
    with pytest.raises(ValueError, match="at least 5 needles, not 4"):
        rh.detect(tiny_llama, trials, stop_when_stable=0.95)
    with pytest.raises(ValueError, match="below 1, not 95"):
        rh.detect(tiny_llama, trials, stop_when_stable=95)
