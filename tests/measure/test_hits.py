"""What heads do in each trial, against `detect`, against plain Hugging Face, and on models whose answers are known."""

import copy

import numpy as np
import pytest
import torch

import rhlens as rh
from rhlens.measure import detect as detect_module
from rhlens.measure.hits import hits
from rhlens.model.engine import Engine
from rhlens.tasks.needles import Needle
from rhlens.tasks.trials import Trial
from rhlens.zoo.planted import planted as build_planted
from tests.support import plain_model, plain_rows, tiny_checkpoint

N_NEW = 8


@pytest.fixture(scope="module", params=["llama", "llama-gqa", "gpt2", "gptj", "mistral", "gemma2"])
def pair(request, tmp_path_factory):
    folder = tiny_checkpoint(request.param, tmp_path_factory.mktemp(request.param))
    return rh.load(folder, quiet=True), plain_model(folder)


def random_trials(n: int = 12) -> list[Trial]:
    """Random tokens, with an answer anywhere in them and sometimes a space before it."""
    rng, trials = np.random.default_rng(0), []
    for index in range(n):
        length = int(rng.choice([40, 55]))
        start = int(rng.integers(1, length - 12))
        answer = (start, start + int(rng.integers(4, 12)))
        reply = (start - int(rng.integers(0, 2)), answer[1])
        tokens, needle = tuple(rng.integers(2, 2048, length).tolist()), Needle("k", f"A{index} is b.", "?", "b")
        trials.append(Trial(needle, length, 0.5, tokens, answer, answer, (length - 1, length), reply, index))
    return trials


def test_every_number_is_that_of_a_plain_forward(pair):
    model, plain = pair
    trials = random_trials()
    found, scores = hits(model, trials, N_NEW), rh.detect(model, trials, max_new_tokens=N_NEW)
    traces = dict(detect_module.answers_of(Engine(model), trials, N_NEW))
    np.testing.assert_array_equal(found.copied, scores.set_scores)
    assert found.aimed.any()
    assert not found.aimed.all()
    for i, trial in enumerate(trials):
        said = traces[trial].tokens
        tokens = torch.tensor([[*trial.tokens, *said]])
        logits, rows = plain_rows(plain, tokens, trial.length)
        looks = np.array([[int(head.argmax()) for head in layer[0]] for layer in rows[0]])
        expected = (looks >= trial.reply_span[0]) & (looks < trial.answer_span[1])
        np.testing.assert_array_equal(found.aimed[i], expected)
        log_probs = logits[0, : len(said)].log_softmax(-1).gather(-1, torch.tensor(said)[:, None])[:, 0]
        np.testing.assert_allclose(traces[trial].logprob, log_probs, atol=1e-4)
        assert found.trials["confidence"][i] == pytest.approx(float(log_probs.mean()), abs=1e-4)
        assert found.trials["output"][i] == scores.trials["output"][i]


def test_log_probabilities_are_those_of_what_was_said_however_it_was_decoded(pair):
    """Guessed rightly, wrongly and not at all; alone and side by side; read on the twin and on TransformerLens."""
    model, plain = pair
    engine, tokens = (
        Engine(model),
        torch.tensor([trial.tokens for trial in random_trials(20) if trial.length == 40][:3]),
    )
    clean = engine.prefill(tokens)
    expected = engine.decode(clean, N_NEW)
    for i, trace in enumerate(expected):
        whole = torch.cat([tokens[i], torch.from_numpy(trace.tokens)])[None]
        with torch.inference_mode():
            log_probs = plain(whole).logits[0, 39:-1].log_softmax(-1)
        np.testing.assert_allclose(trace.logprob, log_probs.amax(-1), atol=1e-4)
        assert trace.logprob.dtype == np.float32
        assert (trace.logprob <= 0).all()
    bridge = copy.copy(engine)
    bridge.twin = None
    right = [trace.tokens.tolist() for trace in expected]
    for runner, guesses in ((engine, right), (engine, [right[1], right[2], right[0]]), (bridge, []), (bridge, right)):
        prefix = runner.prefill(tokens)
        prefix.guesses = guesses
        for trace, other in zip(expected, runner.decode(prefix, N_NEW), strict=True):
            assert len(other.logprob) == len(other.tokens) == len(other.position)
            np.testing.assert_array_equal(other.tokens, trace.tokens)
            np.testing.assert_allclose(other.logprob, trace.logprob, atol=1e-5)
    assert [len(trace.logprob) for trace in engine.decode(clean, N_NEW, read_heads=False)] == [0] * 3, "nobody read it"


@pytest.fixture(scope="module")
def planted(planted_llama):
    """Half of the prompts leave out the cue, without which a planted model cannot find its answer."""
    model, copy_heads = planted_llama
    answerable, other = (rh.niah(model, [256], 2, needles=14, restate=restate) for restate in (True, False))
    return hits(model, [*answerable, *other]), sorted(copy_heads)


def test_on_a_planted_model_copy_heads_tell_right_answers_and_others_do_not(planted):
    found, copy_heads = planted
    np.testing.assert_array_equal(found.right, np.arange(56) < 28)
    for sign, least in (("aimed", 0.999), ("copied", 0.9)):
        area, advantage = found.area(sign, copy_heads), found.advantage(sign, copy_heads)
        assert area.value >= least
        assert area.low > 0.75  # of 14 needles nothing surer can be said
        assert advantage.low > 0.3
        others = found.frame(copy_heads).set_index("sign").loc[sign, "random heads"]
        assert abs(others - 0.5) < 0.05
    for h in copy_heads:
        assert found.aimed[:28, h.layer, h.head].all()
        assert not found.aimed[28:, h.layer, h.head].any()


def test_each_kind_of_needle_is_judged_alone(planted):
    found, copy_heads = planted
    table = found.frame(copy_heads, by="kind")
    kinds = found.trials["kind"].unique()
    assert sorted(table["kind"].unique()) == sorted(kinds)
    assert len(table) == 3 * len(kinds)
    assert (table.loc[table["sign"] == "aimed", "auroc"] == 1).all()
    sums = table[table["sign"] == "copied"]
    assert (sums["trials"].sum(), sums["right"].sum()) == (56, 28)
    assert table.loc[table["sign"] == "confidence", "random heads"].isna().all()


def test_a_damaged_model_is_wrong_where_its_copy_heads_fail(tmp_path):
    """The only copy head sees nothing beyond the first 160 positions: deep needles are missed, by the head itself."""
    model = rh.load(build_planted(((2, 3),)).save(tmp_path), quiet=True)
    trials = rh.niah(model, [300], [0.0, 0.2, 0.8, 1.0], needles=7)

    def short_sighted(scores, hook):
        scores[:, 3, :, 160:] = torch.finfo(scores.dtype).min
        return scores

    with model.hooks(fwd_hooks=[("blocks.2.attn.hook_attn_scores", short_sighted)]):
        found = hits(model, trials)
    near = np.array([trial.answer_span[1] <= 160 for trial in trials])
    assert near.sum() == 14
    np.testing.assert_array_equal(found.right, near)
    assert found.area("aimed", [(2, 3)]).value == 1
    assert found.area("copied", [(2, 3)]).value == 1
    assert abs(found.frame([(2, 3)])["random heads"][0] - 0.5) < 0.1


def test_trials_keep_their_order_labels_and_failures(planted, planted_llama):
    model, _ = planted_llama
    trials = [*rh.niah(model, [300, 256], 1, needles=2), *rh.niah(model, [256], 1, needles=2, restate=False)]
    found = hits(model, trials)
    assert found.trials["trial"].tolist() == list(range(6)), "two grids are told apart"
    assert found.trials["length"].tolist() == [300, 300, 256, 256, 256, 256]
    assert found.right.tolist() == [True] * 4 + [False] * 2
    assert {"needle", "kind", "output", "exact", "error", "confidence"} <= set(found.trials)
    assert found.copied.shape == found.aimed.shape == (6, 4, 8)
    assert (found.model, found.run["dtype"]) == ("planted-llama", "float32")
    np.testing.assert_array_equal(found.copied, rh.detect(model, trials).set_scores)
    assert found.copied[:4].any((1, 2)).all()
    backwards = hits(model, trials[::-1])
    np.testing.assert_array_equal(backwards.copied[::-1], found.copied)
    np.testing.assert_array_equal(backwards.aimed[::-1], found.aimed)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_model_that_says_nothing_hits_nothing(tiny_llama, monkeypatch):
    trials = random_trials()
    first = {int(tiny_llama(torch.tensor([t.tokens]))[0, -1].argmax()) for t in trials[:4]}
    monkeypatch.setattr(tiny_llama.original_model.generation_config, "eos_token_id", [1, *first])
    found = hits(tiny_llama, trials, N_NEW)
    silent = np.isneginf(found.trials["confidence"])
    assert silent[:4].all()
    assert (found.trials["output"][silent] == "").all()
    assert not found.copied[silent].any()
    assert not found.aimed[silent].any()


def test_without_trials_there_is_nothing_to_run(tiny_llama):
    with pytest.raises(ValueError, match="there are no trials to run"):
        hits(tiny_llama, [])
