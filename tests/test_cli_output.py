"""What the command line tells programs and people: JSON, examples, suggestions, exit codes, completion."""

import json
import math
import os
import re
import shlex
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pandas as pd
import pytest
from rich.table import Table
from typer.main import get_command

import rhlens as rh
from rhlens import cli
from rhlens.cli.output import plain, print_json, print_rich
from tests.support import tiny_checkpoint
from tests.test_cli import ENVIRONMENT, run

SMALL = {"--lengths": "120", "--depths": "1", "--needles": "2", "--draws": "1"}
PLANTED = {"L2H3", "L2H6", "L3H1"}
GROUP = get_command(cli.app)
VERBS = [[name] for name in GROUP.commands if name != "zoo"] + [["zoo", n] for n in GROUP.commands["zoo"].commands]


def command_of(words):
    """The command that the first words name, and the words after its name."""
    found, words = GROUP, list(words)
    while hasattr(found, "commands"):
        found = found.commands[words.pop(0)]
    return found, words


def small(words):
    """The options among `SMALL` that a verb has: later ones win over those in an example."""
    has = {name for option in command_of(words)[0].params for name in option.opts}
    return [word for name, value in SMALL.items() if name in has for word in (name, value)]


def examples(monkeypatch, capsys, verb):
    """The commands below `Examples:`, as a person copies them from a narrow terminal."""
    monkeypatch.setenv("COLUMNS", "80")
    assert run(monkeypatch, *verb, "--help") == 0
    told = capsys.readouterr().out.partition("Examples:\n")[2].partition("\n\n")[0]
    return [shlex.split(line)[1:] for line in told.splitlines() if line.startswith("  rhlens ")]


def asked(monkeypatch, capsys, *words):
    """What a verb answers with --json: strict, and alone on stdout."""
    assert run(monkeypatch, *words, *small(words), "--json") == 0
    return strict(capsys.readouterr().out)


def strict(text):
    def refuse(literal):
        raise AssertionError(f"{literal} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_has_examples_that_parse_and_fits_on_a_screen(monkeypatch, capsys, verb):
    found = examples(monkeypatch, capsys, verb)
    assert found
    for words in found:
        assert words[: len(verb)] == verb
        command, rest = command_of(words)
        command.make_context("rhlens", rest)
    monkeypatch.setenv("COLUMNS", "120")
    assert run(monkeypatch, *verb, "--help") == 0
    assert len(capsys.readouterr().out.splitlines()) <= 50


QUICK = [verb for verb in VERBS if verb[-1] not in ("doctor", "train", "card", "ship")]


@pytest.mark.parametrize("verb", QUICK, ids=" ".join)
def test_the_examples_run(monkeypatch, capsys, tmp_path, verb):
    """Small, and but for those that ask the hub; what they read is put where they look for it."""
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).random((2, 2, 4))
    published = {f"{i}-{j}": values[:, i, j].tolist() for i in range(2) for j in range(4)}
    for name in ("Mistral-7B-v0.2-hf", "Mixtral-8x7B-v0.1"):
        (tmp_path / f"{name}.json").write_text(json.dumps(published))
    (tmp_path / "qrhead.yaml").write_text('attn_head_set: "0-1,1-1,1-2,1-3,1-0"')
    scores = rh.HeadScores(values, values, pd.DataFrame({"recall": [1.0, 1.0], "needle": ["a", "b"]}))
    if verb == ["compare"]:
        (tmp_path / "runs" / "nano").mkdir(parents=True)
        scores.save(tmp_path / "runs" / "nano" / "scores.safetensors")
    ran = 0
    for words in examples(monkeypatch, capsys, verb):
        if any(re.fullmatch(r"[A-Z]\w+/.*", word) for word in words):
            continue
        assert run(monkeypatch, *words, *small(words)) == 0, words
        said, ran = capsys.readouterr().out, ran + 1
        if "--json" in words:
            assert strict(said)["verb"] == " ".join(verb)
    assert ran


def test_json_names_the_planted_heads_and_the_files(monkeypatch, capsys, tmp_path):
    out = tmp_path / "run"
    found = asked(monkeypatch, capsys, "detect", "planted-llama", "--top", "1", "--out", out)
    assert set(found["retrieval_heads"]) == PLANTED
    assert len(found["heads"]) == 32, "--top is of the table"
    assert (found["rhlens"], found["model"], found["trials"]) == (rh.__version__, "planted-llama", 2)
    assert found["exact"]["value"] == 1
    assert all(os.path.exists(path) for path in found["written"])
    found = asked(monkeypatch, capsys, "ablate", "planted-llama", "--k", "0,3", "--out", out)
    assert found["claim"]["holds"] in (True, False)
    assert [row["recall"] for row in found["recall"] if row["heads"] == "top"] == [1, 0]
    none = asked(monkeypatch, capsys, "ablate", "planted-llama", "--k", "0", "--heads", "L0H0")
    assert none["claim"] is None
    found = asked(monkeypatch, capsys, "patch", "planted-llama", "--attribution", "--out", out)
    assert {row["name"] for row in found["heads"][:3]} == PLANTED
    assert found["attribution_pearson"] > 0.99
    asked(monkeypatch, capsys, "map", "planted-llama", "--phase", "decode", "--out", out)
    asked(monkeypatch, capsys, "path-patch", "planted-llama", "--to", "L2H3", "--out", out)
    asked(monkeypatch, capsys, "patch-top", "planted-llama", "--k", "3", "--out", out)
    settings = json.loads((out / "config.json").read_text())
    assert set(settings) == {"detect", "ablate", "patch", "attribution", "causal_map", "path_patch", "patch_top"}
    assert settings["path_patch"]["receivers"] == ["L2H3"]
    assert (set(settings["patch_top"]["heads"]), settings["patch_top"]["k"]) == (PLANTED, [0, 3])


def test_without_trials_the_unknown_is_null(monkeypatch, capsys, tmp_path):
    (tmp_path / "a.yaml").write_text('attn_head_set: "1-2,0-3"')
    found = asked(monkeypatch, capsys, "compare", tmp_path / "a.yaml", tmp_path / "a.yaml")
    assert found["comparison"]["spearman"] is None
    assert found["comparison"]["overlap"] == 1


def test_plain_values_are_json(capsys):
    pair = namedtuple("pair", "x y")(np.float32(0.5), float("inf"))
    print_json("x", a=pair, b=pd.DataFrame({"n": [np.int64(1)], "v": [math.nan]}), c=(True, None), d=np.bool_(False))
    found = strict(capsys.readouterr().out)
    assert found | {"rhlens": 0} == {
        "rhlens": 0, "verb": "x", "a": {"x": 0.5, "y": None}, "b": [{"n": 1, "v": None}], "c": [True, None], "d": False,
    }  # fmt: skip
    assert plain({1: tiny_checkpoint}) == {"1": str(tiny_checkpoint)}


def test_names_are_no_markup(capsys):
    table = Table("a", title="mine[/x] :heart:", caption="[bold]c[/]")
    table.add_row("[/red]" + " wide" * 8)
    print_rich(table)
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("mine[/x] :heart:", "[bold]c[/]", "[/red]"))


def test_a_model_in_a_folder_with_brackets_is_shown(monkeypatch, capsys, tmp_path):
    tiny_checkpoint("llama", tmp_path / "[bold]m[red]")
    assert run(monkeypatch, "detect", tmp_path / "[bold]m[red]", *small(["detect"])) == 0
    assert "[bold]m[red]: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["detekt"], "Did you mean 'detect'?"),
        (["zoo", "inof"], "Did you mean 'info'?"),
        (["detect", "x", "--lenghts", "3"], "--lengths"),
        (["ablate", "x", "--method", "unifrom"], "did you mean uniform?"),
        (["detect", "x", "--protocol", "papr"], "did you mean paper?"),
        (["detect", "nano-qwen", "--lengths", "120"], "did you mean nano-qwen2?"),
        (["detect", "x", "--needles", "bundeld"], "did you mean bundled?"),
        (["ablate", "x", "--control", "randm"], "did you mean random?"),
        (["zoo", "info", "nano-lama"], "did you mean nano-llama?"),
    ],
)
def test_a_typo_is_told_what_it_may_have_meant(monkeypatch, capsys, words, meant):
    assert run(monkeypatch, *words) == 2
    said = capsys.readouterr()
    assert meant in said.err
    assert "Value error" not in said.err
    assert said.out == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("x"), 2),
        (TypeError("x"), 2),
        (FileNotFoundError(2, "x"), 2),
        (PermissionError(13, "x"), 2),
        (OSError(28, "No space left on device"), 1),
        (OSError("x"), 1),
        (RuntimeError("x"), 1),
        (ZeroDivisionError("x"), 1),
    ],
)
def test_exit_codes_tell_bad_input_from_failures(monkeypatch, capsys, error, code):
    def main():
        raise error

    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(SystemExit) as stop:
        cli.run(main)
    assert stop.value.code == code
    assert capsys.readouterr().err == f"rhlens: {error}\n"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[...] DefaultCPUAllocator: can't allocate memory")])
def test_memory_that_ran_out_anywhere_is_said_in_one_sentence_with_a_way_out(monkeypatch, capsys, error):
    def main():
        raise error

    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(SystemExit) as stop:
        cli.run(main)
    assert stop.value.code == 1
    assert re.fullmatch(r"rhlens: out of memory \(.*\): use shorter prompts, .*\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("detect nano-q", ["nano-qwen2"]),
        ("ablate planted-", ["planted-llama", "planted-gpt2"]),
        ("zoo train nano-llama-ch", ["nano-llama-chat"]),
        ("ablate x --control random,lay", ["random,layer-matched"]),
        ("ablate x --method un", ["uniform"]),
    ],
)
def test_completion_offers_names(words, offered):
    count = len(words.split())
    asked = {"_RHLENS_COMPLETE": "complete_bash", "COMP_WORDS": f"rhlens {words}", "COMP_CWORD": str(count)}
    code = "import sys; sys.argv = ['rhlens']; from rhlens.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT | asked, capture_output=True, text=True)
    assert done.stdout.split() == offered, done.stderr


def test_completion_imports_no_torch():
    code = (
        "import sys; from rhlens.cli.completion import *; complete_models('nano-llama@'); complete_specs('');"
        "complete_models(''); assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
