"""Training survives a kill bit for bit."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rhlens.zoo.build import HeadDropout, build_model
from rhlens.zoo.corpus import Mix
from rhlens.zoo.muon import orthogonal
from rhlens.zoo.specs import SPECS, NanoSpec, Stage, Takeoff, same_training
from rhlens.zoo.train import CHECKPOINT, HISTORY, Trainer, seconds_spent, train


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


def test_a_checkpoint_from_before_a_spec_had_some_field_still_goes_on() -> None:
    spec = tiny_spec()
    written = json.loads(json.dumps(asdict(spec)))
    del written["parent"], written["stages"][0]["restart"], written["takeoff"]["mix"]["chat"]
    assert same_training(written, spec)
    assert same_training(written, replace(spec, about="said differently"))
    assert not same_training(written, replace(spec, parent="nano-llama"))
    assert not same_training(written, replace(spec, stages=(replace(spec.stages[0], restart=0.01), spec.stages[1])))
    assert not same_training({**written, "gone": 1}, spec)
    del written["stages"][0]["tokens"]
    assert not same_training(written, spec)


def test_only_the_mix_of_a_stage_that_has_not_begun_may_still_change(tmp_path: Path) -> None:
    spec = tiny_spec()
    first, second = spec.stages
    later = replace(spec, stages=(first, replace(second, mix=Mix(problem=0.5))))
    earlier = replace(spec, stages=(replace(first, mix=Mix(problem=0.5)), second))
    longer = replace(spec, stages=(first, replace(second, tokens=second.tokens + 128)))
    train(spec, tmp_path, checkpoint_seconds=0, stop_after=10)  # in the first stage
    for changed in (earlier, longer):
        with pytest.raises(ValueError, match="another spec"):
            Trainer(changed).load(tmp_path / CHECKPOINT)
    train(later, tmp_path)
    train(later, tmp_path / "whole")
    resumed, whole = (load_file(folder / "model.safetensors") for folder in (tmp_path, tmp_path / "whole"))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole), "the changed spec reproduces it"
    with pytest.raises(ValueError, match="another spec"):
        Trainer(spec).load(tmp_path / CHECKPOINT)


def test_begun_anew_a_run_forgets_what_was_there(tmp_path: Path) -> None:
    train(tiny_spec(), tmp_path, checkpoint_seconds=0, stop_after=12)
    train(tiny_spec(), tmp_path, resume=False)
    rows = [json.loads(line) for line in (tmp_path / HISTORY).read_text().splitlines()]
    assert rows[-1]["takeoff_tokens"] + rows[-1]["main_tokens"] == 20 * 128
    assert len(rows) == 1, "one row for all 20 steps: nothing is left of the first run"


def test_minutes_add_up_over_runs_that_go_on_from_one_another(tmp_path: Path) -> None:
    train(tiny_spec(), tmp_path, checkpoint_seconds=0, stop_after=2)
    (tmp_path / HISTORY).write_text('{"seconds": 1000}\n')
    train(tiny_spec(), tmp_path)
    assert 1000 <= seconds_spent(tmp_path / HISTORY) < 1100
    assert seconds_spent(tmp_path / "nothing") == 0


def test_takeoff_ends_early_once_the_model_copies() -> None:
    trainer = Trainer(replace(tiny_spec(), takeoff=Takeoff(accuracy=0.0)))
    trainer.step()
    assert trainer.stage == tiny_spec().stages[0]


def test_head_dropout_drops_whole_heads() -> None:
    spec = tiny_spec()
    torch.manual_seed(0)
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
