"""Model folders that lie: refused in one sentence, soon; no pickle is opened, no code run, no weight made up."""

import json
import os
import pickle
import shutil
import struct
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import rhlens as rh
from rhlens.model.checkpoint import CONFIG, INDEX, WEIGHTS, LoadError, check_weights
from tests.support import refusal, tiny_checkpoint

SHARD = "model-00001-of-00001.safetensors"
Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return tiny_checkpoint("llama-gqa", tmp_path_factory.mktemp("sound") / "model")


@pytest.fixture
def folder(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "model")


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch):
    """Whoever opens a pickle fails the test, whatever comes of it."""
    opened = []
    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, lambda *a, name=name, **k: opened.append(name))
    yield
    assert not opened


def refused(folder) -> str:
    sentence = refusal(partial(rh.load, quiet=True), folder, LoadError, soon=10, longest=450)
    assert not (folder / "ran").exists()
    return sentence


def put(path, content):
    path.unlink(missing_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def change(path, **settings):
    put(path, json.loads(path.read_text()) | settings)


def reweigh(folder, edit):
    weights = load_file(folder / WEIGHTS)
    edit(weights)
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def shard(folder, names, **more):
    """Weights behind an index that names a file, or what else `names` is, for every tensor."""
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).rename(folder / SHARD)
    put(folder / INDEX, {"metadata": {}, "weight_map": dict.fromkeys(weights, names)} | more)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"num_hidden_layers": 3}, "have no model.layers.2"),
        ({"num_hidden_layers": 1}, "leaves no place"),
        ({"num_hidden_layers": 9_000}, "too many for the 21 tensors"),
        ({"num_hidden_layers": 10**9}, "more than any model has"),
        ({"num_hidden_layers": 0}, "cannot be measured"),
        ({"num_hidden_layers": float("inf")}, "more than any model has"),
        ({"model_type": "mixtral", "num_local_experts": 10**9}, "more than any model has"),
        ({"model_type": "mixtral", "num_local_experts": 90_000}, "too many for the 21 tensors"),
        ({"num_attention_heads": 2}, "not of the shapes"),
        ({"num_attention_heads": 0}, "AutoConfig"),
        ({"num_key_value_heads": 4}, "not of the shapes"),
        ({"vocab_size": 10**13}, "not of the shapes"),
        ({"hidden_size": 10**12}, "not of the shapes"),
        ({"hidden_size": float("nan")}, "hidden_size"),
        ({"rope_parameters": 3}, "rope_parameters"),
        ({"model_type": None}, "model type"),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "have no"),
        ({"dtype": "os.system"}, "AutoConfig"),
        ({"quantization_config": 3}, "to_dict"),
        ({"transformers_weights": "adapter_model.bin"}, "names a file of weights"),
        ({"attn_implementation": "evil/kernel"}, "code from elsewhere"),
        ({"model_type": "own", "auto_map": {"AutoConfig": "evil.C"}}, "custom code"),
    ],
)
def test_a_configuration_that_lies_is_refused(folder, settings, why):
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    change(folder / CONFIG, **settings)
    assert why in refused(folder)


def test_remote_code_beside_a_known_architecture_is_never_run(folder):
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    change(folder / CONFIG, auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})
    assert rh.load(folder, quiet=True).cfg.n_layers == 2
    assert not (folder / "ran").exists()
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", None]}, tokenizer_class="Own")
    assert "custom code" in refused(folder)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        (CONFIG, b"", "is empty"),
        (CONFIG, b"null", "no JSON object"),
        (CONFIG, b"[" * 100_000, "nested too deeply"),
        (CONFIG, b'{"model_type": "llama", "model_type": "gpt2"}', "key twice"),
        (CONFIG, b"\xff\xfe{}", "UTF-8"),
        (WEIGHTS, b"", "no safetensors"),
        (WEIGHTS, struct.pack("<Q", 2**60) + b"{}", "no safetensors"),
        (WEIGHTS, struct.pack("<Q", 10**6) + b"[" * 10**6, "no safetensors"),
        (WEIGHTS, struct.pack("<Q", 2) + b"{}", "too many for the 0 tensors"),
        (WEIGHTS, b"\x80\x04K\x01.", "no safetensors"),
        ("tokenizer.json", b"[" * 100_000, "AutoTokenizer"),
        ("tokenizer.json", b"null", "AutoTokenizer"),
        ("tokenizer_config.json", b"[]", "AutoTokenizer"),
        ("special_tokens_map.json", b"3", "AutoTokenizer"),
        ("generation_config.json", b"[1]", "AutoModel"),
        ("adapter_config.json", b"{}", "holds an adapter"),
    ],
)
def test_a_damaged_file_is_refused(folder, name, content, why):
    put(folder / name, content)
    assert why in refused(folder)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, "tokenizer.json", "generation_config.json", "chat_template.jinja"])
def test_a_pipe_is_not_waited_for_and_a_huge_file_not_read(folder, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    refused(folder)
    (folder / name).unlink()
    with (folder / name).open("wb") as file:
        file.truncate(6 * 2**30)
    refused(folder)


def tensor(shape, offsets):
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * 64


@pytest.mark.parametrize("content", [tensor([2**40, 2**40], [0, 64]), tensor([16], [0, 2**50]), tensor([-16], [0, 64])])
def test_a_header_that_claims_huge_sizes_is_refused(folder, content):
    put(folder / WEIGHTS, content)
    assert "no safetensors file" in refused(folder)


def test_weights_that_are_not_there_are_not_drawn_at_random(folder):
    reweigh(folder, lambda weights: weights.pop(Q))
    assert f"have no {Q}" in refused(folder)
    reweigh(folder, lambda weights: weights.update({Q: torch.zeros(32, 32), Q.replace(".0.", ".7."): torch.zeros(3)}))
    assert "leaves no place" in refused(folder)


def test_weights_that_are_no_numbers_are_reported_and_not_measured(folder):
    reweigh(folder, lambda weights: weights[Q].fill_(float("nan")))
    model = rh.load(folder, quiet=True)
    with pytest.raises(ArithmeticError, match="not a finite number"):
        rh.detect(model, rh.niah(model, [150], 1, needles=1), max_new_tokens=2)


@pytest.mark.parametrize(
    "name",
    ["../secret.safetensors", "{root}/secret.safetensors", "pytorch_model.bin", "..", "", 3, None, ["a.safetensors"],
     "https://x.invalid/a.safetensors", "a\\b.safetensors", "a.safetensors\n", "sub/../../secret.safetensors"],
)  # fmt: skip
def test_an_index_names_safetensors_beside_it_and_nothing_else(folder, name):
    shutil.copy(folder / WEIGHTS, folder.parent / "secret.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04K\x01.")
    shard(folder, name.format(root=folder.parent) if isinstance(name, str) else name)
    assert "must name .safetensors files beside it" in refused(folder)


def test_an_index_is_whole(folder):
    shard(folder, SHARD)
    assert rh.load(folder, quiet=True).cfg.n_layers == 2
    for broken in ({"weight_map": {}}, {"weight_map": 3}, {}):
        put(folder / INDEX, broken)
        assert "must name" in refused(folder)
    put(folder / INDEX, {"weight_map": {Q: "gone.safetensors"}})
    assert "has no gone.safetensors" in refused(folder)


def test_a_hub_checkpoint_is_held_to_the_same(folder, monkeypatch):
    """A hub id is a folder in a cache: the index that is found there may not name a pickle either."""
    shard(folder, "pytorch_model.bin")

    def cached(source, name, **_):
        return str(folder / name) if (folder / name).exists() else None

    monkeypatch.setattr("transformers.utils.hub.cached_file", cached)
    with pytest.raises(LoadError, match="must name"):
        check_weights("some/model", None, {})


def test_pickled_weights_alone_or_beside_are_left_alone(folder):
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04K\x01.")
    assert rh.load(folder, quiet=True).cfg.n_layers == 2
    (folder / WEIGHTS).rename(folder / "other.safetensors")
    assert "only pickled weights" in refused(folder)


def test_a_tokenizer_of_another_model_is_refused(folder, tmp_path):
    for n in (300, 2047):  # its own has 2048 tokens
        small = tiny_checkpoint("llama", tmp_path / f"small{n}", vocab_size=n)
        assert f"has a token 2047, and its model {n}" in refused(small)
    change(folder / "tokenizer_config.json", tokenizer_class="BertTokenizer")
    assert "tokenizer cannot read text" in refused(folder)


@pytest.mark.parametrize(
    "template",
    ["{% for", "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{% for i in range(10 ** 9) %}x{% endfor %}",
     "{{ raise_exception('no') }}", "{{ 1 / 0 }}", "{% include '/etc/passwd' %}", "{{ messages[7].content }}", "x"],
)  # fmt: skip
def test_a_chat_template_is_a_program_that_may_fail(tokenizer, template, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", template)
    with pytest.raises(ValueError, match=r"this chat template .*: drop chat=True"):
        rh.niah(tokenizer, [200], 1, needles=1, chat=True)


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just([]) | st.just({})


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_setting_is_a_model_of_these_weights_or_one_sentence(folder, sound, data):
    config = json.loads((sound / CONFIG).read_text())
    put(folder / CONFIG, config | {data.draw(st.sampled_from(sorted(config))): data.draw(values)})
    try:
        model = rh.load(folder, quiet=True)
    except LoadError as error:
        assert "\n" not in str(error)  # noqa: PT017 (there may be none)
    else:
        assert (model.cfg.n_layers, model.cfg.d_model) == (2, 32)
