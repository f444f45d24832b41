"""Cut caches against plain Hugging Face with masks of our own, and on planted models whose copy heads are known."""

import json
from contextlib import ExitStack, contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import DynamicCache

import rhlens as rh
from rhlens.measure import ablate as ablate_module
from rhlens.measure.cache import cut_cache
from rhlens.results.cache import RANDOM, RETRIEVAL, Window
from rhlens.results.heads import Head
from rhlens.results.scores import HeadScores
from rhlens.tasks.prompts import Prompt
from rhlens.zoo.planted import planted as build_planted
from tests.support import plain_model, tiny_checkpoint

WINDOW = Window(3, 12)
N_NEW = 4


def scored(values: np.ndarray) -> HeadScores:
    """These scores, in a single trial."""
    return HeadScores(values[None], values[None], pd.DataFrame({"needle": ["n"], "recall": [1.0]}))


def heads_of(names: str) -> list[Head]:
    return [Head.parse(name) for name in names.split()]


@pytest.fixture(scope="module", params=["llama", "llama-gqa", "qwen2"])
def pair(request, tmp_path_factory):
    folder = tiny_checkpoint(request.param, tmp_path_factory.mktemp(request.param))
    model = rh.load(folder, quiet=True)
    return model, plain_model(folder), rh.niah(model, [190, 220], 1, needles=1)


@contextmanager
def masked(plain, cut: list[Head], n_tokens: int, first: int, window: Window):
    """A plain model whose heads `cut` see only a window from the query `first` on: an additive mask for each layer."""
    query, key = torch.arange(n_tokens)[:, None], torch.arange(n_tokens)
    in_window = (query < first) | (key < window.sink) | (query - key < window.recent)
    with ExitStack() as stack:
        for i, layer in enumerate(plain.model.layers):
            visible = (key <= query).repeat(1, plain.config.num_attention_heads, 1, 1)
            for h in (h for h in cut if h.layer == i):
                visible[:, h.head] &= in_window
            mask = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
            hook = lambda module, args, options, mask=mask: (args, options | {"attention_mask": mask})  # noqa: E731
            stack.callback(layer.self_attn.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


def plain_log_probs(plain, tokens, cut, first, window):
    with masked(plain, cut, len(tokens), first, window), torch.inference_mode():
        return plain(torch.tensor([tokens]), use_cache=False).logits[0].log_softmax(-1)


def plain_answer(model, plain, trial, cut, phase, window=WINDOW) -> tuple[str, float]:
    """Greedy answer, and the right one's mean log-probability, each by whole forward passes without any cache."""
    first = trial.length - 1 if phase == "decode" else 0
    tokens = list(trial.tokens)
    while len(tokens) < trial.length + N_NEW:
        token = int(plain_log_probs(plain, tokens, cut, first, window)[-1].argmax())
        if token == 1:  # EOS
            break
        tokens.append(token)
    said = model.tokenizer.decode(tokens[trial.length :], skip_special_tokens=True).strip()
    of_reply = plain_log_probs(plain, [*trial.tokens, *trial.reply], cut, first, window)
    each = [float(of_reply[trial.length - 1 + i, token]) for i, token in enumerate(trial.reply)]
    return said.splitlines()[0].strip() if said else "", float(np.mean(each))


@pytest.mark.parametrize("phase", ["decode", "both"])
def test_answers_are_those_of_plain_attention_under_masks(pair, phase):
    model, plain, trials = pair
    values = np.array([[0.9, 0.0, 0.5, 0.6], [0.1, 0.2, 0.7, 0.65]])  # best heads and means rank groups otherwise
    groups = plain.config.num_key_value_heads
    ranked = sorted(
        ((layer, g) for layer in range(2) for g in range(groups)),
        key=lambda at: -values[at[0]].reshape(groups, -1)[at[1]].max(),
    )
    fulls = [0, 1, 2, 2 * groups]
    curve = cut_cache(model, trials, scored(values), fulls, WINDOW, phase, draws=2, max_new_tokens=N_NEW)
    assert curve.ranked == ranked
    expected, size = {}, 4 // groups
    for row in curve.answers.itertuples():
        cut = heads_of(row.names)
        kept = {(h.layer, h.head // size) for h in map(Head._make, np.ndindex(2, 4)) if h not in cut}
        assert len(kept) == row.full
        assert len(cut) == (2 * groups - row.full) * size, "whole groups"
        if row.heads == RETRIEVAL:
            assert kept == set(ranked[: row.full])
        at = row.names, row.trial
        expected[at] = expected.get(at) or plain_answer(model, plain, trials[row.trial], cut, phase)
        assert row.output == expected[at][0]
        assert row.logprob == pytest.approx(expected[at][1], abs=1e-4)
    assert len({round(logprob, 3) for _, logprob in expected.values()}) >= 0.8 * len(expected), "cuts act"


def test_a_window_is_the_only_thing_seen_even_if_it_is_one_position(pair):
    model, plain, trials = pair
    values = np.zeros((2, 4))
    for window in (Window(0, 1), Window(5, 1), Window(0, 150)):
        curve = cut_cache(model, trials[:1], scored(values), 0, window, "both", draws=1, max_new_tokens=N_NEW)
        cut = heads_of(curve.answers["names"][0])
        output, logprob = plain_answer(model, plain, trials[0], cut, "both", window)
        assert curve.answers["output"][0] == output
        assert curve.answers["logprob"][0] == pytest.approx(logprob, abs=1e-4)


def test_the_whole_cache_is_the_whole_model_and_no_cache_is_nobodys(pair):
    model, _, trials = pair
    curve = cut_cache(model, trials, scored(np.eye(2, 4)), None, WINDOW, draws=2, max_new_tokens=N_NEW)
    whole = curve.size.groups
    assert curve.fulls[0] == 0
    assert curve.fulls[-1] == whole
    plain = rh.ablate(model, trials, [(0, 0)], 0, draws=1, max_new_tokens=N_NEW).answers
    columns = ["output", "recall", "exact", "error", "logprob"]
    rows = curve.answers.set_index(["full", "heads", "draw"]).sort_index()
    for full, expected in ((whole, plain), (0, rows.loc[(0, RETRIEVAL, 0)])):
        for heads, draw in ((RETRIEVAL, 0), (RANDOM, 0), (RANDOM, 1)):
            found = rows.loc[(full, heads, draw), columns].reset_index(drop=True)
            pd.testing.assert_frame_equal(found, expected[columns].reset_index(drop=True), atol=1e-5)


def test_the_bytes_of_a_whole_cache_are_those_that_transformers_takes(pair):
    model, plain, trials = pair
    size = cut_cache(model, trials[:1], scored(np.eye(2, 4)), 1, WINDOW, draws=1, max_new_tokens=1).size
    cache = DynamicCache()
    plain(torch.tensor([trials[0].tokens]), past_key_values=cache)
    taken = sum(x.numel() * x.element_size() for layer in cache.layers for x in (layer.keys, layer.values))
    assert size.bytes(trials[0].length, size.groups, WINDOW) == taken


@pytest.fixture(scope="module")
def planted(planted_llama):
    model, copy_heads = planted_llama
    trials = rh.niah(model, [256], [0.3], needles=4, distractors=1)
    return model, trials, rh.detect(model, trials), copy_heads


def test_a_cache_of_the_copy_heads_recalls_and_one_of_others_does_not(planted):
    """A copy head that sees a window copies something from it: two of the three outvote one that sees the needle.

    Previous-token heads look seven places back: any window holds what they need.
    """
    model, trials, scores, copy_heads = planted
    curve = cut_cache(model, trials, scores, [1, 3], Window(4, 16), draws=20)
    assert set(curve.ranked[:3]) == copy_heads
    assert [curve.level(RETRIEVAL, full, "exact").value for full in (1, 3)] == [0, 1]
    for names, found in curve.answers[curve.answers["heads"] == RANDOM].groupby("names"):
        if len(copy_heads - set(heads_of(str(names)))) < 2:
            assert not found["exact"].any()
    assert curve.level(RANDOM, 3, "exact").value < 0.2
    assert curve.gain(3).low > 0.5
    assert curve.gain(3, "logprob").low > 0
    assert curve.share(3) == pytest.approx((3 * 256 + 29 * 20) / (32 * 256))


def test_copy_heads_suffice_while_the_prompt_is_read_too(planted):
    model, trials, scores, _ = planted
    curve = cut_cache(model, trials[:2], scores, [0, 3], Window(4, 16), "both", draws=1)
    assert curve.level(RETRIEVAL, 3, "exact").value == 1
    assert curve.level(RETRIEVAL, 0, "recall").value < 0.2


def test_a_window_that_holds_the_needle_needs_no_head_in_full(planted):
    model, _, scores, _ = planted
    trials = rh.niah(model, [256], [0.0, 1.0], needles=2)
    for window, expected in ((Window(0, 100), [False] * 2 + [True] * 2), (Window(60, 16), [True] * 2 + [False] * 2)):
        held = [t.needle_span[1] <= window.sink or t.needle_span[0] >= 256 - window.recent for t in trials]
        assert held == expected
        curve = cut_cache(model, trials, scores, 0, window, draws=1)
        np.testing.assert_array_equal(curve.matrix(RETRIEVAL, 0, "exact"), [expected])


def test_key_value_heads_are_ranked_by_their_best_query_head(tmp_path):
    model = rh.load(build_planted(((2, 3),), kv_heads=2).save(tmp_path), quiet=True)
    trials = rh.niah(model, [256], 1, needles=3)
    curve = cut_cache(model, trials, rh.detect(model, trials), 1, Window(4, 16), draws=6)
    assert curve.ranked[0] == (2, 0)
    assert curve.size.groups == 8
    assert curve.level(RETRIEVAL, 1, "exact").value == 1
    cut = set(heads_of(curve.answers["names"][0]))
    assert cut == {Head(i, j) for i in range(4) for j in range(8)} - {Head(2, j) for j in range(4)}
    for names, found in curve.answers[curve.answers["heads"] == RANDOM].groupby("names"):
        assert found["exact"].mean() == (Head(2, 3) not in heads_of(str(names)))


def test_for_one_draw_a_larger_cache_holds_the_smaller_one_and_seeds_tell_draws_apart(planted):
    model, trials, scores, _ = planted

    def sets(seed):
        curve = cut_cache(model, trials[:1], scores, [2, 9], WINDOW, draws=4, seed=seed, max_new_tokens=1)
        rows = curve.answers.set_index(["heads", "full", "draw"])["names"]
        return {at: frozenset(heads_of(names)) for at, names in rows.items()}

    first = sets(0)
    assert first == sets(0)
    for draw in range(4):
        assert first[RANDOM, 9, draw] < first[RANDOM, 2, draw]
    assert first[RETRIEVAL, 9, 0] < first[RETRIEVAL, 2, 0]
    assert len({first[RANDOM, 2, draw] for draw in range(4)}) == 4
    assert {first[RANDOM, 2, draw] for draw in range(4)} != {sets(1)[RANDOM, 2, draw] for draw in range(4)}
    assert first[RETRIEVAL, 2, 0] == sets(1)[RETRIEVAL, 2, 0]


def test_a_killed_run_goes_on_and_another_window_does_not_begin_there(planted, tmp_path, monkeypatch):
    model, trials, scores, _ = planted
    real, asked = ablate_module.Answers._answers, []

    def run(full=(0, 3), window=WINDOW, **options):
        return cut_cache(model, trials[:2], scores, full, window, draws=2, max_new_tokens=6, **options)

    def dies(self, prefix, pairs):
        if len(asked) >= 4:
            raise KeyboardInterrupt
        asked.extend(pairs)
        return real(self, prefix, pairs)

    whole = run()
    monkeypatch.setattr("rhlens.measure.asker.SHARED_ROWS", 4)
    monkeypatch.setattr(ablate_module.Answers, "_answers", dies)
    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path)
    assert len(asked) == 4
    counting = lambda self, prefix, pairs: asked.extend(pairs) or real(self, prefix, pairs)  # noqa: E731
    monkeypatch.setattr(ablate_module.Answers, "_answers", counting)
    pd.testing.assert_frame_equal(run(out=tmp_path).answers, whole.answers, atol=1e-5)
    assert len(asked) == 10, "no head, three sets of three and all, two trials each, none asked twice"
    run(out=tmp_path)
    run(full=3, out=tmp_path)
    assert len(asked) == 10
    for n, other in enumerate(({"window": Window(3, 13)}, {"window": Window(12, 3)}, {"phase": "both"}), start=1):
        kept, anew = run(full=3, out=tmp_path, **other), run(full=3, **other)
        pd.testing.assert_frame_equal(kept.answers, anew.answers, atol=1e-5)
        assert len(asked) == 10 + 16 * n, f"{other}: eight answers of its own, and the same eight without a folder"
    assert set(json.loads((tmp_path / "config.json").read_text())) == {"cut_cache"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": Window(4, 252)}, "a window of 256 positions holds prompts of 256 tokens whole"),
        ({"window": Window(-1, 10)}, "a window keeps 0 or more first and 1 or more latest"),
        ({"window": Window(4, 0)}, "a window keeps 0 or more first and 1 or more latest"),
        ({"full": -1}, "full must lie between 0 and the model's 32 key-value heads, not"),
        ({"full": [0, 33]}, "full must lie between 0 and the model's 32 key-value heads, not"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"phase": "prefill"}, "phase must be decode or both, not 'prefill'"),
        ({"phase": "after"}, "phase must be decode or both, not 'after'"),
    ],
)
def test_bad_input_is_one_clear_sentence(planted, options, message):
    model, trials, scores, _ = planted
    with pytest.raises(ValueError, match=message):
        cut_cache(model, trials, scores, **options)


def test_nothing_to_ask_and_scores_of_another_model_are_refused(planted):
    model, trials, scores, _ = planted
    with pytest.raises(ValueError, match="no trials"):
        cut_cache(model, [], scores)
    with pytest.raises(ValueError, match="take scores of this model"):
        cut_cache(model, trials, scored(np.zeros((2, 4))))


def test_a_window_one_position_shorter_than_the_prompt_is_a_cut(planted):
    model, trials, scores, _ = planted
    curve = cut_cache(model, trials[:1], scores, 0, Window(4, 251), draws=1, max_new_tokens=2)
    assert curve.share(0) == 255 / 256


def test_what_no_needle_answers_can_be_asked_too(planted):
    model, trials, scores, _ = planted
    prompts = [Prompt("closed-book", f"{i}?", "x", t.tokens, t.reply, i) for i, t in enumerate(trials[:2])]
    curve = cut_cache(model, prompts, scores, [0, 3], WINDOW, draws=2, max_new_tokens=4)
    assert curve.needles == ["0?", "1?"]
    assert curve.fulls == [0, 3, 32], "the whole cache is always tried"
    assert len(curve.summary()) == 6
    assert curve.share(0) == 15 / 256
