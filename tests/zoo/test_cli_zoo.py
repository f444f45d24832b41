"""The `zoo` commands as a person meets them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rhlens.cli.zoo import lengths_of
from rhlens.measure import profile as profiling
from rhlens.zoo import registry, specs
from rhlens.zoo.registry import facts_of
from rhlens.zoo.specs import SPECS
from tests.show.test_card import QUICK
from tests.test_cli import run
from tests.zoo.test_specs import tiny


def test_list_tells_trained_from_planted_and_from_what_is_a_spec_only(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    assert run(monkeypatch, "zoo", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    for name, words in (
        ("nano-qwen2", ["trained", "8 × 8", "1.45 M"]),
        ("planted-gpt2", ["planted", "4 × 8"]),
        ("random-llama", ["random"]),
        ("nano-llama-untrained", ["spec only"]),
    ):
        (line,) = [line for line in lines if f" {name} " in line]
        assert all(word in line for word in words), line


@pytest.mark.parametrize(("name", "words"), [("nano-qwen2", ["trained", "zoo train nano-qwen2"]),
                                             ("planted-llama", ["planted", "copy heads L2H3"]),
                                             ("random-llama", ["random", "retrieves nothing"])])  # fmt: skip
def test_info_says_what_a_model_is(monkeypatch, capsys, name, words):
    assert run(monkeypatch, "zoo", "info", name) == 0
    text = capsys.readouterr().out
    for word in (*words, name, "8 heads", "parameters:", "sha256:"):
        assert word in text


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (["info", "planted-lama"], "did you mean planted-llama?"),
        (["info", "nano-qwen2@5"], "no snapshot"),
        (["train", "nano-lama", "--out", "{}/x"], "did you mean nano-llama?"),
        (["train", "nano-llama-chat", "--out", "{}/x", "--base", "{}/nothing"], "is no trained model to start from"),
        (["card", "planted-llama"], "no trained model or folder 'planted-llama'"),
        (["card", "{}"], "no spec"),
        (["ship", "{}", "--spec", "nano-llama"], "is no trained model"),
        (["ship", "{}/missing"], "no trained model or folder"),
        (["card", "{}", "--spec", "nano-llama"], "holds no config.json"),
    ],
)
def test_bad_input_is_one_sentence(monkeypatch, capsys, tmp_path, arguments, fix):
    assert run(monkeypatch, "zoo", *(a.format(tmp_path) for a in arguments)) == 2
    error = capsys.readouterr().err
    assert fix in error
    assert "Traceback" not in error
    assert not (tmp_path / "x").exists(), "nothing is left behind"


def test_a_model_is_trained_measured_and_shipped_by_three_commands(monkeypatch, capsys, tmp_path):
    small = tiny(replace(SPECS["nano-llama"], name="tiny"))
    small = replace(small, stages=(*small.stages[:-1], replace(small.stages[-1], context=256)))
    monkeypatch.setitem(specs.SPECS, "tiny", small)
    monkeypatch.setattr(profiling, "Effort", lambda: QUICK)
    folder = tmp_path / "tiny"
    assert run(monkeypatch, "zoo", "train", "tiny", "--out", folder) == 0
    assert run(monkeypatch, "zoo", "card", folder) == 0
    card = json.loads((folder / "card.json").read_text())
    assert card["command"] == "rhlens zoo train tiny --out DIR"
    assert small.tokens <= card["tokens"] < small.tokens + 256, "the last step may go beyond"
    printed = capsys.readouterr().out
    assert all(aim["aim"] in printed for aim in card["aims"])
    assert "NOT met" in printed, "a dozen steps teach nothing"
    monkeypatch.setattr(registry, "models_folder", lambda: tmp_path / "models")
    assert run(monkeypatch, "zoo", "ship", folder) == 0
    assert "with 1 snapshots; all models are" in capsys.readouterr().out
    shipped = tmp_path / "models" / "tiny"
    assert json.loads((shipped / "card.json").read_text())["checksum"] == facts_of(shipped).checksum
    assert {path.name for path in folder.iterdir()} - {path.name for path in shipped.iterdir()} == {
        "checkpoint.pt",
        "snapshots",
    }
    (folder / "card.json").unlink()
    (shipped / "card.json").unlink()
    assert run(monkeypatch, "zoo", "ship", folder) == 0
    assert "it has no card: measure it with rhlens zoo card tiny" in capsys.readouterr().out


def test_the_table_in_the_readme_is_what_the_cards_say(monkeypatch, capsys):
    assert run(monkeypatch, "zoo", "table") == 0
    readme = Path(__file__).parents[2].joinpath("README.md").read_text("utf-8")
    told = readme.partition("<!-- rhlens zoo table -->\n")[2].partition("\n<!-- end -->")[0]
    assert told == capsys.readouterr().out.strip(), "paste what `rhlens zoo table` prints into README.md"


def test_models_are_asked_within_the_context_they_were_trained_on():
    assert lengths_of(SPECS["nano-llama"]) == [256, 512]
    assert lengths_of(SPECS["nano-llama-long"]) == [512, 1024, 2048]
    assert lengths_of(SPECS["nano-gpt2"]) == [256, 512]
    assert lengths_of(SPECS["nano-llama-untrained"]) == [256, 512]
