"""Retrieval scores against the formula, computed by loops from a plain Hugging Face eager forward."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import rhlens as rh
from rhlens.measure import detect as detect_module
from rhlens.measure.detect import copy_events, detect, set_score, sum_score
from rhlens.model.engine import Engine, Trace
from rhlens.tasks.needles import Needle
from rhlens.tasks.trials import Trial
from tests.support import plain_model, plain_rows, tiny_checkpoint

VOCAB = 12


@pytest.fixture(scope="module")
def coincidence(tmp_path_factory):
    """A random model over twelve tokens: whatever it says and wherever it looks, chance copies abound."""
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, "w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tok = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1")
    folder = tiny_checkpoint("llama-gqa", tmp_path_factory.mktemp("chance"), tokenizer=tok, initializer_range=0.8)
    return rh.load(folder, quiet=True), plain_model(folder)


@st.composite
def trials(draw) -> Trial:
    n = draw(st.integers(6, 40))
    tokens = tuple(draw(st.lists(st.integers(2, VOCAB - 1), min_size=n, max_size=n)))
    start = draw(st.integers(0, n - 2))
    end = draw(st.integers(start + 1, n - 1))
    needle = Needle("chance", "The answer is x.", "?", "x")
    return Trial(needle, n, 0.5, tokens, (start, end), (start, end), (end, n), (start, end))


def by_the_formula(plain, trial: Trial, generated: list[int]):
    """Set and sum score of every head, from FACTS.md section 1, in loops."""
    tokens = torch.tensor([[*trial.tokens, *generated]])
    _, rows = plain_rows(plain, tokens, trial.length)
    start, end = trial.answer_span
    needle = tokens[0, start:end].tolist()
    n_layers, n_heads = len(rows[0]), rows[0][0].shape[1]
    sets, sums = np.zeros((n_layers, n_heads)), np.zeros((n_layers, n_heads))
    for layer in range(n_layers):
        for head in range(n_heads):
            copied = []
            for step, w in enumerate(generated):
                j = int(rows[step][layer][0, head].argmax())
                if w in needle and start <= j < end and int(tokens[0, j]) == w:
                    copied.append(w)
            sets[layer, head] = len(set(copied) & set(needle)) / len(set(needle))
            sums[layer, head] = len(copied) / len(needle)
    return sets, sums


EVENTS = {"copies": 0, "repeats": 0}


@settings(max_examples=120)
@given(st.lists(trials(), min_size=1, max_size=3))
def test_scores_equal_the_formula_for_every_trial_head_and_step(coincidence, asked):
    model, plain = coincidence
    scores = detect(model, asked, max_new_tokens=8)
    for i, trial in enumerate(asked):
        generated = generate_plainly(plain, trial, 8)
        sets, sums = by_the_formula(plain, trial, generated)
        np.testing.assert_allclose(scores.set_scores[i], sets, atol=1e-12)
        np.testing.assert_allclose(scores.sum_scores[i], sums, atol=1e-12)
        EVENTS["copies"] += int((sets > 0).sum())
        wanted = trial.answer_tokens
        EVENTS["repeats"] += int((sums * len(wanted) > sets * len(set(wanted)) + 0.5).sum())


def generate_plainly(plain, trial: Trial, n: int) -> list[int]:
    tokens = list(trial.tokens)
    with torch.inference_mode():
        for _ in range(n):
            token = int(plain(torch.tensor([tokens])).logits[0, -1].argmax())
            if token == 1:  # EOS
                break
            tokens.append(token)
    return tokens[trial.length :]


def test_the_comparison_with_the_formula_met_copies_and_repeats():
    assert EVENTS["copies"] > 50
    assert EVENTS["repeats"] > 0


def trace_of(tokens: list[int], looks: list[int]) -> Trace:
    position = np.array(looks, dtype=np.int32).reshape(-1, 1, 1)
    return Trace(np.array(tokens), np.zeros(len(tokens)), position, np.ones_like(position, dtype=np.float32))


#        positions:  0  1  2  3  4  5  6
CONSTRUCTED = Trial(Needle("k", "A is b.", "?", "b"), 7, 0.5, (9, 5, 6, 5, 7, 8, 3), (1, 5), (0, 5), (5, 7), (1, 5))


@pytest.mark.parametrize(
    ("tokens", "looks", "set_", "sum_"),
    [
        ([5, 6, 5, 7], [1, 2, 3, 4], 1.0, 1.0),  # all copied; the answer holds 5 twice, the set three tokens
        ([5, 5, 5, 5, 5], [1, 3, 1, 3, 1], 1 / 3, 5 / 4),  # repeats: the sum passes 1, the set does not grow
        ([5, 6], [3, 2], 2 / 3, 2 / 4),  # another place that holds the same token counts
        ([5, 6], [2, 1], 0.0, 0.0),  # looks into the needle at another token
        ([8, 9], [5, 0], 0.0, 0.0),  # copies, but from outside the needle
        ([4], [4], 0.0, 0.0),  # looks into the needle, says something else
        ([], [], 0.0, 0.0),  # said nothing
    ],
)
def test_constructed_traces_have_the_set_and_the_sum_they_should(tokens, looks, set_, sum_):
    trace = trace_of(tokens, looks)
    events = copy_events(trace, CONSTRUCTED)
    assert set_score(events, trace.tokens, CONSTRUCTED)[0, 0] == pytest.approx(set_)
    assert sum_score(events, CONSTRUCTED)[0, 0] == pytest.approx(sum_)


def test_a_look_beyond_the_prompt_is_no_copy_of_the_needle():
    assert not copy_events(trace_of([3], [9]), CONSTRUCTED).any()


def test_trials_keep_their_order_and_labels_and_failures_stay(planted_llama):
    model, _ = planted_llama
    trials = rh.niah(model, [300, 256], 2, needles=3)
    scores = detect(model, trials)
    assert list(scores.trials["trial"]) == list(range(12))
    assert list(scores.trials["length"]) == [300] * 6 + [256] * 6
    assert {"needle", "kind", "length", "depth", "recall", "exact", "output"} <= set(scores.trials.columns)
    impossible = Trial(
        Needle("code", "A is qqq.", "?", "qqq"), 256, 0.5, trials[6].tokens, (3, 5), (3, 5), (200, 256), (3, 5)
    )
    mixed = detect(model, [*trials, impossible])
    assert mixed.n_trials == 13
    assert mixed.under("wu2024").n_trials == 12
    assert mixed.trials["recall"].iloc[-1] == 0


def test_a_killed_run_goes_on_and_gives_the_same(planted_llama, tmp_path, monkeypatch, capsys):
    model, _ = planted_llama
    trials = rh.niah(model, [256], 3, needles=3)
    whole = detect(model, trials)
    calls, real = {"n": 0}, detect_module._record

    def dies(*args):
        calls["n"] += 1
        if calls["n"] == 5:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(detect_module, "_record", dies)
    with pytest.raises(KeyboardInterrupt):
        detect(model, trials, out=tmp_path)
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == 4
    calls["n"] = 100
    resumed = detect(model, trials, out=tmp_path)
    assert "4 of 9 trials are there already" in capsys.readouterr().err
    assert calls["n"] == 105, "only the five lost trials ran again"
    np.testing.assert_array_equal(resumed.set_scores, whole.set_scores)
    np.testing.assert_array_equal(resumed.sum_scores, whole.sum_scores)
    assert resumed.trials.equals(whole.trials)
    record = json.loads((tmp_path / "records.jsonl").read_text().splitlines()[0])
    assert all(len(event) == 5 and 0 < event[4] <= 1 for event in record["copies"])
    assert record["copies"]


def test_batches_of_any_size_give_the_same_scores(planted_llama, monkeypatch):
    model, _ = planted_llama
    trials = rh.niah(model, [256], 2, needles=4)
    many = detect(model, trials)
    monkeypatch.setattr(detect_module, "BATCH_TOKENS", 1)
    np.testing.assert_array_equal(many.sum_scores, detect(model, trials).sum_scores)


GRIDS = st.builds(
    dict,
    lengths=st.lists(st.sampled_from([180, 200, 231]), min_size=1, max_size=2, unique=True),
    depths=st.integers(1, 3),
    needles=st.integers(1, 3),
    distractors=st.integers(0, 1),
    restate=st.booleans(),
    seed=st.integers(0, 5),
)


@pytest.mark.parametrize("kind", ["planted", "random"])
@settings(max_examples=6)
@given(grid=GRIDS, batch=st.integers(1, 16))
def test_every_optimisation_on_and_off_gives_the_same(planted_llama, tiny_llama, kind, grid, batch):
    """Shared prefixes, batches, guesses and the twin, against one trial at a time on TransformerLens alone."""
    model = planted_llama[0] if kind == "planted" else tiny_llama
    trials = rh.niah(model, **grid)
    bridge = Engine(model)
    bridge.twin = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detect_module, "BATCH_TOKENS", batch * 200)
        scores = detect(model, trials, max_new_tokens=12)
        traces = {trial.index: trace for trial, trace in detect_module.answers_of(Engine(model), trials, 12)}
    for i, trial in enumerate(trials):
        plain = bridge.decode(bridge.prefill(torch.tensor([trial.tokens])), 12)[0]
        np.testing.assert_array_equal(traces[trial.index].tokens, plain.tokens)
        np.testing.assert_array_equal(traces[trial.index].position, plain.position)
        events = copy_events(plain, trial)
        np.testing.assert_array_equal(scores.set_scores[i], set_score(events, plain.tokens, trial))
        np.testing.assert_array_equal(scores.sum_scores[i], sum_score(events, trial))
        assert scores.trials["output"][i] == bridge.text_of(plain.tokens)


def test_results_know_what_they_were_measured_with(planted_llama, tmp_path):
    model, _ = planted_llama
    scores = detect(model, rh.niah(model, [256], 1, needles=2), out=tmp_path / "run")
    assert scores.run["dtype"] == "float32"
    assert set(scores.run) == {"device", "dtype", "prefill", "decode", "rhlens"}
    assert rh.read_scores(scores.save(tmp_path / "s.safetensors")).run == scores.run
    noted = json.loads((tmp_path / "run" / "config.json").read_text())["detect"]
    assert (noted["dtype"], noted["lengths"], noted["depths"], len(noted["needles"])) == ("float32", [256], [0.5], 2)


def test_bad_input_is_refused_before_the_model_runs(tiny_llama):
    with pytest.raises(ValueError, match="protocol must be"):
        detect(tiny_llama, [], protocol="mine")  # pyright: ignore[reportArgumentType]


def test_no_trials_is_an_error(tiny_llama):
    with pytest.raises(ValueError, match="no trials"):
        detect(tiny_llama, [])
