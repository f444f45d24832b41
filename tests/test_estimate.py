"""What is counted of a model before its weights are there, against the models themselves."""

import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

import rhlens as rh
from experiments.model_sizes import Size, config_of
from rhlens.model.engine import Engine
from tests.support import plain_model, tiny_checkpoint
from tests.test_experiments import EXPERIMENTS, experiment


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("Qwen/Qwen2.5-0.5B", 494_032_768),
        ("EleutherAI/pythia-1.4b", 1_414_647_808),
        ("meta-llama/Llama-3.1-8B", 8_030_261_248),
    ],
)
def test_known_models_have_their_published_number_of_parameters(name, published):
    assert Size(config_of(name)).weights == published


@pytest.mark.parametrize("family", ["llama", "llama-gqa", "neox", "qwen2", "gemma"])
def test_operations_and_cache_are_those_of_a_plain_forward(family, tmp_path):
    model = plain_model(tiny_checkpoint(family, tmp_path))
    size, n = Size(model.config), 96
    cache, counter = DynamicCache(), FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.randint(2, 50, (1, n)), past_key_values=cache, logits_to_keep=1)
    assert size.cache(n) == sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    heads = model.config.num_attention_heads * cache.layers[0].keys.shape[-1]
    whole_matrix = 2.0 * model.config.num_hidden_layers * heads * n**2  # which a causal kernel does not compute
    unembedding = 2 * model.get_output_embeddings().weight.numel()
    assert size.operations(n) == pytest.approx(counter.get_total_flops() - whole_matrix - unembedding, rel=0.02)

    engine, counter = Engine(rh.load(str(tmp_path), quiet=True)), FlopCounterMode(display=False)
    with counter:
        engine.prefill(torch.randint(2, 50, (1, n + 1)))  # the last token is read when the answer begins
    attention = 2.0 * (size.layers - 1) * heads * n**2  # of a kernel that the counter does not know
    assert size.operations_to_read(n) == pytest.approx(counter.get_total_flops() + attention, rel=0.002)


def test_a_name_that_leads_nowhere_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"no configuration of '.*none' was found"):
        config_of(str(tmp_path / "none"))


def test_estimates_grow_as_counted_and_stop_at_the_context(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    from experiments import estimate

    folder, about = tiny_checkpoint("llama", tmp_path / "tiny"), ("--depths", 2, "--needles", 2, "--timed", 64)
    assert experiment(monkeypatch, estimate, folder, "--lengths", "128,512,1024", *about, "--out", tmp_path) == 0
    table, size = pd.read_csv(tmp_path / "estimates.csv"), Size(config_of(str(folder)))
    assert list(table["tokens"]) == [128, 512], "1024 tokens are beyond the model's context"
    short, long = table.to_dict("records")
    assert long["s a prompt"] / short["s a prompt"] == pytest.approx(
        size.operations_to_read(512) / size.operations_to_read(128), rel=0.02
    )
    assert long["weights"] == pytest.approx(4 * size.weights / 2**30, rel=0.01)
    assert 0 < long["minutes"] < 4 * (long["s a prompt"] + long["s an answer"]) / 60, "some of it is shared"
