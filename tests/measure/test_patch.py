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


def plain_run(plain, tokens, n_reply, edits=(), keep=()):
    """Logits of the reply on plain modules, with some modules' outputs edited and some kept."""
    kept = {}
    with torch.inference_mode(), ExitStack() as stack:
        for name, edit in edits:
            hook = lambda _, args, out, edit=edit: edit(out)  # noqa: E731
            stack.callback(plain.get_submodule(name).register_forward_hook(hook).remove)
        for name in keep:
            hook = lambda _, args, out, name=name: kept.__setitem__(name, (args[0].clone(), out.clone()))  # noqa: E731
            stack.callback(plain.get_submodule(name).register_forward_hook(hook).remove)
        logits = plain(torch.tensor([tokens]), use_cache=False).logits[0, -n_reply:]
    return logits, kept


def with_slice(start, index, donor, n):
    """An edit that takes one head (or group) of n from a donor, from position `start` on."""

    def edit(out):
        edited, other = out.unflatten(-1, (n, -1)).clone(), donor.unflatten(-1, (n, -1))
        edited[:, start:, index] = other[:, start:, index]
        return edited.flatten(-2)

    return edit


@pytest.fixture(params=["llama", "llama-gqa", "qwen2"])
def pair_run(request, tmp_path):
    folder = tiny_checkpoint(request.param, tmp_path)
    engine = Engine(rh.load(folder, quiet=True))
    pair = pairs(engine.tokenizer, rh.niah(engine.model, [120], [0.5], needles=1))[0]
    start, reply = pair.clean.reply_span[0], pair.clean.reply
    run = PatchRun(engine, *(torch.tensor(t.tokens) for t in (pair.corrupt, pair.clean)), start, reply)
    base, source = ([*t.tokens, *reply[:-1]] for t in (pair.corrupt, pair.clean))
    return run, plain_model(folder), base, source, start, len(reply)


@pytest.mark.parametrize("site", ["q", "k", "v"])
def test_patched_keys_of_a_group_equal_an_independent_patch(pair_run, site):
    run, plain, base, source, start, n_reply = pair_run
    n = run.engine.n_heads // (1 if site == "q" else run.engine.group_size)
    for head in (Head(0, 1), Head(1, n - 1)):
        name = f"model.layers.{head.layer}.self_attn.{site}_proj"
        donor = plain_run(plain, source, n_reply, keep=[name])[1][name][1]
        expected, _ = plain_run(plain, base, n_reply, [(name, with_slice(start, head.head, donor, n))])
        row = run.patched([[head]], site)[0]
        assert (row - expected).abs().max() < 1e-4
        assert (row - run.logits("base")).abs().max() > 1e-3, "the patch acts"


@pytest.mark.parametrize("site", ["q", "k", "v"])
def test_path_patching_equals_an_independent_one(pair_run, site):
    run, plain, base, source, start, n_reply = pair_run
    n = run.engine.n_heads // (1 if site == "q" else run.engine.group_size)
    sender, receiver = Head(0, 1), Head(1, n - 1)
    out, to = "model.layers.{}.self_attn.o_proj", f"model.layers.1.self_attn.{site}_proj"
    donor = plain_run(plain, source, n_reply, keep=[out.format(0)])[1][out.format(0)][0]
    frozen = plain_run(plain, base, n_reply, keep=[out.format(1)])[1][out.format(1)][1]
    first = plain.get_submodule(out.format(0))
    edit = with_slice(start, sender.head, donor, run.engine.n_heads)
    handle = first.register_forward_pre_hook(lambda _, args: (edit(args[0]), *args[1:]))
    _, kept = plain_run(plain, base, n_reply, [(out.format(1), lambda _: frozen)], keep=[to])
    handle.remove()
    expected, _ = plain_run(plain, base, n_reply, [(to, with_slice(start, receiver.head, kept[to][1], n))])
    rows = run.through([sender, Head(1, 0)], [receiver], site)
    assert (rows[0] - expected).abs().max() < 1e-4
    assert (rows[0] - run.logits("base")).abs().max() > 1e-4, "the path acts"
    assert (rows[1] - run.logits("base")).abs().max() < 1e-4, "a head of the same layer feeds nothing"


def test_attention_layers_that_cannot_be_held_are_an_error(pair_run, monkeypatch):
    run, *_ = pair_run
    run.prove_paths("k")
    names = {i: f"blocks.{i}.hook_mlp_out" for i in range(2)}
    monkeypatch.setattr(PatchRun, "_attention_names", names)
    with pytest.raises(InterventionError, match="patching all attention layers does not give"):
        run.prove_paths("k")


def test_a_patching_run_that_was_broken_off_goes_on(known, tmp_path, monkeypatch):
    model, trials, _ = known
    whole = rh.patch(model, trials[:4])
    done = []
    stop = lambda self, site, prove=PatchRun.prove: prove(self, site) if len(done) < 2 else 1 / 0  # noqa: E731
    monkeypatch.setattr(PatchRun, "prove", lambda self, site: (stop(self, site), done.append(site)))
    with pytest.raises(ZeroDivisionError):
        rh.patch(model, trials[:4], out=tmp_path)
    monkeypatch.setattr(PatchRun, "prove", lambda self, site: done.append(site))
    resumed = rh.patch(model, trials[:4], out=tmp_path)
    assert len(done) == 2 + 2, "two trials were finished, two were left"
    np.testing.assert_array_equal(resumed.patched, whole.patched)
    np.testing.assert_array_equal(resumed.by_position, whole.by_position)
    assert rh.patch(model, trials[:4], direction="noise", out=tmp_path).direction == "noise"
    assert len(done) == 4 + 4, "another direction is another measurement"


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


def test_no_path_leads_to_the_first_layer(known):
    model, trials, _ = known
    with pytest.raises(ValueError, match="no head comes before those of layer 0: give heads of later layers"):
        rh.path_patch(model, trials[:1], [(0, 1)], "k")


def test_one_prompt_shows_which_heads_feed_the_keys(known):
    model, trials, previous = known
    found = rh.path_patch(model, trials[:1], [COPIES[1]], "k")
    assert max(found.top(len(previous)), key=found.effect().__getitem__) in previous
    assert np.abs(found.effect()[3]).max() < 1e-6, "heads that are not earlier have no effect"
    assert (found.site, found.direction, found.positions, found.method) == ("k", "noise", "all", "path to L3H1")
    assert (found.model, len(found.trials)) == (Engine(model).name, 1)
    assert found.by_position.shape == (1, len(trials[0].reply), 4, 8)


def test_attribution_names_the_same_heads(known):
    model, trials, _ = known
    exact, fast = rh.patch(model, trials), rh.patch(model, trials, attribution=True)
    assert set(fast.top(2)) == set(COPIES)
    assert exact.pearson(fast) > 0.9
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
        assert float(difference[1] - difference[0]) / step == pytest.approx(slope[head].item(), rel=0.05, abs=2e-3)


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
