"""The name of a model in a run folder: other after every change that can change a result, one at a time."""

import json
import shutil

import pytest
import torch

import rhlens as rh
from rhlens.model.engine import Engine
from rhlens.model.identity import identity
from tests.support import make_tokenizer, tiny_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint("llama-gqa", tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def model(folder):
    return rh.load(folder, quiet=True)


def weight_of(model):
    return next(p for name, p in model.original_model.named_parameters() if "k_proj" in name).data.view(-1)


def last_bit(model):
    weight = weight_of(model)
    smallest = weight.abs().argmin()
    weight[smallest] = torch.nextafter(weight[smallest], torch.tensor(1.0))


def neighbours_swapped(model):
    weight = weight_of(model)
    weight[5:7] = weight[5:7].flip(0)


def inv_freq(model):
    return next(b for name, b in model.original_model.named_buffers() if name.endswith(".inv_freq"))


def rotary_frequency(model):
    inv_freq(model)[0] *= 2


def other_tokenizer(model):
    model._tokenizer = make_tokenizer("byte-bpe")
    model._tokenizer.eos_token = model._tokenizer.convert_ids_to_tokens(1)


def one_token_reads_otherwise(model):
    from tokenizers import Tokenizer

    state = json.loads(model.tokenizer.backend_tokenizer.to_str())
    vocab = state["model"]["vocab"]
    a, b = list(vocab)[-2:]
    vocab[a], vocab[b] = vocab[b], vocab[a]
    model._tokenizer = type(model.tokenizer)(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), eos_token=model.tokenizer.eos_token
    )


def stop_tokens(model):
    model.original_model.generation_config.eos_token_id = [1, 99]


def setting(model):
    model.original_model.config.rms_norm_eps = 0.5


def context(model):
    model.cfg.n_ctx = 200


@pytest.mark.parametrize(
    "change",
    [last_bit, neighbours_swapped, rotary_frequency, other_tokenizer, one_token_reads_otherwise, stop_tokens, setting,
     context],
)  # fmt: skip
def test_one_change_is_another_model(model, change):
    before = identity(Engine(model))
    assert identity(Engine(model)) == before
    change(model)
    assert identity(Engine(model)) != before


def test_dtype_precision_and_the_path_that_runs_tell_models_apart(model, folder):
    names = [identity(Engine(model)), identity(Engine(rh.load(folder, dtype="bfloat16", quiet=True)))]
    torch.set_float32_matmul_precision("high")
    try:
        names.append(identity(Engine(model)))
    finally:
        torch.set_float32_matmul_precision("highest")
    engine = Engine(model)
    engine.twin = None
    names.append(identity(engine))
    assert len(set(names)) == 4


def test_a_model_under_another_name_is_the_same(model, folder, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "renamed")
    assert identity(Engine(rh.load(moved, quiet=True))) == identity(Engine(model))


def test_the_number_of_threads_changes_nothing(planted_llama):
    """Sums of weights in floating point would: their last bits depend on who adds what."""
    names = []
    for threads in (2, 1):
        torch.set_num_threads(threads)
        names.append(identity(Engine(planted_llama[0])))
    assert names[0] == names[1]


@pytest.mark.parametrize("rope", ["default", "dynamic"])
def test_a_model_is_the_same_after_it_ran(tmp_path, rope):
    """Calls leave marks: tokenizers keep how they were asked to cut, dynamic rotary frequencies what was read last."""
    settings = {"rope_parameters": {"rope_type": rope, "rope_theta": 1e4, "factor": 2.0}, "max_position_embeddings": 64}
    model = rh.load(tiny_checkpoint("llama", tmp_path, **settings), quiet=True)
    before, frequencies = identity(Engine(model)), inv_freq(model).clone()
    model.tokenizer(["a", "long text"], padding=True, truncation=True, max_length=2)
    with torch.inference_mode():
        model(torch.arange(90)[None])
    assert torch.equal(inv_freq(model), frequencies) == (rope == "default")
    assert identity(Engine(model)) == before


def test_what_hooks_of_the_users_own_do_cannot_be_told(model):
    with (
        model.hooks(fwd_hooks=[("blocks.0.attn.hook_z", lambda z, hook: z)]),
        pytest.raises(ValueError, match=r"hooks of your own, as at blocks\.0\.attn\.hook_z, .* leave out=None"),
    ):
        identity(Engine(model))
