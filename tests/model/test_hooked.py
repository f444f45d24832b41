"""A HookedTransformer (TransformerLens 3.9) against plain Hugging Face and against the bridge of the same weights."""

import json
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer

import rhlens as rh
from rhlens.measure.cache import cut_cache
from rhlens.measure.support import watch
from rhlens.model import engine as engine_module
from rhlens.model.ablation import Ablation, InterventionError
from rhlens.model.engine import Engine
from rhlens.model.identity import identity
from rhlens.model.patching import PatchRun
from rhlens.results.heads import Head
from rhlens.zoo.planted import planted
from tests.support import assert_as_plain, plain_model, plain_rows, tiny_checkpoint

try:
    from transformer_lens import HookedTransformer, HookedTransformerConfig
except ImportError:
    pytest.skip("TransformerLens 4 has no HookedTransformer", allow_module_level=True)

COPIES = (Head(2, 3), Head(3, 1))
N_PROMPT, STEPS = 70, 6
AS_IT_IS = dict.fromkeys(("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases"), False)


def hooked_of(folder, tokenizer=True, **processing):
    """The checkpoint as TransformerLens's own converters make a HookedTransformer of it, without the hub."""
    from transformer_lens import loading_from_pretrained as loading

    plain = plain_model(folder)
    settings = {"n_ctx": plain.config.max_position_embeddings} | plain.config.to_dict()
    (folder / "config.json").write_text(json.dumps(settings))  # n_ctx: it asks for that of a GPT-2
    known = loading.get_pretrained_model_config(str(folder), device="cpu").to_dict()
    known |= {"tokenizer_name": None, "d_mlp": settings.get("n_inner") or known["d_mlp"]}
    if d_head := settings.get("head_dim"):  # else it takes d_model / n_heads, and its own rotary base
        base = settings["rope_parameters"]["rope_theta"]
        known |= {"d_head": d_head, "attn_scale": -1.0, "rotary_dim": d_head, "rotary_base": base}
    cfg = HookedTransformerConfig.from_dict(known)
    model = HookedTransformer(cfg, AutoTokenizer.from_pretrained(folder) if tokenizer else None)
    weights = loading.get_pretrained_state_dict(str(folder), cfg, plain)
    model.load_and_process_state_dict(weights, **processing or AS_IT_IS)
    return model


def prompts(batch: int = 2, n: int = N_PROMPT) -> torch.Tensor:
    return torch.randint(2, 2048, (batch, n), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=["llama-gqa", "gpt2", "neox", "mistral"])  # mistral: a sliding window of 16
def tiny(request, tmp_path_factory):
    folder = tiny_checkpoint(request.param, tmp_path_factory.mktemp("tiny"))
    return folder, hooked_of(folder)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def known(request, tmp_path_factory):
    """The bridge and the HookedTransformer of a planted model, and trials that it answers."""
    kv_heads = 2 if request.param == "llama" else None
    folder = planted(COPIES, arch=request.param, kv_heads=kv_heads).save(tmp_path_factory.mktemp("known"))
    bridge = rh.load(folder, quiet=True)
    return bridge, hooked_of(folder), rh.niah(bridge, [160], 2, needles=2)


@pytest.mark.parametrize("chunk", [512, 11])
def test_answers_and_every_heads_argmax_equal_a_plain_eager_forward(tiny, chunk, monkeypatch):
    folder, model = tiny
    monkeypatch.setattr(engine_module, "BRIDGE_CHUNK", chunk)
    engine, plain, tokens = Engine(model), plain_model(folder), prompts()
    prefix = engine.prefill(tokens)
    for _ in range(2):  # a prefix can go on twice
        for b, trace in enumerate(engine.decode(prefix, STEPS)):
            answer = torch.from_numpy(trace.tokens)[None]
            logits, rows = plain_rows(plain, torch.cat([tokens[b : b + 1], answer], 1), N_PROMPT)
            assert len(trace.tokens) == STEPS or int(logits[0, len(trace.tokens)].argmax()) in engine.eos_tokens
            assert_as_plain(trace, logits, rows)


def test_a_prompt_may_begin_and_end_in_pad_tokens(tiny):
    """TransformerLens would hide them from attention: an EOS is often the pad token, and decoding pads guesses."""
    folder, model = tiny
    engine, tokens = Engine(model), prompts()
    tokens[0, :2] = tokens[0, -3:] = model.tokenizer.pad_token_id
    expected, _ = plain_rows(plain_model(folder), tokens, N_PROMPT)
    for model.tokenizer.padding_side in ("left", "right"):
        with torch.inference_mode():
            torch.testing.assert_close(engine.model(tokens, logits_to_keep=1), expected, atol=1e-4, rtol=0)
        found = engine.log_probs(engine.prefill(tokens), [[7], [7]])
        np.testing.assert_allclose(found, expected[:, 0].log_softmax(-1)[:, [7]], atol=1e-4)


def test_of_equal_keys_the_first_counts(tmp_path):
    """Without positions, the keys of a repeated token are the same in layer 0, and weighed alike but for rounding."""
    model = hooked_of(tiny_checkpoint("gpt2", tmp_path))
    model.W_pos.data.zero_()
    engine, tokens = Engine(model), torch.randint(2, 12, (4, 70), generator=torch.Generator().manual_seed(0))
    for row, trace in zip(tokens.tolist(), engine.decode(engine.prefill(tokens), STEPS), strict=True):
        read, looks = [*row, *trace.tokens], trace.position[:, 0].ravel().tolist()
        assert [read.index(read[look]) for look in looks] == looks


@pytest.mark.parametrize("ablated", [{"method": "zero"}, {"method": "uniform"}, {"method": "resample"}])
@pytest.mark.parametrize("phase", ["prefill", "decode", "both"])
def test_log_probs_under_every_ablation_equal_the_bridges(tiny, ablated, phase):
    folder, model = tiny
    found = []
    for engine in (Engine(model), Engine(rh.load(folder, quiet=True))):
        ablation = Ablation((Head(0, 1), Head(1, 2)), phase, **ablated)
        donors = [1, 0] if ablation.method == "resample" else None
        under = engine.under(engine.prefill(prompts()), [ablation, Ablation()], donors=donors)
        found.append(np.concatenate(engine.log_probs(under, [[5, 6]] * under.tokens.shape[0])))
    np.testing.assert_allclose(*found, atol=2e-4)


def test_heads_score_as_on_the_bridge_and_the_planted_ones_retrieve(known):
    bridge, model, trials = known
    assert [t.tokens for t in rh.niah(model, [160], 2, needles=2)] == [t.tokens for t in trials]
    expected, scores = rh.detect(bridge, trials), rh.detect(model, trials)
    assert set(scores.retrieval_heads()) == set(COPIES)
    np.testing.assert_array_equal(scores.set_scores, expected.set_scores)
    np.testing.assert_array_equal(scores.sum_scores, expected.sum_scores)
    np.testing.assert_array_equal(scores.copies, expected.copies)
    pd.testing.assert_frame_equal(scores.trials, expected.trials, atol=1e-4)
    assert scores.run["prefill"] == "HookedTransformer, chunks of 512"
    assert scores.run["decode"] == "HookedTransformer"


def test_weights_may_be_processed_as_by_default(tmp_path):
    folder = planted(COPIES, arch="gpt2").save(tmp_path)
    bridge, model = rh.load(folder, quiet=True), hooked_of(folder, **dict.fromkeys(AS_IT_IS, True))
    trials = rh.niah(bridge, [160], 2, needles=2)
    np.testing.assert_array_equal(rh.detect(model, trials).copies, rh.detect(bridge, trials).copies)


@pytest.mark.parametrize("phase", ["prefill", "decode", "both"])
@pytest.mark.parametrize("method", ["zero", "mean", "uniform", "resample"])
def test_recall_without_heads_is_the_bridges(known, method, phase):
    bridge, model, trials = known
    curves = (rh.ablate(m, trials[:2], COPIES, 2, method, phase, draws=1) for m in (bridge, model))
    rows = [curve.frame() for curve in curves]
    pd.testing.assert_frame_equal(*rows, atol=1e-3, rtol=1e-3)
    if phase != "prefill":
        assert rows[1].query("k == 2 and heads == 'top'")["recall"].max() < 0.5


def test_a_map_of_what_heads_are_worth_is_the_bridges(known):
    bridge, model, trials = known
    maps = [rh.causal_map(m, trials[:1]) for m in (bridge, model)]
    np.testing.assert_allclose(maps[1].effects, maps[0].effects, atol=1e-3)
    assert np.abs(maps[0].effects).max() > 0.01


@pytest.mark.parametrize("site", ["z", "pattern", "q", "k", "v"])
def test_patched_logits_are_the_bridges_at_every_site(tiny, site):
    folder, model = tiny
    base, source = prompts()
    base[:20] = source[:20]
    sets = [[Head(0, 1)], [Head(0, 0), Head(1, 1)]]  # under k and v, numbers of groups
    runs = [PatchRun(Engine(m), base, source, 20, [5, 6, 7]) for m in (model, rh.load(folder, quiet=True))]
    found = [run.patched(sets, site) for run in runs]
    torch.testing.assert_close(*found, atol=2e-4, rtol=0)
    assert (found[0] - runs[0].logits("base")).abs().amax((1, 2)).min() > 0.01


def test_patching_is_the_bridges(known):
    bridge, model, trials = known
    maps = [rh.patch(m, trials[:1]) for m in (bridge, model)]
    np.testing.assert_allclose(maps[1].patched, maps[0].patched, atol=1e-3)
    assert set(maps[1].top(2)) == set(COPIES)


def test_gradients_paths_and_cut_caches_are_the_bridges(known):
    bridge, model, trials = known
    for verb in (
        lambda m: rh.patch(m, trials[:1], attribution=True, positions="all").patched,
        lambda m: rh.path_patch(m, trials[:1], COPIES, "k").patched,
        lambda m: cut_cache(m, trials, COPIES, full=0, draws=1).answers["recall"],
    ):
        np.testing.assert_allclose(verb(model), verb(bridge), atol=1e-3)


def test_attention_views_and_watching_show_what_they_do_on_the_bridge(known):
    bridge, model, trials = known
    tokens = torch.tensor([trials[0].tokens])
    reports = []
    for m in (bridge, model):
        with watch(m, COPIES) as monitor:
            m.generate(tokens, max_new_tokens=4, do_sample=False, verbose=False, stop_at_eos=False)
        reports.append(monitor.report)
    assert reports[1].texts == reports[0].texts
    np.testing.assert_array_equal(reports[1].source, reports[0].source)
    views = [rh.attention(m, trials[0], COPIES) for m in (bridge, model)]
    np.testing.assert_allclose(views[1].window.pattern, views[0].window.pattern, atol=1e-4)


def test_nothing_of_ours_stays_on_the_users_model(known):
    _, model, trials = known
    rh.ablate(model, trials[:1], COPIES, k=[1], draws=1)
    assert not any(point._forward_hooks for point in model.hook_dict.values())
    assert rh.load(model, quiet=True) is model


def test_hooks_of_the_users_own_act(known):
    """Silenced heads put out zeros already, so that taking them away is refused as idle."""
    _, model, trials = known
    silence = [(f"blocks.{i}.attn.hook_z", lambda z, hook: torch.zeros_like(z)) for i in (2, 3)]
    for hooked in (False, True):
        with model.hooks(fwd_hooks=silence) if hooked else nullcontext():
            assert (rh.detect(model, trials).sum_scores.max() > 0.5) is not hooked
            if hooked:
                with pytest.raises(InterventionError, match="already"):
                    rh.ablate(model, trials, COPIES, k=[2], draws=1)


def test_long_prompts_leave_the_model_fit_for_training(tmp_path):
    """Rotary tables grow as a prompt is read; grown in inference mode, autograd would refuse them."""
    model = hooked_of(tiny_checkpoint("llama-gqa", tmp_path, max_position_embeddings=4096))
    engine, before = Engine(model), len(model.blocks[0].attn.rotary_cos)
    engine.prefill(prompts(1, before + 100))
    assert len(model.blocks[0].attn.rotary_cos) > before
    model(prompts(1, 20)).sum().backward()


def test_a_run_folder_knows_a_model_by_its_weights_whatever_it_read(tmp_path):
    seeds = {"a": 0, "b": 0, "c": 1}
    folders = [
        tiny_checkpoint("llama-gqa", tmp_path / name, seed=seed, max_position_embeddings=4096)
        for name, seed in seeds.items()
    ]
    a, b, c = (Engine(hooked_of(folder)) for folder in folders)
    a.prefill(prompts(1, len(a.model.blocks[0].attn.rotary_cos) + 100))
    assert identity(a) == identity(b) != identity(c)
    assert not a.one_piece
    c.model.cfg.use_dynamic_ntk_rope = True
    assert Engine(c.model.original_model).one_piece


def test_a_model_without_a_tokenizer_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"no tokenizer .*model\.tokenizer"):
        Engine(hooked_of(tiny_checkpoint("llama-gqa", tmp_path), tokenizer=False))
