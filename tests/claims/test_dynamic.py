"""The dynamic property, judged on heads whose firing was made up."""

import numpy as np
import pandas as pd
import pytest

import rhlens as rh
from rhlens.claims.dynamic import dependent_share, dynamic
from rhlens.results.interop import read_scores
from rhlens.results.scores import HeadScores
from tests.support import firing


def scores_of(fires: np.ndarray, needles=None, score: float = 0.8) -> HeadScores:
    """Unlabelled scores of heads that fire like this: [trial, head]."""
    values = score * np.asarray(fires, dtype=float)[:, None, :]
    trials = pd.DataFrame({"needle": range(len(values)) if needles is None else needles})
    return HeadScores(values, values, trials, "toy")


@pytest.mark.parametrize("by", ["needle", "kind", "depth", "length"])
def test_it_holds_where_a_head_follows_the_context(by):
    claim = dynamic(firing(by))
    assert claim.holds
    assert f"{by} 1" in claim.control
    assert claim.statistic.value == 0.5
    assert claim.statistic.n == 336


def test_it_does_not_hold_where_firing_is_chance():
    claim = dynamic(firing("nothing"))
    assert not claim.holds
    assert "NO, those follow the context: 0 of 1" in claim.criterion


def test_it_does_not_hold_where_all_heads_fire_always_or_none_does_or_none_retrieves():
    always = firing("depth")
    always.set_scores[:, 0, 1] = 0.6
    assert not dynamic(always).holds
    assert dynamic(always).statistic.value == 0
    never = firing("depth")
    never.set_scores[:, 0, 0] = never.set_scores[:, 0, 1]
    claim = dynamic(never)
    assert not claim.holds
    assert claim.statistic.value == 1
    silent = firing("depth")
    silent.set_scores[:] = 0
    claim = dynamic(silent)
    assert not claim.holds
    assert np.isnan(claim.statistic.value)
    assert "does NOT hold" in str(claim)


def test_too_few_trials_decide_nothing():
    fires = np.ones((12, 2))
    fires[:2, 1] = 0
    claim = dynamic(scores_of(fires))
    assert not claim.holds
    assert "NO, some heads are always on" in claim.criterion
    assert "NO, some are not" in claim.criterion
    assert dynamic(scores_of(np.tile(fires, (20, 1)))).holds


def test_published_models(published):
    for name, always in {"llama-2-7b-80k": 12, "Qwen1.5-14B": 0}.items():
        claim = dynamic(read_scores(published / f"{name}.json"))
        assert claim.holds
        assert claim.property == "dynamic, by frequency alone"
        assert claim.control.startswith(f"{always} heads fire in every single trial")
        assert "not tested" in claim.control


def test_planted_heads_are_always_on_and_nothing_else(planted_llama):
    model, heads = planted_llama
    claim = dynamic(rh.detect(model, rh.niah(model, [256, 300], 2, needles=14)))
    assert not claim.holds
    assert f"{len(heads)} heads fire in every single trial" in claim.control


@pytest.mark.slow
@pytest.mark.parametrize(("needles", "each", "alike"), [(14, 6, 0.1), (14, 6, 0.4)])
def test_the_interval_of_the_share_covers_the_truth(needles, each, alike):
    truth, covered = np.array([0.5, 0.85, 0.87, 0.88, 0.92, 0.93, 0.95, 0.99]), 0
    spread = (1 - alike) / alike if alike else np.inf
    for seed in range(500):
        rng = np.random.default_rng(seed)
        own = rng.beta(truth * spread, (1 - truth) * spread, (needles, 8)) if alike else np.tile(truth, (needles, 1))
        fires = np.concatenate([rng.random(own.shape) < own for _ in range(each)])
        ci = dependent_share(scores_of(fires, [*range(needles)] * each))
        covered += ci.low - 1e-9 <= 0.5 <= ci.high + 1e-9
    assert covered / 500 >= 0.9
