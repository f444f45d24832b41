"""A model that was changed after it was loaded is measured as it is, not as it was."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import rhlens as rh
from rhlens.measure.detect import answers_of
from rhlens.measure.hits import hits
from rhlens.measure.support import supports
from rhlens.model.engine import Engine
from rhlens.zoo.tokenizer import zoo_tokenizer
from tests.support import assert_as_plain, plain_model, plain_rows, tiny_checkpoint


class Scaled(nn.Module):
    def forward(self, weight):
        return 0.1 * weight


class Lora(nn.Module):
    """An adapter around a projection."""

    def __init__(self, inner: nn.Module, n_in: int, n_out: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.down, self.up = inner, nn.Linear(n_in, 2), nn.Linear(2, n_out)

    def forward(self, x):
        return self.inner(x) + 3 * self.up(self.down(x))


def down(hf):
    """The second layer's last projection, of a plain model or below TransformerLens."""
    return next(m for name, m in hf.named_modules() if isinstance(m, nn.Linear) and ".1." in name and "down" in name)


def mlp(hf):
    found = hf.model.layers[1].mlp
    return getattr(found, "original_component", found)


def hooked(hf):
    def half(module, args, out):
        return (0.5 * out[0], *out[1:]) if isinstance(out, tuple) else 0.5 * out

    mlp(hf).register_forward_hook(half)


def hooked_before(hf):
    mlp(hf).register_forward_pre_hook(lambda m, args: (0.2 * args[0],))


def replaced(hf):
    down(hf).weight = nn.Parameter(-3 * down(hf).weight.detach())


def edited(hf):
    with torch.no_grad():
        down(hf).weight.mul_(-3)


def parametrized(hf):
    parametrize.register_parametrization(down(hf), "weight", Scaled())


def adapted(hf):
    inner = mlp(hf)
    inner.down_proj = Lora(getattr(inner.down_proj, "original_component", inner.down_proj), *down(hf).weight.T.shape)


def overridden(hf):
    inner, forward = mlp(hf), type(mlp(hf)).forward
    inner.forward = lambda x: -forward(inner, x)


WAYS = {f.__name__: f for f in (hooked, hooked_before, replaced, edited, parametrized, adapted, overridden)}


@pytest.fixture
def folder(tmp_path):
    return tiny_checkpoint("llama", tmp_path, tokenizer=zoo_tokenizer())


@pytest.mark.parametrize("way", WAYS)
def test_every_verb_measures_the_model_as_it_is_now(way, folder, capsys):
    model, plain = rh.load(folder, quiet=True), plain_model(folder)
    trials = rh.niah(model, [120], [0.5], needles=2)
    tokens = torch.tensor([trial.tokens for trial in trials])
    before = plain(tokens).logits
    WAYS[way](plain)
    WAYS[way](model.original_model)
    after = plain(tokens).logits.detach()
    assert (after - before).abs().max() > 1e-3, "the change changes what the model says"
    np.testing.assert_allclose(model(tokens).detach(), after, atol=1e-4)

    engine = Engine(model)
    assert (engine.twin is None) == (way != "edited"), "weights edited in place are the copy's, too"
    assert ("load it anew" in capsys.readouterr().err) == (way != "edited")
    for trial, trace in answers_of(engine, trials, 4):
        whole = torch.tensor([[*trial.tokens, *trace.tokens[:-1].tolist()]])
        assert_as_plain(trace, *plain_rows(plain, whole, trial.length))
    scores = rh.detect(model, trials, max_new_tokens=4)
    assert scores.run["prefill"] == engine.path
    heads = [(0, 1), (1, 0)]
    curve = rh.ablate(model, trials, heads, k=[1], draws=1, max_new_tokens=4).answers
    unablated = curve[curve["k"] == 0]
    for trial, logprob in zip(trials, unablated["logprob"], strict=True):
        logits = plain(torch.tensor([[*trial.tokens, *trial.reply[:-1]]])).logits[0, trial.length - 1 :].log_softmax(-1)
        expected = logits.gather(1, torch.tensor(trial.reply)[:, None]).mean()
        assert logprob == pytest.approx(float(expected), abs=1e-4)
    assert list(hits(model, trials, 4).trials["output"]) == list(scores.trials["output"])
    assert [s.n_prompt for s in supports(model, trials, heads, 4)] == [120, 120]


@pytest.mark.parametrize("way", [hooked, hooked_before, overridden])
def test_a_run_folder_takes_no_results_that_it_could_not_tell_apart(way, folder, tmp_path):
    model = rh.load(folder, quiet=True)
    trials = rh.niah(model, [120], [0.5], needles=1)
    way(model.original_model)
    with pytest.raises(ValueError, match="leave out"):
        rh.detect(model, trials, max_new_tokens=2, out=tmp_path / "run")


@pytest.mark.parametrize("fast", [True, False])
def test_a_model_in_training_is_measured_without_dropout_and_goes_on_training(folder, fast):
    model = rh.load(folder, quiet=True)
    for layer in model.original_model.model.layers:
        attention = getattr(layer.self_attn, "original_component", layer.self_attn)
        attention.attention_dropout = 0.9
    trials = rh.niah(model, [120], [0.5], needles=2)
    if not fast:
        hooked(model.original_model)
    calm = rh.detect(model, trials, max_new_tokens=6)
    model.train()
    frozen = model.original_model.model.layers[0]
    frozen.eval()
    modes = [module.training for module in model.modules()]
    assert any(modes)
    again = rh.detect(model, trials, max_new_tokens=6)
    assert list(again.trials["output"]) == list(calm.trials["output"])
    np.testing.assert_array_equal(again.set_scores, calm.set_scores)
    rh.causal_map(model, trials[:1])
    assert [module.training for module in model.modules()] == modes


def test_the_mode_is_put_back_when_a_measurement_fails(folder):
    model = rh.load(folder, quiet=True)
    hooked(model.original_model)
    engine = Engine(model)
    model.train()
    down(model.original_model).register_forward_hook(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.prefill(torch.ones(1, 8, dtype=torch.long))
    assert all(module.training for module in model.original_model.modules())


def test_a_model_that_was_not_changed_keeps_its_fast_copy(folder):
    model = rh.load(folder, quiet=True)
    for _ in range(2):
        rh.detect(model, rh.niah(model, [120], [0.5], needles=1), max_new_tokens=2)
        assert Engine(model).twin is not None
    model.train()
    assert Engine(model).changed == []
