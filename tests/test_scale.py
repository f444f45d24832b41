"""Runs that are divided: by hand into shares. The table is the one that a single process gives."""

import json
import random
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import rhlens as rh
from rhlens.results.share import Share
from tests.test_cli import run
from tests.test_cli_output import command_of, small
from tests.test_interruption import VERBS, lines_of

README = Path(__file__).parents[1] / "README.md"
ROUNDING = 1e-5
"""Nats a token, in 32 bits."""


@pytest.fixture(scope="module")
def model():
    return rh.load("planted-llama", quiet=True)


def same(one, other) -> None:
    """All that two results hold is the same; log-probabilities but for the rounding of batches of other sizes."""
    assert type(one) is type(other)
    for name, value in vars(one).items():
        found = getattr(other, name)
        if isinstance(value, pd.DataFrame):
            exact = [column for column in value if column != "logprob"]
            pd.testing.assert_frame_equal(value[exact], found[exact], check_exact=True)
            pd.testing.assert_frame_equal(value, found, rtol=0, atol=ROUNDING)
        elif isinstance(value, np.ndarray):
            np.testing.assert_allclose(value, found, rtol=0, atol=ROUNDING if isinstance(one, rh.CausalMap) else 0)
        else:
            assert value == found, name


def keys_of(folder) -> list[str]:
    return sorted(json.loads(line)["key"] for line in lines_of(folder))


DIVIDED = {
    "detect": {}, "ablate": {"phase": "decode"}, "ablate both": {"phase": "both"}, "causal_map": {"phase": "decode"},
    "patch": {}, "patch_top": {},
}  # fmt: skip


@pytest.mark.parametrize("name", list(DIVIDED))
def test_shares_in_any_order_add_up_to_the_whole_and_the_last_gives_it(model, tmp_path, name):
    verb, options = name.split()[0], DIVIDED[name]
    trials = rh.niah(model, [120, 130], 1, needles=2)
    whole = VERBS[verb](model, trials, out=tmp_path / "whole", **options)
    numbers = random.Random(name).sample(range(1, 4), 3)
    sizes, there = [], tmp_path / "shared"
    for left, number in zip(range(2, -1, -1), numbers, strict=True):
        before = len(lines_of(there))
        share = Share(there, number, 3)
        if left:
            with pytest.raises(rh.Unfinished, match=f"share {number} of 3, is done") as caught:
                VERBS[verb](model, trials, out=share, **options)
            assert caught.value.n_left == len(lines_of(tmp_path / "whole")) - len(lines_of(there))
        else:
            same(VERBS[verb](model, trials, out=share, **options), whole)
        sizes.append(len(lines_of(there)) - before)
    assert max(sizes) - min(sizes) <= 1
    assert keys_of(there) == keys_of(tmp_path / "whole"), "each unit once"
    same(VERBS[verb](model, trials, out=there, **options), whole)
    assert len(lines_of(there)) == len(lines_of(tmp_path / "whole")), "nothing is measured again"


def test_when_to_stop_is_not_for_a_share_to_tell(model, tmp_path):
    with pytest.raises(ValueError, match="leave out stop_when_stable"):
        rh.detect(model, rh.niah(model, [120], 1, needles=6), out=Share(tmp_path, 1, 2), stop_when_stable=0.9)


SMALL = ("detect", "planted-llama", "--lengths", "120", "--depths", "1", "--needles", "2")


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["--shard", "1/2"], "--shard needs --out"),
        (["--shard", "3/2", "--out", "x"], "from 1/8 to 8/8, not '3/2'"),
        (["--engine", "ray"], "--engine ray needs --out"),
        (["--engine", "ray", "--out", "x", "--shard", "1/2"], "leave out --shard"),
        (["--engine", "ray", "--out", "x"], 'Ray is not installed: pip install "rhlens[ray]"'),
        (["--workers", "2"], "add --engine ray"),
        (["--device-map", "all"], "unknown device map 'all': use auto"),
    ],
)
def test_what_cannot_be_divided_is_told_with_the_fix(monkeypatch, capsys, tmp_path, words, fix):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run(monkeypatch, *SMALL, *words) == 2
    [said] = capsys.readouterr().err.splitlines()
    assert fix in said


def test_a_shard_on_the_command_line_says_what_is_left_and_the_last_gives_the_table(monkeypatch, capsys, tmp_path):
    assert run(monkeypatch, *SMALL, "--out", tmp_path, "--shard", "2/2") == 0
    said = capsys.readouterr()
    assert "share 2 of 2, is done; 1 of 2 units are left" in said.err
    assert said.out == ""
    assert not (tmp_path / "scores.safetensors").exists()
    assert run(monkeypatch, "ablate", *SMALL[1:], "--out", tmp_path, "--shard", "1/2") == 2
    assert "let rhlens detect finish" in capsys.readouterr().err
    assert run(monkeypatch, *SMALL, "--out", tmp_path, "--shard", "1/2") == 0
    assert "L2H3" in capsys.readouterr().out
    assert (tmp_path / "scores.safetensors").exists()


def test_the_job_array_of_the_readme_does_it_all(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```bash\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines() if line[0] != "#"]
    for words in lines:
        found, rest = command_of(words[1:])
        found.make_context("rhlens", rest)
    [(_, *job)] = [words for words in lines if "--shard" in words]
    loaded = rh.load("nano-qwen2", quiet=True)
    monkeypatch.setattr("rhlens.model.load.load", lambda *_, **__: loaded)
    for task in range(1, 9):
        words = [word.replace("$SLURM_ARRAY_TASK_ID", str(task)) for word in job]
        assert run(monkeypatch, *words, *small(job)) == 0
    assert "written to runs/shared" in capsys.readouterr().out
