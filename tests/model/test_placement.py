"""Models that transformers loaded, and models that are spread: what is measured does not depend on it."""

import pytest
import torch
import transformers as hf

import rhlens as rh
from rhlens.model.engine import Engine
from rhlens.model.identity import identity
from rhlens.model.load import LoadError
from rhlens.model.placement import device_of, devices_of, stacked
from rhlens.model.twin import twin_of
from rhlens.zoo import registry
from tests.support import assert_as_plain, plain_model, plain_rows, tiny_checkpoint
from tests.test_scale import same

PARTS = ("model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "model.rotary_emb", "lm_head")
FIRST, LAST, ALL = (
    {part: "disk" if part in away else "cpu" for part in PARTS} for away in (PARTS[:1], PARTS[2:3], PARTS)
)
"""Which parts stay on the disk until they are used."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A checkpoint, and the model in it in one piece."""
    folder = tiny_checkpoint("llama-gqa", tmp_path_factory.mktemp("tiny"))
    return folder, rh.load(folder, quiet=True)


def int8():
    return registry.models_folder() / "nano-llama-int8"


@pytest.mark.parametrize(
    "device_map", [FIRST, LAST, ALL, "auto", {"": "cpu"}], ids=["first", "last", "all", "auto", "cpu"]
)
def test_a_spread_model_measures_what_it_does_in_one_piece(tiny, device_map):
    folder, model = tiny
    spread = rh.load(folder, quiet=True, device_map=device_map)
    away = any(p.device.type == "meta" for p in spread.parameters())
    assert away == ("disk" in str(device_map))
    assert twin_of(spread) is not None
    assert device_of(spread) == torch.device("cpu")
    assert devices_of(spread) == [torch.device("cpu")]
    assert identity(Engine(spread)) == identity(Engine(model)), "weights are read from where they are"
    trials = rh.niah(spread, [120], 1, needles=2)
    heads = [(0, 1), (1, 2)]
    for verb in (
        lambda m: rh.detect(m, trials, max_new_tokens=4),
        lambda m: rh.ablate(m, trials, heads, k=2, method="mean", phase="both", draws=1, max_new_tokens=3),
        lambda m: rh.ablate(m, trials, heads, k=2, method="uniform", draws=1, max_new_tokens=3),
        lambda m: rh.patch_top(m, trials, heads, k=1, draws=1),
    ):
        same(verb(spread), verb(model))


@torch.inference_mode()
def test_a_spread_model_is_as_exact_as_any(tiny):
    engine = Engine(rh.load(tiny[0], quiet=True, device_map=LAST))
    [trial] = rh.niah(engine.model, [150], 1, needles=1)
    tokens = torch.tensor([trial.tokens])
    [trace] = engine.decode(engine.prefill(tokens), 4)
    said = torch.cat([tokens, torch.from_numpy(trace.tokens[None, :-1])], dim=1)
    assert_as_plain(trace, *plain_rows(plain_model(tiny[0]), said, trial.length))


def test_what_layers_on_several_devices_give_comes_together_on_the_first_ones():
    elsewhere, here = torch.empty(2, device="meta"), torch.ones(2)
    assert stacked([elsewhere, here]).device.type == "meta"
    torch.testing.assert_close(stacked([here, 2 * here]), torch.tensor([[1.0, 1.0], [2.0, 2.0]]))


def test_a_model_that_transformers_loaded_measures_the_same(tiny, capsys):
    folder, model = tiny
    capsys.readouterr()
    given = hf.AutoModelForCausalLM.from_pretrained(folder)
    wrapped = rh.load(folder, hf_model=given)
    assert "as it came" in capsys.readouterr().err
    assert wrapped.original_model is given
    assert twin_of(wrapped) is not None
    assert identity(Engine(wrapped)) == identity(Engine(model))
    trials = rh.niah(wrapped, [120], 1, needles=2)
    same(rh.detect(wrapped, trials, max_new_tokens=3), rh.detect(model, trials, max_new_tokens=3))


def test_a_name_of_ones_own_takes_a_tokenizer(tiny):
    folder, model = tiny
    given, tokenizer = (auto.from_pretrained(folder) for auto in (hf.AutoModelForCausalLM, hf.AutoTokenizer))
    before = tokenizer.pad_token
    wrapped = rh.load("mine, 4 bits", hf_model=given, tokenizer=tokenizer, quiet=True)
    assert wrapped.cfg.model_name == "mine, 4 bits"
    assert tokenizer.pad_token == before, "it is the caller's"
    assert rh.niah(wrapped, [120], 1, needles=2) == rh.niah(model, [120], 1, needles=2)


def test_a_quantised_model_goes_in_through_hf_model():
    pytest.importorskip("compressed_tensors")
    wrapped = rh.load("nano-llama-int8", hf_model=hf.AutoModelForCausalLM.from_pretrained(int8()), quiet=True)
    embedded = rh.load("nano-llama-int8", quiet=True)
    trials = rh.niah(wrapped, [200], 1, needles=3)
    scores = rh.detect(wrapped, trials)
    assert scores.retrieval_heads()
    same(scores, rh.detect(embedded, trials))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device_map": "everywhere"}, "unknown device map 'everywhere': use auto, balanced"),
        ({"device_map": "auto", "device": "cpu"}, "give one of them"),
        ({"hf_model": "x"}, "must be a model of transformers, not str"),
        ({"hf_model": True, "dtype": "float16"}, "to its from_pretrained"),
        ({"hf_model": True, "device_map": "auto"}, "to its from_pretrained"),
    ],
)
def test_options_that_do_not_go_together_name_the_fix(tiny, options, message):
    folder, _ = tiny
    if options.get("hf_model") is True:
        options = options | {"hf_model": plain_model(folder)}
    with pytest.raises(LoadError, match=message):
        rh.load(folder, quiet=True, **options)


def test_a_model_of_transformers_alone_is_told_how_it_goes_in(tiny):
    with pytest.raises(LoadError, match=r"rh.load\(name, hf_model=model\)"):
        rh.load(plain_model(tiny[0]))
