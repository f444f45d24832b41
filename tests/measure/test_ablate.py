import numpy as np
import pandas as pd
import pytest
import torch

import rhlens as rh
from rhlens.measure import ablate as ablate_module
from rhlens.measure.ablate import ablate, doses
from rhlens.model.ablation import InterventionError
from rhlens.results.curves import TOP
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
    curve = ablate(model, trials, scores, k=[0, 2, 3], phase=phase, draws=5)
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
        return ablate(model, trials, heads, [len(heads)], phase=phase, draws=1).level(TOP, len(heads)).value

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
    first = ablate(model, trials[:3], scores, k=[2], draws=6, seed=4)
    again = ablate(model, trials[:3], scores, k=[2], draws=6, seed=4)
    other = ablate(model, trials[:3], scores, k=[2], draws=6, seed=5)
    names = first.answers.loc[first.answers["heads"] == "random", "names"]
    assert names.nunique() == 6
    assert not {Head.parse(h) for draw in names for h in draw.split()} & copy_heads
    assert first.answers.equals(again.answers)
    assert not first.answers["names"].equals(other.answers["names"])
    assert first.matrix("random", 2).shape == (6, 3)


def test_two_grids_can_be_put_together(planted):
    model, trials, scores, _ = planted
    both = [*trials[:3], *rh.niah(model, [200], 1, needles=3)]
    curve = ablate(model, both, scores, k=[3], draws=2)
    assert curve.matrix("random", 3).shape == (2, 6)
    assert list(rh.detect(model, both).trials["trial"]) == list(range(6))


def test_heads_of_the_users_own_are_ablated_in_their_order(planted):
    model, trials, _, copy_heads = planted
    curve = ablate(model, trials[:4], sorted(copy_heads), k=[3], draws=1)
    assert curve.level(TOP, 3).value <= 0.05
    assert curve.ks == [0, 3]


def test_the_result_does_not_depend_on_batching_or_order(planted, monkeypatch):
    from rhlens.measure import asker as asker_module
    from rhlens.measure import detect as detect_module

    model, trials, scores, _ = planted
    whole = ablate(model, trials, scores, k=[2], draws=2)
    for module in (detect_module, asker_module):
        monkeypatch.setattr(module, "BATCH_TOKENS", 700)
    split = ablate(model, trials[::-1], scores, k=[2], draws=2)
    key = ["heads", "k", "draw", "trial"]
    a, b = (c.answers.sort_values(key).reset_index(drop=True) for c in (whole, split))
    pd.testing.assert_frame_equal(a, b, atol=1e-5)


def test_a_killed_run_goes_on(planted, tmp_path, monkeypatch):
    model, trials, scores, _ = planted
    whole = ablate(model, trials[:5], scores, k=[1, 3], draws=2)
    real, asked = ablate_module.Answers._answers, []

    def dies(self, prefix, pairs):
        if len(asked) >= 12:
            raise KeyboardInterrupt
        asked.extend(pairs)
        return real(self, prefix, pairs)

    monkeypatch.setattr("rhlens.measure.asker.BATCH_TOKENS", 4 * 256)  # four answers a batch
    monkeypatch.setattr(ablate_module.Answers, "_answers", dies)
    with pytest.raises(KeyboardInterrupt):
        ablate(model, trials[:5], scores, k=[1, 3], draws=2, out=tmp_path)
    counting = lambda self, prefix, pairs: asked.extend(pairs) or real(self, prefix, pairs)  # noqa: E731
    monkeypatch.setattr(ablate_module.Answers, "_answers", counting)
    resumed = ablate(model, trials[:5], scores, k=[1, 3], draws=2, out=tmp_path)
    assert len(asked) == 35, "seven conditions of five trials, none asked twice"
    pd.testing.assert_frame_equal(resumed.answers, whole.answers, atol=1e-5)
    for other in ({"phase": "both"}, {"method": "mean"}, {"method": "resample"}):
        before = len(asked)
        ablate(model, trials[:5], scores, k=[1], draws=1, **other, out=tmp_path)
        assert len(asked) == before + 15, f"{other} gives other results"


def test_the_frame_holds_every_condition_and_trial(planted, tmp_path):
    model, trials, scores, _ = planted
    curve = ablate(model, trials[:2], scores, k=[0, 1], draws=2)
    assert len(curve.frame()) == 2 * (1 + 1 + 2)
    assert {"output", "recall", "exact", "logprob", "depth", "kind"} <= set(curve.frame().columns)
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
        ({"k": [20]}, "too few for 20 different control sets"),
        ({"draws": 0}, "without a control"),
        ({"phase": "after"}, "phase must be one of"),
        ({"method": "forget"}, "method must be one of"),
        ({"control": "placebo"}, "control must be one of"),
        ({"by": "layer"}, "by must be"),
        ({"preset": "mine"}, "preset must be one of"),
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


@pytest.mark.parametrize("method", ["zero", "mean", "uniform", "resample"])
def test_every_method_takes_the_copy_heads_away(planted, method):
    model, trials, scores, _ = planted
    curve = ablate(model, trials, scores, k=[3], method=method, phase="both", draws=3)
    assert curve.level(TOP, 3, "exact").value <= 0.15
    assert curve.level("random", 3, "exact").value >= 0.85
    assert curve.contrast(3, "logprob").low > 1, "nats per token"
    assert curve.p_value(3) < 0.05
    assert curve.method == method


def test_all_controls_are_measured_beside_each_other(planted):
    model, trials, scores, copy_heads = planted
    controls = ("layer-matched", "random", "score-bottom")
    curve = ablate(model, trials[:4], scores, k=[0, 2], control=controls, draws=4)
    assert curve.controls == list(controls)
    assert set(curve.summary()["heads"]) == {TOP, *controls}
    rows = curve.answers
    for control in controls:
        sets = rows.loc[(rows["heads"] == control) & (rows["k"] == 2), "names"].unique()
        assert not {Head.parse(h) for s in sets for h in s.split()} & copy_heads
        assert curve.matrix(control, 2).shape == (4, 4)
    layers = sorted(h.layer for h in scores.top(2))
    matched = rows.loc[(rows["heads"] == "layer-matched") & (rows["k"] == 2), "names"]
    assert {tuple(sorted(Head.parse(h).layer for h in s.split())) for s in matched} == {tuple(layers)}


def test_the_preset_is_uniform_attention_while_answering(planted):
    model, trials, scores, _ = planted
    preset = ablate(model, trials[:3], scores, k=[3], draws=1, preset="wu2024")
    same = ablate(model, trials[:3], scores, k=[3], draws=1, method="uniform", phase="decode")
    assert (preset.method, preset.phase) == ("uniform", "decode")
    assert preset.answers.equals(same.answers)


def test_whole_groups_go_together(tmp_path):
    model = rh.load(build_planted(((2, 3),), kv_heads=2).save(tmp_path), quiet=True)
    trials = rh.niah(model, [256], 1, needles=3)
    curve = ablate(model, trials, rh.detect(model, trials), k=[1], by="kv_group", draws=3)
    names = curve.answers.loc[(curve.answers["heads"] == TOP) & (curve.answers["k"] == 1), "names"].unique()
    assert list(names) == ["L2H0 L2H1 L2H2 L2H3"]
    for s in curve.answers.loc[curve.answers["heads"] == "random", "names"]:
        heads = [Head.parse(h) for h in s.split()]
        assert len({(h.layer, h.head // 4) for h in heads}) == 1
        assert len(heads) == 4


def test_the_logprob_is_that_of_the_right_answer(planted):
    model, trials, scores, _ = planted
    rows = ablate(model, trials[:4], scores, k=[0], draws=1).answers
    for row, trial in zip(rows.itertuples(), trials, strict=False):
        tokens = torch.tensor([trial.tokens + trial.reply])
        with torch.inference_mode():
            log_probs = model(tokens)[0].log_softmax(-1)
        each = [float(log_probs[trial.length - 1 + i, t]) for i, t in enumerate(trial.reply)]
        assert row.logprob == pytest.approx(np.mean(each), abs=1e-4)


def test_a_lone_needle_cannot_be_resampled(planted):
    model, trials, scores, _ = planted
    with pytest.raises(ValueError, match="ask about more needles"):
        ablate(model, trials[:1], scores, k=[1], draws=1, method="resample")


def test_a_control_may_hold_a_head_without_output_but_the_top_heads_may_not(tmp_path):
    """A head whose values are all zero is nothing to take away."""
    from safetensors.torch import load_file, save_file

    folder = build_planted(((2, 3),)).save(tmp_path)
    weights = load_file(folder / "model.safetensors")
    for layer in range(4):
        values = weights[f"model.layers.{layer}.self_attn.v_proj.weight"]
        values.view(8, -1, values.shape[1])[5:] = 0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model = rh.load(folder, quiet=True)
    trials = rh.niah(model, [256], 1, needles=2)
    curve = ablate(model, trials, [(2, 3)], k=1, draws=20)
    dead = {str(Head(layer, head)) for layer in range(4) for head in range(5, 8)}
    drawn = curve.answers.query("heads == 'random'").groupby("names")["recall"].mean()
    assert set(drawn.index) & dead, "the test needs a dead head among the controls"
    assert (drawn[list(set(drawn.index) & dead)] == curve.level(TOP, 0).value).all()
    with pytest.raises(InterventionError, match="L0H6 changes nothing"):
        ablate(model, trials, [(0, 6)], k=1, draws=1)
