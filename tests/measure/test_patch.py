"""Patching against an independent version on plain modules, on planted models, and against itself."""

from contextlib import ExitStack

import numpy as np
import pytest
import torch

import rhlens as rh
from rhlens.model.ablation import InterventionError
from rhlens.model.engine import Engine
from rhlens.model.patching import PatchRun
from rhlens.results.heads import Head
from rhlens.tasks.pairs import pairs
from rhlens.zoo.planted import planted
from tests.support import ARCHITECTURES, plain_model, tiny_checkpoint

PROJECTIONS = {"gptj": "transformer.h.{}.attn.out_proj", "gpt2": "transformer.h.{}.attn.c_proj",
               "neox": "gpt_neox.layers.{}.attention.dense"}  # fmt: skip
WINDOW = {arch: {"sliding_window": 100} for arch in ("mistral", "gemma2", "gemma3")}  # the answer must see the needle
COPIES = (Head(2, 3), Head(3, 1))


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    made = planted(COPIES)
    model = rh.load(made.save(tmp_path_factory.mktemp("known")), quiet=True)
    return model, rh.niah(model, [200], 2, needles=7), set(made.previous_token_heads)


def plain_patched(arch, plain, base, source, reply, start, head, n_heads=4):
    """The reply's logits when the head's slice of the projection's input comes from the source prompt."""
    module = plain.get_submodule(PROJECTIONS.get(arch, "model.layers.{}.self_attn.o_proj").format(head.layer))
    seen = []
    whole = [torch.tensor([[*tokens, *reply[:-1]]]) for tokens in (source, base)]
    with torch.inference_mode(), ExitStack() as stack:
        handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
        plain(whole[0], use_cache=False)
        handle.remove()

        def edit(_, args):
            z, donor = args[0].unflatten(-1, (n_heads, -1)).clone(), seen[0].unflatten(-1, (n_heads, -1))
            z[:, start:, head.head] = donor[:, start:, head.head]
            return (z.flatten(-2), *args[1:])

        stack.callback(module.register_forward_pre_hook(edit).remove)
        return plain(whole[1], use_cache=False).logits[0, -len(reply) :]


@pytest.mark.parametrize("positions", ["answer", "all"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_patched_outputs_equal_an_independent_patch(arch, positions, tmp_path):
    folder = tiny_checkpoint(arch, tmp_path, **WINDOW.get(arch, {}))
    engine, plain = Engine(rh.load(folder, quiet=True)), plain_model(folder)
    pair = pairs(engine.tokenizer, rh.niah(engine.model, [120], [0.5], needles=1))[0]
    clean, corrupt = pair.clean.tokens, pair.corrupt.tokens
    start = pair.clean.length - 1 if positions == "answer" else pair.clean.reply_span[0]
    heads = [Head(0, 1), Head(1, 2)]
    run = PatchRun(engine, torch.tensor(corrupt), torch.tensor(clean), start, pair.clean.reply)
    for row, head in zip(run.patched([[h] for h in heads], "z"), heads, strict=True):
        expected = plain_patched(arch, plain, corrupt, clean, pair.clean.reply, start, head)
        assert (row - expected).abs().max() < 1e-4
        assert (row - run.logits("base")).abs().max() > 1e-4, "the patch acts"


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_copy_heads_alone_carry_the_answer(known, direction):
    model, trials, _ = known
    curve = rh.patch_top(model, trials, COPIES, [0, 2], direction, draws=3)
    all_or_none = (0.0, 1.0) if direction == "denoise" else (1.0, 0.0)
    assert curve.level("top", 0).value == pytest.approx(all_or_none[0], abs=1e-6)
    assert abs(curve.level("top", 2).value - all_or_none[1]) <= 0.05
    assert abs(curve.level("random", 2).value - all_or_none[0]) <= 0.05
    found = rh.patch(model, trials, direction=direction)
    assert set(found.top(2)) == set(COPIES)
    others = [found.effect()[layer, head] for layer in range(4) for head in range(8) if (layer, head) not in COPIES]
    assert np.abs(others).max() < 0.01


def test_paths_to_the_copy_heads_keys_start_at_the_previous_token_heads(known):
    model, trials, previous = known
    found = rh.path_patch(model, trials, COPIES, "k").effect()
    noise = [found[layer, head] for layer in range(4) for head in range(8) if (layer, head) not in previous]
    assert np.abs(noise).max() < 0.01
    assert max(found[head] for head in previous) > 0.1
    values = rh.path_patch(model, trials, COPIES, "v").effect()
    assert np.abs(values).max() < 0.05, "what is copied is the token itself, which no head brings"


def test_attribution_names_the_same_heads(known):
    model, trials, _ = known
    exact, fast = rh.patch(model, trials), rh.patch(model, trials, attribution=True)
    assert set(fast.top(2)) == set(COPIES)
    assert exact.correlation(fast) > 0.9
    assert fast.method == "attribution"


def test_attribution_is_the_slope_of_a_small_patch(tiny_llama):
    engine = Engine(tiny_llama)
    pair = pairs(engine.tokenizer, rh.niah(tiny_llama, [120], [0.5], needles=1))[0]
    clean, corrupt = (torch.tensor(t.tokens) for t in (pair.clean, pair.corrupt))
    run = PatchRun(engine, corrupt, clean, pair.clean.reply_span[0], pair.clean.reply)
    right, wrong = (torch.tensor([t.reply[i] for i in pair.differs]) for t in (pair.clean, pair.corrupt))
    slope = run.attribution(right, wrong, pair.differs)
    base, _ = run.record("base", {i: f"blocks.{i}.attn.hook_z" for i in (0, 1)})
    step = 1e-2
    for head in (Head(0, 3), Head(1, 0)):
        near = {i: base[i] + step * (run.source("z")[i] - base[i]) for i in (0, 1)}
        logits = torch.stack([run.logits("base"), run.run("base", 1, run.patches([[head]], "z", near))[0]])
        chosen = logits[:, pair.differs]
        difference = (
            chosen.gather(-1, right.expand(2, -1)[..., None]) - chosen.gather(-1, wrong.expand(2, -1)[..., None])
        ).mean((1, 2))
        assert float(difference[1] - difference[0]) / step == pytest.approx(float(slope[head]), rel=0.05, abs=2e-3)


def test_patching_a_prompt_into_itself_gives_the_prompt(tiny_llama):
    engine = Engine(tiny_llama)
    trial = rh.niah(tiny_llama, [120], [0.5], needles=1)[0]
    tokens = torch.tensor(trial.tokens)
    run = PatchRun(engine, tokens, tokens, 40, trial.reply)
    for site in ("z", "pattern", "q", "k", "v"):
        patched = run.patched([[Head(0, 1)], [Head(0, 0), Head(1, 1)]], site)
        assert (patched - run.logits("base")).abs().max() < 1e-4


@pytest.mark.parametrize("site", ["pattern", "q", "k", "v"])
@pytest.mark.parametrize("arch", ["llama-gqa", "gpt2", "neox", "phi3", "gemma2"])
def test_every_site_reaches_the_model(arch, site, tmp_path):
    engine = Engine(rh.load(tiny_checkpoint(arch, tmp_path, **WINDOW.get(arch, {})), quiet=True))
    pair = pairs(engine.tokenizer, rh.niah(engine.model, [120], [0.5], needles=1))[0]
    clean, corrupt = (torch.tensor(t.tokens) for t in (pair.clean, pair.corrupt))
    run = PatchRun(engine, corrupt, clean, pair.clean.reply_span[0], pair.clean.reply)
    patched = run.patched([[Head(0, 1)], [Head(1, 0)]], site)
    for row, layer in zip(patched, (0, 1), strict=True):
        moved = (row - run.logits("base")).abs().max()
        # Keys, queries and values of the first layer see only their own token, attention sees the same mask.
        assert moved > 1e-4, (arch, site, layer)


def test_a_site_that_cannot_be_patched_is_an_error(tmp_path):
    model = rh.load(tiny_checkpoint("gptj", tmp_path), quiet=True)
    with pytest.raises(InterventionError, match="patching 'pattern' changes nothing"):
        rh.patch(model, rh.niah(model, [120], 1, needles=1), site="pattern")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"site": "mlp"}, "site must be one of z, pattern, q, k, v"),
        ({"direction": "up"}, "direction must be one of denoise, noise"),
        ({"positions": "some"}, "positions must be one of answer, all"),
        ({"site": "q", "attribution": True}, "attribution patching is of outputs"),
        ({"site": "k"}, "use positions='all'"),
    ],
)
def test_bad_input_is_one_clear_sentence(tiny_llama, options, message):
    with pytest.raises(ValueError, match=message):
        rh.patch(tiny_llama, rh.niah(tiny_llama, [120], 1, needles=1), **options)
    with pytest.raises(ValueError, match="no trials"):
        rh.patch(tiny_llama, [])
    with pytest.raises(ValueError, match="a path ends in"):
        rh.path_patch(tiny_llama, rh.niah(tiny_llama, [120], 1, needles=1), [Head(1, 0)], "z")
