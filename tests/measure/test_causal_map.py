import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

import rhlens as rh
from rhlens.results.heads import Head
from rhlens.results.maps import CausalMap
from rhlens.results.scores import HeadScores
from rhlens.zoo.planted import planted

COPY = Head(2, 3)


@pytest.fixture(scope="module")
def lone(tmp_path_factory):
    """A model with a single copy head: nothing makes up for it."""
    made = planted((COPY,))
    return rh.load(made.save(tmp_path_factory.mktemp("lone")), quiet=True), set(made.previous_token_heads)


def test_the_map_names_the_planted_heads_and_no_noise(lone):
    model, previous = lone
    found = rh.causal_map(model, rh.niah(model, [200], 1, needles=7, distractors=1)).mean()
    noise = {Head(layer, head) for layer in range(4) for head in range(8)} - previous - {COPY}
    assert max(abs(found[head]) for head in noise) < 1e-3
    assert found[COPY] > 5, "nats per token"
    assert max(found[head] for head in previous) > 0.1


def test_while_answering_only_the_copy_head_matters(lone):
    model, _ = lone
    trials = rh.niah(model, [200], 1, needles=4)
    found = rh.causal_map(model, trials, phase="decode")
    assert found.mean()[COPY] > 5
    found.effects[:, COPY.layer, COPY.head] = 0
    assert np.abs(found.effects).max() < 1e-3


def test_each_effect_is_that_of_the_ablation_alone(tiny_llama):
    trials = rh.niah(tiny_llama, [200], 2, needles=3)
    for method in ("zero", "mean"):
        found = rh.causal_map(tiny_llama, trials, method=method)
        for head in (Head(0, 2), Head(1, 1)):
            rows = rh.ablate(tiny_llama, trials, [head], [1], method=method, phase="both", draws=1).answers
            rows = rows[rows["heads"] == "top"].pivot(index="trial", columns="k", values="logprob")
            np.testing.assert_allclose(found.effects[:, head.layer, head.head], rows[0] - rows[1], atol=2e-5)


def test_a_killed_run_goes_on(tiny_llama, tmp_path, monkeypatch):
    from rhlens.measure.asker import Asker

    trials = rh.niah(tiny_llama, [200], 2, needles=2)
    whole = rh.causal_map(tiny_llama, trials)
    real, calls = Asker.log_probs, []

    def dies(self, prefix, asks):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(asks)
        return real(self, prefix, asks)

    monkeypatch.setattr("rhlens.measure.asker.BATCH_TOKENS", 1000)
    monkeypatch.setattr(Asker, "log_probs", dies)
    with pytest.raises(KeyboardInterrupt):
        rh.causal_map(tiny_llama, trials, out=tmp_path)
    monkeypatch.setattr(Asker, "log_probs", lambda *args: calls.append(args[-1]) or real(*args))
    resumed = rh.causal_map(tiny_llama, trials, out=tmp_path)
    assert sum(map(len, calls)) == 4 * (1 + 8), "nothing measured twice"
    np.testing.assert_allclose(resumed.effects, whole.effects, atol=1e-5)


def made_up(effects) -> CausalMap:
    return CausalMap(np.asarray(effects, float), pd.DataFrame({"needle": range(len(effects))}), "toy")


def scores_of(mean) -> HeadScores:
    values = np.asarray(mean, float)[None]
    return HeadScores(values, values, pd.DataFrame({"trial": [0]}), "toy")


def test_correlation_and_disagreements():
    rng = np.random.default_rng(0)
    effect, score = np.array([[2.0, 0.0, 1.5], [0.02, 0.0, 0.01]]), np.array([[0.9, 0.4, 0.0], [0.0, 0.05, 0.02]])
    found = made_up(effect + rng.normal(scale=1e-4, size=(30, 2, 3)))
    rho = found.spearman(scores_of(score))
    assert rho.value == pytest.approx(scipy_stats.spearmanr(found.mean().ravel(), score.ravel()).statistic)
    assert rho.low <= rho.value <= rho.high
    table = found.disagreements(scores_of(score)).set_index("name")["disagrees"].to_dict()
    assert table == {"L0H1": "score without effect", "L0H2": "effect without score"}
    assert found.frame()["name"].iloc[0] == "L0H0"
    assert "L0H0 2.00" in repr(found)
    with pytest.raises(ValueError, match="take scores of the same model"):
        found.spearman(scores_of(np.zeros((1, 1))))


def test_nothing_to_ask_is_an_error(tiny_llama):
    with pytest.raises(ValueError, match="no trials"):
        rh.causal_map(tiny_llama, [])
    with pytest.raises(ValueError, match="phase must be"):
        rh.causal_map(tiny_llama, rh.niah(tiny_llama, [200], 1, needles=1), phase="later")
