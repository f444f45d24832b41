"""Training survives a kill bit for bit, and the shipped model answers what it never saw."""

import json
import random
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from rhlens.tasks.haystack import GeneratedHaystack, sentence_starts
from rhlens.tasks.needles import Needle, distractor_of, draw_needles
from rhlens.zoo.corpus import Mix
from rhlens.tasks.facts import closed_book_facts
from rhlens.zoo.muon import orthogonal
from rhlens.zoo.specs import SPECS, NanoSpec, Stage, Takeoff
from rhlens.zoo.tokenizer import zoo_tokenizer
from rhlens.zoo.train import CHECKPOINT, HeadDropout, Trainer, build_model, train

MODEL = Path(str(resources.files("rhlens.zoo"))) / "models" / "nano-qwen2"


def tiny_spec() -> NanoSpec:
    """20 steps: 8 of takeoff, 6 at 64 tokens, 6 at 128."""
    spec = SPECS["nano-qwen2"]
    return replace(
        spec,
        name="tiny",
        config={**spec.config, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2},
        takeoff=replace(spec.takeoff, tokens=8 * 128),
        stages=(Stage(64, 6 * 128), Stage(128, 6 * 128, shorter=0.5)),
        step_tokens=128,
    )


@pytest.mark.parametrize("killed_after", [5, 8, 11, 17])
def test_a_killed_run_ends_bit_identical(tmp_path: Path, killed_after: int) -> None:
    train(tiny_spec(), tmp_path / "whole")
    trainer = Trainer(tiny_spec())
    for _ in range(killed_after):
        trainer.step()
    (tmp_path / "killed").mkdir()
    trainer.save(tmp_path / "killed" / CHECKPOINT)
    trainer.step()  # lost in the kill
    torch.manual_seed(999)  # another process
    train(tiny_spec(), tmp_path / "killed")
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_broken_off_run_leaves_no_half_checkpoint(tmp_path: Path) -> None:
    assert train(tiny_spec(), tmp_path, checkpoint_seconds=0, stop_after=3) is None
    assert {path.name for path in tmp_path.iterdir()} <= {CHECKPOINT, "history.jsonl"}
    trainer = Trainer(tiny_spec())
    trainer.load(tmp_path / CHECKPOINT)
    assert trainer.progress["step"] == 3


def test_a_finished_run_is_only_saved_again(tmp_path: Path) -> None:
    train(tiny_spec(), tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    assert train(tiny_spec(), tmp_path) == tmp_path
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_checkpoint_of_another_spec_is_refused(tmp_path: Path) -> None:
    train(tiny_spec(), tmp_path, checkpoint_seconds=0, stop_after=1)
    with pytest.raises(ValueError, match="another spec"):
        train(replace(tiny_spec(), seed=1), tmp_path)


def test_takeoff_ends_early_once_the_model_copies() -> None:
    trainer = Trainer(replace(tiny_spec(), takeoff=Takeoff(accuracy=0.0)))
    trainer.step()
    assert trainer.stage == tiny_spec().stages[0]


def test_head_dropout_drops_whole_heads() -> None:
    spec = tiny_spec()
    model = build_model(spec)
    dropout, seen = HeadDropout(model), []
    projection = model.get_submodule("model.layers.0.self_attn.o_proj")
    projection.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    ids = torch.randint(2, 100, (64, 6))
    model(ids)
    dropout.p = 0.25
    model(ids)
    kept, dropped = (x.unflatten(-1, (8, -1)).abs().sum((1, 3)) for x in seen)
    assert (kept > 0).all()
    assert 0.15 < (dropped == 0).float().mean() < 0.35


@pytest.mark.parametrize("shape", [(3, 8, 20), (3, 20, 8)])
def test_muon_updates_are_orthogonal(shape: tuple[int, int, int]) -> None:
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_specs_are_data() -> None:
    for name, spec in SPECS.items():
        assert name == spec.name
        assert json.loads(json.dumps(asdict(spec)))["architecture"] == spec.architecture
        assert Mix(**asdict(spec)["stages"][0]["mix"]) == spec.stages[0].mix


@pytest.fixture(scope="module")
def shipped() -> PreTrainedModel:
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(MODEL).eval()


def prompt(needle: Needle, seed: int, n_tokens: int, restated: bool = True) -> list[int]:
    """A held-out trial of about `n_tokens` tokens: the needle and a distractor at random sentence boundaries."""
    tokenizer, rng = zoo_tokenizer(), random.Random(seed)
    question = f"\n\nQuestion: {needle.question}\nAnswer:" + (f" {needle.cue}" if restated else "")
    hidden = [needle.statement, distractor_of(needle, seed).statement]
    room = n_tokens - len(tokenizer(question + " ".join(hidden)).input_ids)
    text = GeneratedHaystack(f"trial:{seed}").text(8 * room)
    filler = str(tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids[:room]))
    for statement in hidden:
        start = rng.choice(sentence_starts(filler))
        filler = f"{filler[:start]}{statement} {filler[start:]}"
    return tokenizer(filler + question).input_ids


def answers(model: PreTrainedModel, ids: list[int], answer: str) -> bool:
    """Whether greedy decoding says exactly the answer, a full stop and a newline."""
    expected = zoo_tokenizer()(f" {answer}.\n", add_special_tokens=False).input_ids
    tokens = torch.tensor([ids])
    with torch.inference_mode():
        output = model.generate(tokens, max_new_tokens=len(expected), do_sample=False)  # pyright: ignore[reportCallIssue]
    return output[0, len(ids) :].tolist() == expected


def test_the_shipped_tokenizer_is_the_zoos() -> None:
    text = "Где 12345? The amber harbor."
    assert AutoTokenizer.from_pretrained(MODEL)(text).input_ids == zoo_tokenizer()(text).input_ids


def test_the_shipped_model_is_small() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 8e6


@pytest.mark.parametrize(("n_tokens", "restated", "least"), [(256, True, 0.9), (512, True, 0.85), (256, False, 0.8)])
def test_the_shipped_model_answers_held_out_needles(
    shipped: PreTrainedModel, n_tokens: int, restated: bool, least: float
) -> None:
    needles = draw_needles(28, seed=1)
    right = [answers(shipped, prompt(x, seed, n_tokens, restated), x.answer) for seed, x in enumerate(needles)]
    assert sum(right) / len(right) >= least


def test_the_shipped_model_knows_its_world_by_heart(shipped: PreTrainedModel) -> None:
    tokenizer, right = zoo_tokenizer(), []
    for seed, fact in enumerate(closed_book_facts()):
        filler = GeneratedHaystack(seed).text(600)[:600].rpartition(". ")[0]
        text = f"{filler}.\n\nQuestion: {fact.question}\nAnswer: {fact.cue}"
        right.append(answers(shipped, tokenizer(text).input_ids, fact.answer))
    assert sum(right) / len(right) >= 0.9
