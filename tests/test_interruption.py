"""Runs that are broken off: killed at any instant, on a full disk, two at once; and what they may take up again."""

import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

import rhlens as rh
from rhlens.measure import asker as asker_module
from rhlens.measure import detect as detect_module
from rhlens.results.store import RunFolder
from tests.support import tiny_checkpoint

SMALL = ["--lengths", "200", "--needles", "4"]
COMMANDS = {
    "detect": ["detect", "planted-llama", *SMALL, "--depths", "4"],
    "ablate": ["ablate", "planted-llama", *SMALL, "--depths", "1", "--heads", "L2H3,L3H1,L0H2", "--k", "1,2",
               "--draws", "3", "--phase", "both"],
}  # fmt: skip
RESULTS = {
    "detect": ["scores.safetensors", "heads.csv", "trials.csv", "score_map.png", "needle_heatmap.png"],
    "ablate": ["answers.csv", "dose_curve.png"],
}
UNITS = {"detect": 16, "ablate": 4 * (1 + 2 * 4)}


def _command(arguments: list[str], log: str, room: int | None) -> None:
    """`rhlens ARGUMENTS` as a process of its own; once the model is there, files may have `room` bytes."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if room is not None:
        detect_module.RunFolder = partial(_with_room, room)
    torch.set_num_threads(1)
    sys.argv = ["rhlens", *arguments]
    from rhlens.cli import main

    main()


def _with_room(room: int, *arguments) -> RunFolder:
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    return RunFolder(*arguments)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts a verb with a run folder; its process is forked from one that has imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["tests.test_interruption", "rhlens.cli", "rhlens.model.load", "rhlens.measure.ablate", "rhlens.show.figures",
         "rhlens.show.tables", "rhlens.zoo.planted", "transformer_lens.model_bridge", "matplotlib.pyplot",
         "transformers.models.llama.modeling_llama"]
    )  # fmt: skip
    log = str(tmp_path_factory.mktemp("log") / "output")

    def begin(verb: str, out: Path, room: int | None = None):
        process = context.Process(target=_command, args=([*COMMANDS[verb], "--out", str(out)], log, room))
        process.start()
        process.log = Path(log)
        return process

    return begin


@pytest.fixture(scope="module")
def uninterrupted(start, tmp_path_factory):
    """What a verb writes if nobody stops it."""

    def whole(verb: str) -> dict[str, object]:
        if verb not in known:
            folder = tmp_path_factory.mktemp(verb)
            known[verb] = finished(start, verb, folder)
        return known[verb]

    known: dict[str, dict[str, object]] = {}
    return whole


def finished(start, verb: str, out: Path) -> dict[str, object]:
    """All files of a run that ends by itself; records in any order."""
    process = start(verb, out)
    process.join(120)
    assert process.exitcode == 0, process.log.read_text()
    assert len(lines_of(out)) == UNITS[verb], "no unit is kept twice"
    files = {name: (out / name).read_bytes() for name in [*RESULTS[verb], "config.json"]}
    return files | {"records": sorted(lines_of(out))}


def lines_of(out: Path) -> list[bytes]:
    file = out / "records.jsonl"
    return (
        [line for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")] if file.exists() else []
    )


def killed(start, verb: str, out: Path, rng: random.Random) -> None:
    """Kill a run when so many more units are there, and a moment later; or while it writes its results."""
    process, there = start(verb, out), len(lines_of(out))
    wanted, moment = min(there + rng.randint(0, 5), UNITS[verb]), rng.choice([0, 0.003, 0.05, 0.5])
    deadline = time.monotonic() + 60
    while len(lines_of(out)) < wanted and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.0005)
    time.sleep(rng.uniform(0, moment))
    process.kill()
    process.join()
    assert process.exitcode in (-signal.SIGKILL, 0)


@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.slow)])
@pytest.mark.parametrize("verb", list(COMMANDS))
def test_a_run_killed_at_random_instants_ends_as_if_nobody_had(start, uninterrupted, tmp_path, verb, kills):
    rng, before = random.Random(f"{verb} {kills}"), []
    for _ in range(kills):
        killed(start, verb, tmp_path, rng)
        assert lines_of(tmp_path)[: len(before)] == before, "what was finished stays as it is"
        before = lines_of(tmp_path)
        if len(before) == UNITS[verb]:  # it was killed over its results
            assert finished(start, verb, tmp_path) == uninterrupted(verb)
            shutil.rmtree(tmp_path)
            before = []
    assert finished(start, verb, tmp_path) == uninterrupted(verb)


def test_a_full_disk_ends_a_run_in_one_sentence_and_it_goes_on_with_room(start, uninterrupted, tmp_path):
    process = start("detect", tmp_path, room=3000)
    process.join(60)
    assert process.exitcode == 1
    last = process.log.read_text().splitlines()[-1]
    assert last.startswith(f"rhlens: cannot write to the run folder {tmp_path} (File too large): ")
    before = lines_of(tmp_path)
    assert 0 < len(before) < UNITS["detect"]
    assert (tmp_path / "records.jsonl").read_bytes() == b"".join(before), "the part that still fitted is taken back"
    assert finished(start, "detect", tmp_path) == uninterrupted("detect")
    assert lines_of(tmp_path)[: len(before)] == before


def test_two_runs_in_one_folder_both_end_well_and_one_may_die(start, uninterrupted, tmp_path):
    one, other = start("ablate", tmp_path), start("ablate", tmp_path)
    killed(start, "ablate", tmp_path, random.Random(0))
    for process in (one, other):
        process.join(120)
        assert process.exitcode == 0, process.log.read_text()
    alone = uninterrupted("ablate")
    assert {name: (tmp_path / name).read_bytes() for name in RESULTS["ablate"]} == {
        n: alone[n] for n in RESULTS["ablate"]
    }
    assert finished(start, "ablate", tmp_path) == alone


# What is taken up again


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint("llama-gqa", tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(folder):
    return rh.load(folder, quiet=True)


def ablate(model, trials, heads=((0, 1),), **options):
    return rh.ablate(model, trials, list(heads), k=1, **{"draws": 1, "max_new_tokens": 2} | options)


VERBS = {
    "detect": partial(rh.detect, max_new_tokens=2),
    "ablate": ablate,
    "causal_map": rh.causal_map,
    "patch": rh.patch,
    "path_patch": partial(rh.path_patch, receivers=[(1, 0)]),
    "patch_top": partial(rh.patch_top, heads=[(0, 1)], k=1, draws=1),
}
CHANGES = {
    "detect": [{"max_new_tokens": 3}],
    "ablate": [{"max_new_tokens": 3}, {"phase": "both"}, {"phase": "prefill"}, {"method": "mean"},
               {"method": "uniform"}, {"method": "resample"}],
    "causal_map": [{"phase": "decode"}, {"phase": "prefill"}, {"method": "mean"}, {"method": "resample"}],
    "patch": [{"site": "q"}, {"direction": "noise"}, {"positions": "all"}, {"attribution": True}],
    "path_patch": [{"receivers": [(1, 1)]}, {"site": "q"}, {"direction": "denoise"}],
    "patch_top": [{"heads": [(0, 2)]}, {"direction": "noise"}, {"positions": "all"}],
}  # fmt: skip


def added(verb, model, trials, out, **options) -> int:
    """How many units a run adds to its folder."""
    before = len(lines_of(out))
    VERBS[verb](model, trials, out=out, **options)
    return len(lines_of(out)) - before


@pytest.mark.parametrize("verb", list(VERBS))
def test_what_changes_a_result_is_measured_anew_and_nothing_else_is(model, folder, tmp_path, monkeypatch, verb):
    trials = rh.niah(model, [120], 1, needles=2)
    first = partial(added, verb, model, trials, tmp_path)
    units = first()
    assert units >= 2
    assert first() == 0
    for change in CHANGES[verb]:
        assert first(**change) == units, change
    other_prompts = rh.niah(model, [121], 1, needles=2)
    assert added(verb, model, other_prompts, tmp_path) == units
    edited = rh.load(folder, quiet=True)
    with torch.no_grad():
        next(edited.original_model.parameters())[0, 0] += 1
    assert added(verb, edited, trials, tmp_path) == units

    for module in (detect_module, asker_module):
        monkeypatch.setattr(module, "BATCH_TOKENS", 1)
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.copy(tmp_path / "records.jsonl", moved)
    assert added(verb, rh.load(folder, quiet=True), trials[::-1], moved, progress=True) == 0


def test_a_protocol_is_a_way_to_read_the_same_records(model, tmp_path):
    trials = rh.niah(model, [120], 1, needles=2)
    assert added("detect", model, trials, tmp_path) == 2
    assert added("detect", model, trials, tmp_path, protocol="wu2024") == 0


def test_a_prompt_added_to_the_mean_is_another_mean(model, tmp_path):
    trials = rh.niah(model, [120], 1, needles=3)
    assert added("ablate", model, trials[:2], tmp_path, method="mean") == 6
    assert added("ablate", model, trials, tmp_path, method="mean") == 9
    assert added("ablate", model, trials[:2], tmp_path) == 6
    assert added("ablate", model, trials, tmp_path) == 3, "what is set to zero does not depend on other prompts"


def test_a_control_is_no_proof_that_the_same_head_acts_at_the_top(model, tmp_path):
    """A control without any output is a result; as a top head it is an error, which a record would hide."""
    trials = rh.niah(model, [120], 1, needles=2)
    curve = ablate(model, trials, out=tmp_path)
    [control] = {rh.Head.parse(name) for name in curve.answers.query("heads == 'random'")["names"]}
    assert added("ablate", model, trials, tmp_path, heads=[control]) == 4, "as top head, and the control of that"


def test_a_model_with_hooks_is_not_taken_for_one_without(model, tmp_path):
    trials = rh.niah(model, [120], 1, needles=2)
    with (
        model.hooks(fwd_hooks=[("blocks.0.attn.hook_z", lambda z, hook: z * 0)]),
        pytest.raises(ValueError, match="take them off, or leave out=None"),
    ):
        rh.detect(model, trials, out=tmp_path)
