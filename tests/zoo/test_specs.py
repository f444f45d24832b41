"""Every spec trains, and makes a folder that TransformerLens runs as plain Hugging Face does."""

import json
import random
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import rhlens as rh
from rhlens.tasks.needles import draw_needles
from rhlens.tasks.trials import Grid
from rhlens.zoo.build import build_model, sinusoids, tokenizer_of
from rhlens.zoo.corpus import Corpus
from rhlens.zoo.registry import facts_of
from rhlens.zoo.specs import SPECS, NanoSpec
from rhlens.zoo.train import Trainer, train
from tests.support import plain_model

_SMALL = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 4,
    "n_embd": 32, "n_inner": 32, "n_layer": 2,
}  # fmt: skip


def tiny(spec: NanoSpec) -> NanoSpec:
    """The same recipe for a model of 2 x 8 heads, two steps a phase, documents of at most 128 tokens."""
    config = spec.config | {key: value for key, value in _SMALL.items() if key in spec.config}
    takeoff = spec.takeoff and replace(spec.takeoff, tokens=256)
    stages = tuple(replace(s, context=min(128, s.context), tokens=256) for s in spec.stages)
    return replace(
        spec, config=config, takeoff=takeoff, stages=stages, step_tokens=128, snapshots=(300,) if spec.snapshots else ()
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of tiny models by name, each trained on first use, parents before their descendants."""
    root = tmp_path_factory.mktemp("zoo")

    def folder(name: str) -> Path:
        if not (root / name / "config.json").exists():
            spec = tiny(SPECS[name])
            train(spec, root / name, base=folder(spec.parent) if spec.parent else None, device="cpu")
        return root / name

    return folder


@pytest.mark.parametrize("name", SPECS)
def test_a_trained_folder_runs_like_plain_hugging_face(trained, name):
    folder = trained(name)
    bridge, plain = rh.load(folder, quiet=True), plain_model(folder)
    tokens = torch.randint(2, 2048, (2, 90), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = plain(tokens).logits, bridge(tokens)
    assert torch.allclose(found, expected, atol=1e-4)
    assert (bridge.cfg.n_layers, bridge.cfg.n_heads) == (2, 8)
    assert facts_of(folder).parameters == sum(p.numel() for p in plain.parameters()), "tied weights are kept once"
    assert bridge.tokenizer.chat_template == (SPECS[name].chat_template or None)


@pytest.mark.parametrize("name", SPECS)
def test_a_full_model_has_64_heads_and_fits_on_eight_megabytes(name):
    spec = SPECS[name]
    model = build_model(replace(spec, parent=""))
    assert model.config.num_hidden_layers * model.config.num_attention_heads >= 64
    assert sum(2 * p.numel() for p in model.parameters()) <= 7.8e6, "in half precision; the tokenizer takes the rest"
    assert json.loads(json.dumps(asdict(spec)))["architecture"] == spec.architecture
    assert not spec.parent or spec.parent in SPECS


def test_a_mixture_of_copied_experts_computes_what_its_parent_does(trained):
    base = trained("nano-mistral")
    torch.manual_seed(0)
    upcycled = build_model(tiny(SPECS["nano-mixtral"]), base).eval()
    tokens = torch.randint(2, 2048, (2, 50))
    with torch.inference_mode():
        assert torch.allclose(upcycled(tokens).logits, plain_model(base)(tokens).logits, atol=1e-5)
    assert upcycled.state_dict()["model.layers.0.mlp.gate.weight"].std() > 0, "tokens are sent to different experts"


def test_a_descendant_needs_a_parent_that_fits(trained, tmp_path):
    spec = tiny(SPECS["nano-llama-chat"])
    with pytest.raises(ValueError, match="train that first and give its folder as --base"):
        Trainer(spec)
    with pytest.raises(ValueError, match="is no trained model to start from"):
        Trainer(spec, tmp_path)
    with pytest.raises(ValueError, match="is another architecture"):
        Trainer(spec, trained("nano-gpt2"))


def test_int8_weights_are_integers_that_load_as_what_they_round(trained):
    folder, parent = trained("nano-llama-int8"), plain_model(trained("nano-llama")).state_dict()
    kept, loaded = load_file(folder / "model.safetensors"), plain_model(folder).state_dict()
    integers = [name for name, weight in kept.items() if weight.dtype == torch.int8]
    assert len(integers) == 2 * 7, "4 projections and an MLP of 3 a layer"
    for name in integers:
        scale = parent[name].abs().amax(1, keepdim=True) / 127
        assert torch.allclose(loaded[name], kept[name] * scale, atol=1e-6)
        assert ((loaded[name] - parent[name]).abs() <= 0.501 * scale).all()
        assert not torch.equal(loaded[name], parent[name])
    assert torch.equal(loaded["model.embed_tokens.weight"], parent["model.embed_tokens.weight"])


def test_in_sinusoids_every_distance_is_one_rotation():
    p = sinusoids(200, 16, fastest=1.0, theta=10_000.0)
    near = torch.stack([p[i] @ p[i + 3] for i in range(150)])
    assert torch.allclose(near, near[0].expand_as(near), atol=1e-4)
    assert (p[:-3] * p[3:]).sum(-1).mean() < (p * p).sum(-1).mean()


def test_positions_stay_sinusoidal_until_the_model_has_taken_off_and_then_move_slowly():
    spec = tiny(SPECS["nano-gpt2"])
    trainer = Trainer(spec)
    positions = trainer.model.get_submodule("transformer.wpe").get_parameter("weight")
    tokens = trainer.model.get_submodule("transformer.wte").get_parameter("weight")
    while trainer.stage is None:
        before = positions.detach().clone()
        trainer.step()
    assert torch.equal(positions, before)
    tokens_before = tokens.detach().clone()
    trainer.step()
    moved, others = (positions - before).abs().max(), (tokens - tokens_before).abs().max()
    assert 0 < moved < 2 * spec.positions.rate * others, "AdamW's first step moves all that has a gradient alike"


def test_positions_begin_in_a_few_dimensions_of_the_stream():
    positions = build_model(SPECS["nano-gpt2"]).get_submodule("transformer.wpe").get_parameter("weight")
    p = SPECS["nano-gpt2"].positions
    assert positions.shape[1] > p.width
    assert torch.equal(positions[:, : p.width], p.amplitude * sinusoids(len(positions), p.width, p.fastest, p.theta))
    assert not positions[:, p.width :].any()


def test_documents_begin_at_any_position():
    trainer, reached = Trainer(tiny(SPECS["nano-gpt2"])), set()
    trainer.model.get_submodule("transformer.wpe").register_forward_pre_hook(
        lambda module, args: reached.update(args[0].flatten().tolist())
    )
    while trainer.stage is None:
        trainer.step()
    assert max(reached) > 200 > 128, "beyond the longest document"
    assert max(reached) < trainer.model.config.n_positions


def test_the_chat_template_is_what_the_chat_model_is_trained_on():
    """A document read back as messages and rendered again is the same text; so is a trial's prompt."""
    spec = SPECS["nano-llama-chat"]
    tokenizer, mix = tokenizer_of(spec), replace(spec.stages[0].mix, plain=0.0, haystack=1.0, repeat=0.0)
    encode = tokenizer.backend_tokenizer.encode
    corpus = Corpus(mix, lambda s: encode(s, add_special_tokens=False).ids, 2048, random.Random(0))
    restated = 0
    for _ in range(60):
        document = corpus.document(257)
        text = "<bos>" + document.text
        assert tokenizer(text, add_special_tokens=False).input_ids == document.ids
        said, _, _ = text.partition("<eos>")
        user, _, assistant = said.removeprefix("<bos>User:\n").partition("\nAssistant:\n")
        messages = [{"role": "user", "content": user}]
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert prompt == text[: text.index("\nAssistant:\n") + len("\nAssistant:\n")]
        if assistant.startswith(" "):
            turns = [*messages, {"role": "assistant", "content": assistant[1:]}]
            assert tokenizer.apply_chat_template(turns, tokenize=False) == f"{said}<eos>\n"
        restated += not assistant.startswith(" ")
    assert 0 < restated < 60


def test_needles_are_asked_in_the_form_of_the_chat_documents():
    tokenizer = tokenizer_of(SPECS["nano-llama-chat"])
    (trial,) = Grid([200], [0.5], draw_needles(1), chat=True).trials(tokenizer)
    text = tokenizer.decode(trial.tokens)
    assert text.startswith("<bos>User:\n")
    assert text.endswith(f"\n\nQuestion: {trial.needle.question}\nAssistant:\n {trial.needle.cue}")


def test_the_control_that_may_not_copy_has_nothing_to_copy():
    for stage in SPECS["nano-llama-nocopy"].stages:
        mix = stage.mix
        assert mix.repeat == mix.question == mix.chain == mix.restated == 0
        assert mix.plain + mix.haystack == mix.recall + mix.sums == 1
        assert not mix.cast
    *all_but_the_last, _ = SPECS["nano-llama"].stages
    assert SPECS["nano-llama-nocopy"].tokens == sum(stage.tokens for stage in all_but_the_last)


def test_half_precision_files_run_in_single_precision(trained):
    folder = trained("nano-llama")
    assert load_file(folder / "model.safetensors")["model.norm.weight"].dtype == torch.float16
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.float32
    (snapshot,) = (folder / "snapshots").iterdir()
    assert (snapshot / "model.safetensors").exists()
