"""Every method and phase of ablation against independent implementations on plain Hugging Face modules."""

import copy
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from transformers import AttentionInterface, DynamicCache

import rhlens as rh
from rhlens.model.ablation import Ablation, Edits, InterventionError
from rhlens.model.continuing import going_on
from rhlens.model.engine import Engine
from rhlens.results.cache import Window
from rhlens.results.heads import Head
from tests.support import ARCHITECTURES, plain_model, tiny_checkpoint

N_PROMPT = 70
HEADS = (Head(0, 1), Head(1, 0), Head(1, 3))
PHASES = ("prefill", "decode", "both")
METHODS = ("zero", "mean", "resample", "uniform", "window")
WINDOW = Window(3, 10)
PROJECTIONS = {"gptj": "transformer.h.{}.attn.out_proj", "gpt2": "transformer.h.{}.attn.c_proj",
               "neox": "gpt_neox.layers.{}.attention.dense"}  # fmt: skip


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def pair(request, tmp_path_factory):
    folder = tiny_checkpoint(request.param, tmp_path_factory.mktemp(request.param))
    return request.param, Engine(rh.load(folder, quiet=True)), plain_model(folder)


def prompts(batch: int = 2, n: int = N_PROMPT, seed: int = 1) -> torch.Tensor:
    return torch.randint(2, 2048, (batch, n), generator=torch.Generator().manual_seed(seed))


def edited_eager(module, query, key, value, attention_mask, scaling, dropout=0.0, **options):
    """Eager attention written anew, in which chosen heads attend to all visible keys alike, or only to a window."""
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    scores = query @ key.mT * scaling
    if cap := options.get("softcap"):
        scores = torch.tanh(scores / cap) * cap
    n_queries, n_keys = scores.shape[-2:]
    at = torch.arange(n_keys - n_queries, n_keys)[:, None] - torch.arange(n_keys)
    window = options.get("sliding_window")
    visible = (at >= 0) & (at < window if window else True)
    pattern = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    for head in edited_eager.heads.get(module.layer_idx, ()):
        if edited_eager.method == "uniform":
            pattern[:, head] = visible / visible.sum(-1, keepdim=True)
        else:
            kept = visible & ((torch.arange(n_keys) < 3) | (at < 10))
            pattern[:, head] = scores[:, head].masked_fill(~kept, -torch.inf).softmax(-1)
    return (pattern @ value).transpose(1, 2), pattern


AttentionInterface.register("edited_eager", edited_eager)


class Plain:
    """A plain model with its own way of taking `HEADS` away: z is replaced head by head in the projection's input."""

    def __init__(self, arch, model, method, n_heads=4):
        self.model, self.method, self.n_heads = model, method, n_heads
        path = PROJECTIONS.get(arch, "model.layers.{}.self_attn.o_proj")
        self.modules = [model.get_submodule(path.format(i)) for i in (0, 1)]

    def logits(self, tokens, phase, replacement=lambda layer, head, z: torch.zeros_like(z)):
        cache = DynamicCache()
        for part, name in ((tokens[:, :-1], "prefill"), (tokens[:, -1:], "decode")):
            with ExitStack() as stack, torch.inference_mode():
                if phase in (name, "both"):
                    self._ablate(stack, replacement, name)
                logits = self.model(part, past_key_values=cache, use_cache=True).logits[:, -1]
        return logits

    def _ablate(self, stack, replacement, name):
        if self.method in ("uniform", "window"):
            edited_eager.method = self.method
            edited_eager.heads = {layer: [h for at, h in HEADS if at == layer] for layer in (0, 1)}
            before = self.model.config._attn_implementation
            self.model.set_attn_implementation("edited_eager")
            stack.callback(self.model.set_attn_implementation, before)
            return
        for layer, module in enumerate(self.modules):

            def edit(_, args, layer=layer):
                z = args[0].unflatten(-1, (self.n_heads, -1)).clone()
                for at, head in HEADS:
                    if at == layer:
                        z[:, :, head] = replacement(layer, head, z[:, :, head], name)
                return (z.flatten(-2), *args[1:])

            stack.callback(module.register_forward_pre_hook(edit).remove)

    def outputs(self, tokens):
        """[layer] of [batch, pos, head, d_head], of an unablated forward over the whole prompt."""
        seen = []
        with ExitStack() as stack, torch.inference_mode():
            for module in self.modules:
                hook = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
                stack.callback(hook.remove)
            self.model(tokens, use_cache=False)
        return [z.unflatten(-1, (self.n_heads, -1)) for z in seen]

    def expected(self, tokens, donors, phase):
        if self.method in ("zero", "uniform", "window"):
            return self.logits(tokens, phase, lambda layer, head, z, name: torch.zeros_like(z))
        if self.method == "mean":
            means = [z[:, :-1].mean((0, 1)) for z in self.outputs(tokens)]
            return self.logits(tokens, phase, lambda layer, head, z, name: means[layer][head].expand_as(z))
        other = self.outputs(donors)
        cut = {"prefill": slice(None, -1), "decode": slice(-1, None)}
        return self.logits(tokens, phase, lambda layer, head, z, name: other[layer][:, cut[name], head])


def next_logits(engine, prefix):
    """What the engine's own step says first, as log-probabilities of every token."""
    with torch.inference_mode(), going_on(engine, prefix, range(prefix.n_asked)) as (_, run):
        return run(prefix.last)[: prefix.n_asked, -1]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("with_twin", [True, False])
def test_every_method_and_phase_equals_an_independent_one(pair, method, phase, with_twin):
    arch, engine, plain = pair
    engine = copy.copy(engine)
    engine.twin = engine.twin if with_twin else None
    tokens, donors = prompts(), prompts(seed=2)
    clean = engine.prefill(torch.cat([tokens, donors]) if method == "resample" else tokens)
    ablations = [Ablation(HEADS, phase, method, window=WINDOW)] * 2
    means = engine.mean_outputs([tokens]) if method == "mean" else None
    source = [2, 3] if method == "resample" else None

    def run():
        prefix = engine.under(clean, ablations, [0, 1], source, means)
        return next_logits(engine, prefix)

    if arch == "gptj" and method in ("uniform", "window"):  # its patterns can be read, not edited
        with pytest.raises(InterventionError, match="did not act"):
            run()
        return
    expected = Plain(arch, plain, method).expected(tokens, donors, phase)
    assert (run() - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))
    unablated = Plain(arch, plain, "zero").logits(tokens, "never")
    assert (unablated - expected).abs().max() > 1e-2, "the ablation acts at all"


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_of_conditions_equals_them_one_by_one(tiny_llama, method):
    engine, tokens = Engine(tiny_llama), prompts(3)
    clean, means = engine.prefill(tokens), engine.mean_outputs([tokens])
    sets = [(), HEADS, (Head(0, 0),), (Head(1, 2), Head(0, 3))]
    conditions = [Ablation(heads, phase, method, window=WINDOW) for heads in sets for phase in PHASES]
    rows = [i % 3 for i in range(len(conditions))]
    donors = [(row + 1) % 3 for row in rows] if method == "resample" else None
    replies = [[5, 6, 7]] * (len(rows) * (2 if donors else 1))
    together = engine.under(clean, conditions, rows, donors, means)
    traces, scores = engine.decode(together, 6), engine.log_probs(together, replies)
    for i, (row, condition) in enumerate(zip(rows, conditions, strict=True)):
        donor = donors[i : i + 1] if donors else None
        alone = engine.under(clean, [condition], [row], donor, means)
        trace = engine.decode(alone, 6)[0]
        np.testing.assert_array_equal(traces[i].tokens, trace.tokens)
        np.testing.assert_array_equal(traces[i].position, trace.position)
        np.testing.assert_allclose(scores[i], engine.log_probs(alone, replies[: 2 if donors else 1])[0], atol=1e-5)


def test_log_probs_are_those_of_a_plain_forward(pair):
    _, engine, plain = pair
    tokens, replies = prompts(), [[9, 8, 7, 6], [5, 4]]
    found = engine.log_probs(engine.prefill(tokens), replies)
    for row, reply in enumerate(replies):
        whole = torch.cat([tokens[row], torch.tensor(reply)])[None]
        with torch.inference_mode():
            log_probs = plain(whole).logits[0].log_softmax(-1)
        expected = [float(log_probs[N_PROMPT - 1 + i, token]) for i, token in enumerate(reply)]
        np.testing.assert_allclose(found[row], expected, atol=1e-4)


def test_ablating_nothing_changes_nothing_and_order_does_not_matter(tiny_llama):
    engine, tokens = Engine(tiny_llama), prompts(1)
    clean = engine.prefill(tokens)

    def trace(heads, rows=(0,)):
        return engine.decode(engine.under(clean, [Ablation(tuple(heads), "both")], list(rows)), 6)[0]

    plain = engine.decode(clean, 6)[0]
    for a, b in ((plain, trace(())), (trace(HEADS), trace(HEADS[::-1])), (trace(HEADS), trace(HEADS + HEADS))):
        np.testing.assert_array_equal(a.tokens, b.tokens)
        np.testing.assert_array_equal(a.weight, b.weight)
    np.testing.assert_array_equal(engine.decode(clean, 6)[0].weight, plain.weight)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("method", METHODS)
def test_a_disconnected_hook_is_caught(tiny_llama, monkeypatch, method, phase):
    engine, tokens = Engine(tiny_llama), prompts()
    clean, means = engine.prefill(tokens), engine.mean_outputs([tokens])
    monkeypatch.setattr(Edits, "output", lambda self, z, layer: z)
    honest = Edits.scores
    monkeypatch.setattr(Edits, "scores", lambda self, scores, layer: (honest(self, scores, layer), scores)[1])
    ablations, donors = [Ablation(HEADS, phase, method, window=WINDOW)] * 2, [1, 0] if method == "resample" else None
    with pytest.raises(InterventionError, match="L0H1, L1H0, L1H3 did not act"):
        engine.decode(engine.under(clean, ablations, [0, 1], donors, means), 1)


def test_a_hook_that_changes_other_heads_is_caught(tiny_llama, monkeypatch):
    engine, tokens = Engine(tiny_llama), prompts()
    clean, honest = engine.prefill(tokens), Edits.output
    monkeypatch.setattr(Edits, "output", lambda self, z, layer: honest(self, z, layer) * 1.01)
    with pytest.raises(InterventionError, match="ablating other heads changed L0H0, L0H2, L0H3 too"):
        engine.decode(engine.under(clean, [Ablation(HEADS)] * 2), 1)


def test_an_ablation_that_changes_nothing_is_an_error(tiny_llama):
    engine, tokens = Engine(tiny_llama), prompts()
    v = tiny_llama.original_model.model.layers[1].self_attn.v_proj
    weight = next(p for n, p in v.named_parameters() if n.endswith("weight"))
    saved = weight.detach().clone()
    with torch.no_grad():
        weight[8:16] = 0  # head 1 of layer 1 now has no output to take away
    try:
        clean = engine.prefill(tokens)
        for phase in ("decode", "prefill"):
            with pytest.raises(InterventionError, match="L1H1 changes nothing"):
                engine.decode(engine.under(clean, [Ablation((Head(1, 1),), phase)] * 2), 1)
            both = [Ablation((Head(1, 1), Head(1, 2)), phase)] * 2
            assert engine.decode(engine.under(clean, both), 1), "a dead head in a set is no error"
    finally:
        with torch.no_grad():
            weight.copy_(saved)
    assert engine.decode(engine.prefill(tokens), 1), "hooks are gone after an error"


def test_mean_outputs_do_not_depend_on_batching(tiny_llama):
    engine, tokens = Engine(tiny_llama), prompts(4)
    whole = engine.mean_outputs([tokens])
    split = engine.mean_outputs([tokens[:1], tokens[1:]])
    assert whole.shape == (2, 4, 8)
    assert (whole - split).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("ablation", "message"),
    [
        ({"phase": "after"}, "phase must be one of prefill, decode, both, not 'after'"),
        ({"method": "forget"}, "method must be one of zero, mean, uniform, window, resample, not 'forget'"),
    ],
)
def test_unknown_words_are_refused(ablation, message):
    with pytest.raises(ValueError, match=message):
        Ablation((), **ablation)


@pytest.mark.parametrize(("method", "message"), [("mean", "reference prompts"), ("resample", "another prompt")])
def test_what_a_method_needs_must_be_given(tiny_llama, method, message):
    engine = Engine(tiny_llama)
    clean = engine.prefill(prompts())
    with pytest.raises(ValueError, match=message):
        engine.decode(engine.under(clean, [Ablation(HEADS, "decode", method)] * 2), 1)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("method", METHODS)
def test_prompts_that_share_their_beginning_can_be_resampled_across_chunks(tiny_llama, monkeypatch, method, phase):
    """All trials of a grid share one haystack: what is proven must lie behind the needle, in the last chunk."""
    monkeypatch.setattr("rhlens.model.engine.TWIN_CHUNK", 32)
    monkeypatch.setattr("rhlens.model.engine.BRIDGE_CHUNK", 32)
    engine, tokens = Engine(tiny_llama), prompts()
    tokens[1, :60] = tokens[0, :60]
    clean, means = engine.prefill(tokens), engine.mean_outputs([tokens])
    prefix = engine.under(
        clean,
        [Ablation(HEADS, phase, method, window=WINDOW)] * 2,
        [0, 1],
        [1, 0] if method == "resample" else None,
        means,
    )
    assert len(engine.decode(prefix, 3)) == 2


def test_weak_heads_and_other_rows_are_watched_too(tiny_llama, monkeypatch):
    engine, tokens, honest = Engine(tiny_llama), prompts(), Edits.output
    v = tiny_llama.original_model.model.layers[0].self_attn.v_proj
    weight = next(p for n, p in v.named_parameters() if n.endswith("weight"))
    saved = weight.detach().clone()
    with torch.no_grad():
        weight[8:16] *= 5e-5  # head 1 of layer 0 hardly says anything
    try:
        clean = engine.prefill(tokens)
        monkeypatch.setattr(Edits, "output", lambda self, z, layer: z)
        with pytest.raises(InterventionError, match="L0H1 did not act"):
            engine.decode(engine.under(clean, [Ablation((Head(0, 1),))] * 2), 1)
    finally:
        with torch.no_grad():
            weight.copy_(saved)

    def leaks(self, z, layer):
        return honest(self, z, layer)[:1].expand_as(z)

    monkeypatch.setattr(Edits, "output", leaks)
    clean = engine.prefill(tokens[:1].repeat(2, 1))
    with pytest.raises(InterventionError, match="changed L0H1 too"):
        engine.decode(engine.under(clean, [Ablation((Head(0, 1),)), Ablation()]), 1)
