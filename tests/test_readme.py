"""The README does what it says: every command in it runs, small, but for those that ask the hub."""

import importlib
import re
import shlex
import subprocess
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import typer

from tests.test_cli import run
from tests.test_cli_output import command_of, small

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL)).splitlines()
COMMANDS = [words for line in LINES if (words := shlex.split(line, comments=True))]


def of_program(*words):
    return [command[len(words) :] for command in COMMANDS if tuple(command[: len(words)]) == words]


def test_every_line_is_of_a_program_that_is_tested_here():
    assert {command[0] for command in COMMANDS} == {"make", "source", "rhlens", "python"}
    assert of_program("source") == [[".venv/bin/activate"]]


def test_every_command_of_rhlens_runs(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for words in of_program("rhlens"):
        command, rest = command_of(words)
        command.make_context("rhlens", [*rest])
        if not any(re.fullmatch(r"[A-Z]\w+/.*", word) for word in words):
            assert run(monkeypatch, *words, *small(words)) == 0, capsys.readouterr().err


@pytest.mark.parametrize("words", of_program("python"), ids=" ".join)
def test_every_script_takes_the_options_that_are_shown(words, monkeypatch):
    """That it runs with them is tested with all scripts."""
    monkeypatch.syspath_prepend(ROOT / "experiments")
    script = importlib.import_module(words[0].removesuffix(".py").replace("/", "."))
    app = typer.Typer()
    app.command()(script.main)
    typer.main.get_command(app).make_context("script", words[1:])


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:`|^)make ([a-z0-9-]+)", README, re.MULTILINE))))
def test_every_target_of_make_exists(target):
    assert subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True).returncode == 0


def test_the_first_example_runs():
    [example] = re.findall(r"In a notebook:\n\n```python\n(.*?)```", README, re.DOTALL)
    for shown, less in (
        ("lengths=[256, 512], depths=5, needles=14", "lengths=[256], depths=1, needles=3"),
        ("[:28]", "[:3]"), ("[:14]", "[:2]"), ("draws=10", "k=[1], draws=1"),
    ):  # fmt: skip
        assert shown in example
        example = example.replace(shown, less)
    names = {}
    exec(example, names)
    assert names["scores"].n_trials == 3
    plt.close("all")


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)", README))))
def test_every_file_that_it_links_to_exists(link):
    assert (ROOT / link).exists()
