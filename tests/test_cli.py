"""The command line as a person meets it: in its own process where that matters."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

import rhlens as rh
from rhlens import cli
from tests.support import tiny_checkpoint

QUICK = ["--lengths", "256", "--depths", "2", "--needles", "7"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run(monkeypatch, *arguments: object) -> int:
    """`rhlens ARGUMENTS` in this process; returns the exit code."""
    monkeypatch.setattr(sys, "argv", ["rhlens", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_detect_finds_shows_and_writes(monkeypatch, capsys, tmp_path):
    out = tmp_path / "run"
    assert run(monkeypatch, "detect", "planted-llama", *QUICK, "--out", out) == 0
    shown = capsys.readouterr()
    assert "3 of 32 heads (9.4%)" in shown.out
    assert "L2H3" in shown.out
    assert "answers exactly right:   1.00 [0.65, 1.00], n = 14" in shown.out
    assert "trial/s" not in shown.err, "no progress bar where nobody watches"
    assert rh.read_scores(out / "scores.safetensors").retrieval_heads() == [(2, 3), (2, 6), (3, 1)]
    assert len(pd.read_csv(out / "trials.csv")) == 14
    assert {"score_map.png", "needle_heatmap.png", "heads.csv", "config.json"} <= {p.name for p in out.iterdir()}
    before = (out / "records.jsonl").read_bytes()
    assert run(monkeypatch, "detect", "planted-llama", *QUICK, "--out", out) == 0
    assert (out / "records.jsonl").read_bytes() == before, "the same command runs nothing twice"


def test_ablate_prints_the_verdict_with_its_control_and_reuses_scores(monkeypatch, capsys, tmp_path):
    out = tmp_path / "run"
    assert run(monkeypatch, "ablate", "planted-llama", *QUICK, "--k", "0,3", "--draws", "2", "--out", out) == 0
    text = capsys.readouterr().out
    assert "causal: holds on planted-llama" in text
    assert "without 3 others (random, 2 draws)" in text
    assert len(pd.read_csv(out / "answers.csv")) == 14 * 4
    assert run(monkeypatch, "ablate", "planted-llama", *QUICK, "--heads", "L1H1,1-2", "--draws", "1") == 0
    assert "does NOT hold" in capsys.readouterr().out
    scores = rh.detect(model := rh.load("planted-llama", quiet=True), rh.niah(model, [256], 1, needles=2))
    saved = scores.save(tmp_path / "s.safetensors")
    assert run(monkeypatch, "ablate", "planted-llama", *QUICK, "--scores", saved, "--k", "3", "--draws", "1") == 0


def test_map_and_patch_name_the_planted_heads(monkeypatch, capsys, tmp_path):
    small = ["--lengths", "200", "--depths", "1", "--needles", "3"]
    out = tmp_path / "run"
    assert run(monkeypatch, "map", "planted-llama", *small, "--phase", "decode", "--out", out) == 0
    assert "L2H3" in capsys.readouterr().out
    assert len(pd.read_csv(out / "causal_map.csv")) == 32
    assert run(monkeypatch, "patch", "planted-llama", *small, "--attribution", "--out", out) == 0
    text = capsys.readouterr().out
    assert "correlation with the exact map 1.0" in text
    assert set(pd.read_csv(out / "patching.csv")["name"][:3]) == {"L2H3", "L2H6", "L3H1"}
    assert run(monkeypatch, "path-patch", "planted-llama", *small, "--to", "L2H3") == 0
    assert "path to L2H3" in capsys.readouterr().out
    curve = ["--k", "3", "--draws", "2", "--heads", "L2H3,L2H6,L3H1"]
    assert run(monkeypatch, "patch-top", "planted-llama", *small, *curve, "--out", out) == 0
    assert "patching k heads together" in capsys.readouterr().out
    recovered = pd.read_csv(out / "patching_together.csv").groupby(["heads", "k"])[["patched", "clean"]].mean()
    assert recovered.loc[("top", 3), "patched"] == pytest.approx(recovered.loc[("top", 3), "clean"], rel=0.05)
    assert (out / "causal_map.png").exists()
    assert (out / "patching.png").exists()


def test_ablate_takes_the_heads_that_detect_left_in_the_folder(monkeypatch, capsys, tmp_path):
    out = tmp_path / "run"
    assert run(monkeypatch, "detect", "planted-llama", *QUICK, "--out", out) == 0
    capsys.readouterr()
    assert run(monkeypatch, "ablate", "planted-llama", *QUICK, "--draws", "1", "--out", out) == 0
    shown = capsys.readouterr()
    assert "heads from" in shown.err
    assert "without the top 3" in shown.out
    assert set(json.loads((out / "config.json").read_text())) == {"detect", "ablate"}


def test_ctrl_c_says_that_the_same_command_goes_on(tmp_path):
    many = ("--lengths", "2048,2049,2050", "--depths", "20", "--out", str(tmp_path))  # minutes, if nobody stopped it
    command = [sys.executable, "-m", "rhlens.cli", "detect", "planted-llama", *many]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # jobs in the background ignore it
    )
    records = tmp_path / "records.jsonl"
    deadline = time.monotonic() + 120
    while not (records.exists() and records.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "the same command goes on" in error
    assert "Traceback" not in error
    assert records.read_text().endswith("\n")


def test_the_protocol_asked_for_is_shown_and_written(monkeypatch, capsys, tmp_path):
    out = tmp_path / "run"
    arguments = ["detect", "planted-llama", *QUICK, "--protocol", "wu2024", "--top", "3", "--out", out]
    assert run(monkeypatch, *arguments) == 0
    assert "protocol wu2024" in capsys.readouterr().out
    assert rh.read_scores(out / "scores.safetensors").protocol == "wu2024"


def test_what_was_computed_is_kept_when_no_trial_passes_the_gate(monkeypatch, capsys, tmp_path):
    tiny_checkpoint("llama", tmp_path / "tiny")
    out = tmp_path / "run"
    arguments = ["--lengths", "200", "--needles", "2", "--protocol", "wu2024", "--out", out]
    assert run(monkeypatch, "detect", tmp_path / "tiny", *arguments) == 2
    assert "use protocol='paper'" in capsys.readouterr().err
    assert rh.read_scores(out / "scores.safetensors").under("paper").n_trials == 10
    assert len(pd.read_csv(out / "trials.csv")) == 10


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (["detect", "nano-qwen9"], "give an embedded model (nano-"),
        (["detect", "{folder}"], "no config.json"),
        (["detect", "{pickled}"], "only pickled weights"),
        (["detect", "{tiny}", "--lengths", "4000"], "ask for less"),
        (["detect", "{tiny}", "--lengths", "20"], "too short"),
        (["detect", "{tiny}", "--lengths", "many"], "must be numbers"),
        (["detect", "{tiny}", "--depths", "0,1.5"], "between 0 and 1"),
        (["detect", "{tiny}", "--needles", "0"], "at least 1"),
        (["detect", "{tiny}", "--needles", "{folder}/none.json"], "does not exist: give a JSON file of needles"),
        (["detect", "{tiny}", "--haystack", "{folder}"], "holds no text"),
        (["detect", "{tiny}", "--chat"], "no chat template"),
        (["detect", "{tiny}", "--device", "tpu9"], "use auto, cpu"),
        (["detect", "{tiny}", "--device", "cuda:77"], "use auto or cpu"),
        (["ablate", "{tiny}", "--k", "-1"], "k must be 0 or more"),
        (["ablate", "{tiny}", "--heads", "L9H9", "--k", "1"], "not a head of this model"),
        (["ablate", "{tiny}", "--heads", "nine"], "write it like L16H19"),
        (["ablate", "{tiny}", "--draws", "0"], "without a control"),
        (["patch", "{tiny}", "--site", "k"], "positions='all'"),
        (["patch", "{tiny}", "--site", "q", "--attribution"], "use site='z'"),
        (["path-patch", "{tiny}", "--to", "nine"], "write it like L16H19"),
        (["patch-top", "{tiny}", "--k", "-1"], "k must be 0 or more"),
        (["ablate", "{tiny}", "--scores", "{folder}/none.json"], "does not exist"),
    ],
)
def test_bad_input_is_one_sentence_that_names_the_fix_and_exit_code_2(monkeypatch, capsys, tmp_path, arguments, fix):
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text("{}")
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"\x80\x04")
    tiny_checkpoint("llama", tmp_path / "tiny")
    capsys.readouterr()
    places = {"folder": tmp_path / "empty", "pickled": tmp_path / "pickled", "tiny": tmp_path / "tiny"}
    arguments = [a.format(**places) for a in arguments]
    quick = ["--needles", "1"] * ("--needles" not in arguments)
    assert run(monkeypatch, *arguments, *quick) == 2
    error = capsys.readouterr().err.splitlines()
    assert fix in error[-1]
    assert error[-1].startswith("rhlens: ")
    assert "Traceback" not in "".join(error)


def test_help_is_quick_and_imports_no_torch():
    code = "import sys, rhlens.cli; assert not {'torch', 'transformers', 'matplotlib', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "rhlens.cli", "--help"], capture_output=True, text=True, check=True
        )
        times.append(time.perf_counter() - start)
    assert "detect" in done.stdout
    assert min(times) < 1.5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["detekt"], "No such command"),
        (["detect", "nano-qwen2", "--protocol", "mine"], "'paper', 'wu2024'"),
        (["ablate", "nano-qwen2", "--phase", "after"], "'prefill', 'decode', 'both'"),
    ],
)
def test_a_wrong_choice_gets_a_usage_error_before_anything_is_loaded(arguments, says):
    done = subprocess.run([sys.executable, "-m", "rhlens.cli", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
