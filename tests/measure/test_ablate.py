import numpy as np
import pytest

import rhlens as rh
from rhlens.measure import ablate as ablate_module
from rhlens.measure.ablate import ablate, doses
from rhlens.results.curves import RANDOM, TOP
from rhlens.results.heads import Head
from rhlens.zoo.planted import planted as build_planted
from rhlens.zoo.registry import MODELS


@pytest.fixture(scope="module")
def planted(planted_llama):
    model, copy_heads = planted_llama
    trials = rh.niah(model, [256], 2, needles=7, distractors=1)
    return model, trials, rh.detect(model, trials), copy_heads


@pytest.mark.parametrize("phase", ["decode", "both"])
def test_recall_falls_only_when_the_last_copy_head_goes(planted, phase):
    model, trials, scores, copy_heads = planted
    curve = ablate(model, trials, scores, k=[0, 2, 3], phase=phase, controls=5)
    assert curve.level(TOP, 0, "exact").value == 1.0
    assert curve.level(TOP, 2, "exact").value == 1.0
    assert curve.level(TOP, 3, "exact").value <= 0.05
    assert rh.causal(curve, 3).holds
    rows = curve.answers
    assert set(rows.loc[(rows["heads"] == TOP) & (rows["k"] == 3), "names"]) == {" ".join(map(str, scores.top(3)))}
    assert set(scores.top(3)) == copy_heads


def test_each_phase_ablates_when_it_says(planted):
    """Previous-token heads mark the haystack while it is read; copy heads fetch from it while the answer is written."""
    model, trials, _, copy_heads = planted
    previous = build_planted(**dict(MODELS["planted-llama"].recipe)).previous_token_heads

    def level(heads, phase):
        return ablate(model, trials, heads, [len(heads)], phase, controls=1).level(TOP, len(heads)).value

    assert level(previous, "prefill") < 0.2
    assert level(sorted(copy_heads), "prefill") == 1.0
    assert level(sorted(copy_heads), "decode") <= 0.05


def test_scores_of_another_model_are_refused(planted, tiny_llama):
    _, _, scores, _ = planted
    with pytest.raises(ValueError, match=r"4 x 8 heads, the model has 2 x 4"):
        ablate(tiny_llama, rh.niah(tiny_llama, [200], 1, needles=1), scores, k=[1])


def test_by_default_doses_double_up_to_all_retrieval_heads(planted):
    _, _, scores, _ = planted
    assert doses(scores) == [0, 1, 2, 3]
    assert [doses([(0, i) for i in range(n)])[-3:] for n in (1, 4, 10, 33)] == [
        [0, 1],
        [1, 2, 4],
        [4, 8, 10],
        [16, 32, 33],
    ]
    assert doses([]) == [0, 1]


def test_controls_are_disjoint_seeded_and_every_draw_is_held(planted):
    model, trials, scores, copy_heads = planted
    first = ablate(model, trials[:3], scores, k=[2], controls=6, seed=4)
    again = ablate(model, trials[:3], scores, k=[2], controls=6, seed=4)
    other = ablate(model, trials[:3], scores, k=[2], controls=6, seed=5)
    names = first.answers.loc[first.answers["heads"] == RANDOM, "names"]
    assert names.nunique() == 6
    assert not {Head.parse(h) for draw in names for h in draw.split()} & copy_heads
    assert first.answers.equals(again.answers)
    assert not first.answers["names"].equals(other.answers["names"])
    assert first.matrix(RANDOM, 2).shape == (6, 3)


def test_two_grids_can_be_put_together(planted):
    model, trials, scores, _ = planted
    both = [*trials[:3], *rh.niah(model, [200], 1, needles=3)]
    curve = ablate(model, both, scores, k=[3], controls=2)
    assert curve.matrix(RANDOM, 3).shape == (2, 6)
    assert list(rh.detect(model, both).trials["trial"]) == list(range(6))


def test_heads_of_the_users_own_are_ablated_in_their_order(planted):
    model, trials, _, copy_heads = planted
    curve = ablate(model, trials[:4], sorted(copy_heads), k=[3], controls=1)
    assert curve.level(TOP, 3).value <= 0.05
    assert curve.ks == [0, 3]


def test_the_result_does_not_depend_on_batching_or_order(planted, monkeypatch):
    from rhlens.measure import detect as detect_module

    model, trials, scores, _ = planted
    whole = ablate(model, trials, scores, k=[2], controls=2)
    monkeypatch.setattr(detect_module, "BATCH_TOKENS", 700)
    split = ablate(model, trials[::-1], scores, k=[2], controls=2)
    key = ["heads", "k", "draw", "trial"]
    a, b = (c.answers.sort_values(key).reset_index(drop=True) for c in (whole, split))
    assert a.equals(b)


def test_a_killed_run_goes_on(planted, tmp_path, monkeypatch):
    model, trials, scores, _ = planted
    whole = ablate(model, trials[:5], scores, k=[1, 3], controls=2)
    real, calls = ablate_module._Batch._answer, []

    def dies(self, heads):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(heads)
        return real(self, heads)

    monkeypatch.setattr(ablate_module._Batch, "_answer", dies)
    with pytest.raises(KeyboardInterrupt):
        ablate(model, trials[:5], scores, k=[1, 3], controls=2, out=tmp_path)
    monkeypatch.setattr(ablate_module._Batch, "_answer", lambda self, heads: calls.append(heads) or real(self, heads))
    resumed = ablate(model, trials[:5], scores, k=[1, 3], controls=2, out=tmp_path)
    assert len(calls) == 7, "seven conditions, none answered twice"
    assert resumed.answers.equals(whole.answers)
    other_phase = ablate(model, trials[:5], scores, k=[1], controls=1, phase="both", out=tmp_path)
    assert len(calls) == 10, "another phase is another result"
    assert other_phase.phase == "both"


def test_the_frame_holds_every_condition_and_trial(planted, tmp_path):
    model, trials, scores, _ = planted
    curve = ablate(model, trials[:2], scores, k=[0, 1], controls=2)
    assert len(curve.frame()) == 2 * (1 + 1 + 2)
    assert {"output", "recall", "exact", "depth", "kind"} <= set(curve.frame().columns)
    text = curve.save(tmp_path / "deep" / "answers.csv").read_text()
    assert text.count("\n") == 9
    assert np.isfinite(curve.summary()["recall"]).all()
    assert "AblationCurve" in repr(curve)
    assert "<table" in curve._repr_html_()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": [-1]}, "k must be 0 or more"),
        ({"k": [33]}, "more heads than the 32"),
        ({"k": [20]}, "too few for 5 different control sets"),
        ({"controls": 0}, "without a control"),
        ({"phase": "after"}, "phase must be one of"),
    ],
)
def test_bad_input_is_one_clear_sentence(planted, options, message):
    model, trials, scores, _ = planted
    with pytest.raises(ValueError, match=message):
        ablate(model, trials[:1], scores, **options)
    with pytest.raises(ValueError, match="no trials"):
        ablate(model, [], scores)
    with pytest.raises(ValueError, match="L9H9 is not a head"):
        ablate(model, trials[:1], [(9, 9)], k=[1])
