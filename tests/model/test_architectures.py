"""Every family of `rhlens.zoo.families` against plain Hugging Face, or refused with the reason."""

import copy
from contextlib import ExitStack, contextmanager
from itertools import count, product

import numpy as np
import pytest
import torch
from transformers import AutoConfig, DynamicCache

import rhlens as rh
from rhlens.model import agreement, fast_attention, twin
from rhlens.model import engine as engine_module
from rhlens.model.ablation import ATTENTION_METHODS, Ablation, InterventionError
from rhlens.model.continuing import going_on
from rhlens.model.engine import Engine
from rhlens.model.load import LoadError
from rhlens.model.patching import PatchRun
from rhlens.model.twin import twin_of
from rhlens.results.cache import Window
from rhlens.results.heads import Head
from rhlens.tasks.pairs import pairs
from rhlens.zoo.families import FAMILIES, tiny_checkpoint
from tests.support import assert_as_plain, plain_model, plain_rows

RECURRENT = r"layers \[0(, 1)?\] are state-space, convolution or linear-attention layers"
LATENT = r"latent \(MLA\)"
REFUSED = dict.fromkeys(
    ("qwen3-next", "qwen3.5", "qwen3.5-moe", "recurrent-gemma", "falcon-mamba", "olmo-hybrid", "granite-hybrid",
     "nemotron-h", "jamba", "bamba", "zamba2", "lfm2", "lfm2-moe", "mamba", "mamba2"), RECURRENT,
) | dict.fromkeys(("deepseek2", "deepseek3", "glm4-lite", "glm5", "youtu"), LATENT) | {
    "falcon-h1": "mix attention with a state-space model", "gemma4-shared": "keys and values of other layers",
    "deepseek4": "compress or select", "falcon-gqa": "TransformerLens cannot run it", "gpt": "keeps no keys",
    "hrm": "one attention pattern each", "jetmoe": "no attention heads whose", "rwkv": "no attention heads whose",
}  # fmt: skip
MEASURED = [family for family in FAMILIES if family not in REFUSED]
FIXED = {"neo", "gptj", "opt", "xglm", "llama4", "gemma4", "phimoe", "modernbert", "nanochat", "laguna", "afmoe"}
"""TransformerLens shows their attention, but what it shows cannot be edited."""
BEYOND = {"gpt-oss", "bitnet", "laguna", "afmoe"}
"""Sinks, norms and gates make more of attention than an average of values."""
NORMED_TOGETHER = dict.fromkeys(("olmo2", "olmo3", "olmoe", "flex-olmo", "minimax-m2"), "qk") | {
    "bitnet": ("pattern", "q", "k", "v")}  # fmt: skip
"""A norm over all heads follows these sites: what one head has there changes them all, in plain Hugging Face too."""
METHODS, PHASES = ("zero", "mean", "resample", "uniform", "window"), ("prefill", "decode", "both")
THIN = [("zero", "both"), ("mean", "decode"), ("resample", "prefill"), ("uniform", "both"), ("window", "decode")]
HEADS, WINDOW, N_PROMPT, STEPS = (Head(0, 1), Head(1, 0), Head(1, 3)), Window(3, 10), 70, 3


@pytest.fixture(scope="module", params=MEASURED)
def pair(request, tmp_path_factory):
    folder = tiny_checkpoint(request.param, tmp_path_factory.mktemp("tiny"))
    return request.param, Engine(rh.load(folder, quiet=True)), plain_model(folder)


def prompts(batch: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.randint(2, 2048, (batch, N_PROMPT), generator=torch.Generator().manual_seed(seed))


def answers(engine, tokens):
    return engine.decode(engine.prefill(tokens), STEPS)


def assert_alike(found, wanted):
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(got.tokens, want.tokens)
        np.testing.assert_array_equal(got.position, want.position)
        np.testing.assert_allclose(got.weight, want.weight, atol=1e-4)


def test_what_heads_look_at_is_what_a_plain_forward_shows_alone_and_in_a_batch(pair):
    _, engine, plain = pair
    tokens = prompts(3)
    together = answers(engine, tokens)
    assert_alike(together, [answers(engine, row[None])[0] for row in tokens])
    for row, trace in zip(tokens, together, strict=True):
        whole = torch.cat([row, torch.from_numpy(trace.tokens)])[None]
        logits, rows = plain_rows(plain, whole, N_PROMPT)
        assert_as_plain(trace, logits, rows)


def test_the_twin_and_the_bridge_give_the_same_in_chunks_of_any_size(pair, monkeypatch):
    _, engine, _ = pair
    tokens = prompts()
    expected = answers(engine, tokens)
    alone = copy.copy(engine)
    alone.twin = None
    monkeypatch.setattr(engine_module, "TWIN_CHUNK", 13)
    monkeypatch.setattr(engine_module, "BRIDGE_CHUNK", 11)
    for variant in (engine, alone):
        assert_alike(answers(variant, tokens), expected)


class Plain:
    """A plain model whose heads are taken away by other means: edited softmaxes, edited inputs of projections."""

    def __init__(self, engine, model):
        self.model, self.modules, self.n_heads = model, engine.projections(model), engine.n_heads

    @contextmanager
    def attending(self, method):
        """`HEADS` attend uniformly, or only to a window: what their softmax returns is replaced."""
        honest, layers = torch.nn.functional.softmax, count()

        def softmax(scores, *args, **options):
            pattern = honest(scores, *args, **options)
            if scores.ndim != 4 or scores.shape[1] != self.n_heads:
                return pattern  # a router's
            layer, n_keys = next(layers), scores.shape[-1]
            age = torch.arange(n_keys - scores.shape[-2], n_keys)[:, None] - torch.arange(n_keys)
            seen = scores > torch.finfo(scores.dtype).min / 2
            kept = seen & ((torch.arange(n_keys) < WINDOW.sink) | (age < WINDOW.recent))
            instead = {"uniform": seen / seen.sum(-1, keepdim=True),
                       "window": honest(scores.masked_fill(~kept, -torch.inf), dim=-1)}[method]  # fmt: skip
            for head in [head for at, head in HEADS if at == layer]:
                pattern[:, head] = instead[:, head]
            return pattern

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.functional, "softmax", softmax)
            yield
        assert next(layers) == len(self.modules), "every layer's softmax passed by"

    @contextmanager
    def putting_out(self, replacement):
        """`HEADS` put out what `replacement(layer, head, z)` says."""
        with ExitStack() as stack:
            for layer, module in enumerate(self.modules):

                def edit(_, args, layer=layer):
                    z = args[0].unflatten(-1, (self.n_heads, -1)).clone()
                    for head in [head for at, head in HEADS if at == layer]:
                        z[:, :, head] = replacement(layer, head, z[:, :, head])
                    return (z.flatten(-2), *args[1:])

                stack.callback(module.register_forward_pre_hook(edit).remove)
            yield

    @torch.inference_mode()
    def outputs(self, tokens):
        """[layer] of [batch, pos, head, d_head]."""
        seen = []
        with ExitStack() as stack:
            for module in self.modules:
                hook = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
                stack.callback(hook.remove)
            self.model(tokens, use_cache=False)
        return [z.unflatten(-1, (self.n_heads, -1)) for z in seen]

    @torch.inference_mode()
    def ablated(self, tokens, donors, method, phase):
        """Logits after the prompt."""
        means = [z[:, :-1].mean((0, 1)) for z in self.outputs(tokens)]
        other, cache = self.outputs(donors), DynamicCache()
        for name, part in (("prefill", slice(None, -1)), ("decode", slice(-1, None))):
            replacement = {"zero": lambda layer, head, z: torch.zeros_like(z),
                           "mean": lambda layer, head, z: means[layer][head].expand_as(z),
                           "resample": lambda layer, head, z, part=part: other[layer][:, part, head]}  # fmt: skip
            with ExitStack() as stack:
                if phase in (name, "both"):
                    edit = self.attending if method in ATTENTION_METHODS else self.putting_out
                    stack.enter_context(edit(replacement.get(method, method)))
                logits = self.model(tokens[:, part], past_key_values=cache, use_cache=True).logits[:, -1]
        return logits


def check_ablation(family, engine, plain, method, phase):
    """The engine's ablation equals the plain one; or it is an error where that is known to be impossible."""
    tokens, donors = prompts(), prompts(seed=2)
    resampled = method == "resample"
    clean = engine.prefill(torch.cat([tokens, donors]) if resampled else tokens)
    means = engine.mean_outputs([tokens]) if method == "mean" else None
    ablations = [Ablation(HEADS, phase, method, window=WINDOW)] * 2

    def run():
        prefix = engine.under(clean, ablations, [0, 1], [2, 3] if resampled else None, means)
        with torch.inference_mode(), going_on(engine, prefix, range(2)) as (_, forward):
            return forward(prefix.last)[:2, -1]

    on_bridge = phase != "decode" or engine.decoder is engine.model
    if method in ATTENTION_METHODS and (family in BEYOND or (family in FIXED and on_bridge)):
        with pytest.raises(InterventionError, match="did not act"):
            run()
        return
    reference = Plain(engine, plain)
    expected = reference.ablated(tokens, donors, method, phase)
    assert (run() - expected).abs().max() < 1e-4 * max(1.0, float(expected.abs().max()))
    assert (reference.ablated(tokens, donors, method, "never") - expected).abs().max() > 1e-2 * expected.std()


@pytest.mark.parametrize(("method", "phase"), THIN)
def test_ablations_equal_independent_ones(pair, method, phase):
    check_ablation(*pair, method, phase)


@pytest.mark.slow
@pytest.mark.parametrize("with_twin", [True, False])
@pytest.mark.parametrize(("method", "phase"), product(METHODS, PHASES))
def test_every_ablation_in_every_phase_on_every_path_equals_an_independent_one(pair, method, phase, with_twin):
    family, engine, plain = pair
    engine = copy.copy(engine)
    engine.twin = engine.twin if with_twin else None
    check_ablation(family, engine, plain, method, phase)


def corrupted(engine):
    """A patch run from the needle's answer on, and its prompts with their reply: base and source."""
    both = pairs(engine.tokenizer, rh.niah(engine.model, [120], [1.0], needles=1))[0]
    base, source = (torch.tensor(trial.tokens) for trial in (both.corrupt, both.clean))
    start, reply = both.clean.reply_span[0], both.clean.reply
    whole = [torch.cat([tokens, torch.tensor(reply[:-1], dtype=torch.long)])[None] for tokens in (base, source)]
    return PatchRun(engine, base, source, start, reply), *whole, start, len(reply)


def test_patched_outputs_equal_an_independent_patch(pair):
    _, engine, plain = pair
    run, base, source, start, n_reply = corrupted(engine)
    reference = Plain(engine, plain)
    donor = reference.outputs(source)

    def patch(layer, head, z):
        return torch.cat([z[:, :start], donor[layer][:, start:, head]], dim=1)

    with reference.putting_out(patch), torch.inference_mode():
        expected = plain(base, use_cache=False).logits[0, -n_reply:]
    found = run.patched([HEADS], "z")[0]
    assert (found - expected).abs().max() < 1e-4 * max(1.0, float(expected.abs().max()))
    if not torch.equal(run.logits("base"), run.logits("source")):  # the needle may be beyond a window
        assert (found - run.logits("base")).abs().max() > 1e-4


@pytest.mark.parametrize("site", ["pattern", "q", "k", "v"])
def test_a_patch_reaches_the_heads_it_names_and_no_others(pair, site):
    """Of one layer, the outputs that change are those of the head, or of the query heads of the group."""
    family, engine, _ = pair
    run = corrupted(engine)[0]
    if site == "pattern" and family in FIXED:
        with pytest.raises(InterventionError, match="patching 'pattern' changes nothing"):
            run.prove(site)
        return
    run.prove(site)
    size = engine.group_size if site in ("k", "v") else 1
    units = [Head(1, unit) for unit in range(engine.n_heads // size)]
    with torch.inference_mode():
        hooks = run.patches([[unit] for unit in units], site, run.source(site))
        clean, patched = (run.record("base", {1: "blocks.1.attn.hook_z"}, len(units), h)[0][1] for h in ((), hooks))
    changed = (patched - clean).abs().amax((1, 3)) > 1e-6  # [unit, head]
    own = torch.eye(len(units), dtype=torch.bool).repeat_interleave(size, dim=1)
    assert torch.equal(changed, torch.ones_like(own) if site in NORMED_TOGETHER.get(family, ()) else own)


@pytest.mark.parametrize("family", REFUSED)
def test_what_cannot_be_measured_is_refused_with_the_reason(family, tmp_path):
    with pytest.raises(LoadError, match=REFUSED[family]) as error:
        rh.load(tiny_checkpoint(family, tmp_path), quiet=True)
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 400


def test_a_bridge_that_says_or_shows_something_else_is_refused(tmp_path, monkeypatch):
    folder = tiny_checkpoint("llama", tmp_path)
    honest = agreement.reference

    def other(hf, **fields):
        plain = honest(hf)
        return plain._replace(**{name: change(getattr(plain, name)) for name, change in fields.items()})

    for fields, message in (
        ({"logits": lambda x: x * 1.01}, "says something else than plain Hugging Face"),
        ({"logits": lambda x: x.index_fill(1, torch.tensor([23]), 0.0)}, "says something else"),
        ({"patterns": lambda x: [x[0], x[1].roll(1, dims=1)]}, "shows in layer 1 is not that of plain Hugging Face"),
        ({"patterns": lambda x: x[:1]}, "do not show one attention pattern each"),
    ):
        monkeypatch.setattr("rhlens.model.load.reference", lambda hf, fields=fields: other(hf, **fields))
        with pytest.raises(LoadError, match=message):
            rh.load(folder, quiet=True)


def test_a_twin_that_reads_or_decodes_something_else_is_not_used(tmp_path, monkeypatch):
    folder = tiny_checkpoint("llama", tmp_path)
    assert twin_of(rh.load(folder, quiet=True)) is not None
    honest = fast_attention.Shared.attend

    def fails(*args, **options):
        raise RuntimeError("view size is not compatible")

    for attend in (fails, lambda *args, **options: honest(*args, **options) * 1.1):
        with monkeypatch.context() as patch:
            patch.setattr(fast_attention.Shared, "attend", attend)
            assert twin_of(rh.load(folder, quiet=True)) is None
    with monkeypatch.context() as patch:
        patch.setattr(fast_attention, "_with_past", lambda query, *args: torch.zeros_like(query))
        assert twin_of(rh.load(folder, quiet=True)) is None


def test_a_twin_that_cannot_go_on_from_the_bridge_is_not_used(tmp_path):
    model, plain = rh.load(tiny_checkpoint("llama", tmp_path), quiet=True), plain_model(tmp_path)
    found, said = twin_of(model), agreement.reference(plain)
    assert twin._agree(model, found, said)
    with model.hooks(fwd_hooks=[("blocks.0.attn.hook_k", lambda k, hook: 1.5 * k)]):
        assert not twin._agree(model, found, said)


def test_heads_that_transformerlens_mixes_up_are_seen_without_a_word_of_the_configuration(tmp_path, monkeypatch):
    monkeypatch.setattr("rhlens.model.load.unlike_attention", lambda config: None)
    with pytest.raises(LoadError, match="TransformerLens does not show 4 heads in layer 0"):
        rh.load(tiny_checkpoint("youtu", tmp_path), quiet=True)


def test_what_is_no_language_model_is_refused():
    for kind in ("resnet", "unlimited_ocr_text"):  # no layers; layers of a kind that no cache is made for
        reason = agreement.unlike_attention(AutoConfig.for_model(kind))
        assert reason
        assert "no language model" in reason


@pytest.mark.parametrize("family", ["olmo", "glm4", "mixtral"])
def test_rounding_of_sixteen_bits_is_no_reason_to_refuse(family, tmp_path):
    model = rh.load(tiny_checkpoint(family, tmp_path), dtype="bfloat16", quiet=True)
    assert next(model.parameters()).dtype == torch.bfloat16


def test_another_function_is_refused_in_sixteen_bits_too():
    want = torch.randn(1, 24, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    noise = torch.randn(1, 24, 50, generator=torch.Generator().manual_seed(1)).bfloat16()
    rerouted = want.index_fill(1, torch.tensor([3, 9]), 0.0)
    assert agreement._same(want + 0.02 * noise, want)
    assert agreement._same(rerouted, want), "two tokens went to other experts"
    assert not agreement._same(want + noise, want)
    assert not agreement._same(rerouted.float(), want.float())


def test_the_table_of_families_is_what_was_tried(capsys):
    from experiments import support_table

    support_table.main(["llama", "gptj", "jamba"])
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert lines[2] == ["Llama 1, 2 (`llama`)", "SDPA twin", "yes", "all", "all", ""]
    assert lines[3] == ["GPT-J (`gptj`)", "TransformerLens", "yes", "zero, mean, resample", "z, q, k, v", ""]
    assert lines[4][1] == "refused"
    assert "linear-attention layers" in lines[4][5]
    with pytest.raises(ValueError, match="no family 'lama': give one of llama,"):
        support_table.main(["lama"])
