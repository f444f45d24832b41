"""`rhlens compare` on files: what it prints, and how it refuses."""

import json

import numpy as np
import pytest

import rhlens as rh
from tests.test_cli import run


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def test_two_files_are_compared_and_what_is_odd_is_said(monkeypatch, capsys, tmp_path, wide):
    values = np.random.default_rng(0).random((5, 2, 4)).round(3)
    one, two = tmp_path / "[one][" / "].json", tmp_path / "two.tsv"
    one.parent.mkdir()  # [one][/].json reads as markup
    one.write_text(json.dumps({f"{i}-{j}": values[:, i, j].tolist() for i in range(2) for j in range(4)}))
    two.write_text("0.1\t0.9\n0.4\t0.2\n")
    assert run(monkeypatch, "compare", one, two, "--k", 2) == 0
    shown = capsys.readouterr().out
    expected = rh.compare(rh.read_scores(one), rh.read_scores(two), k=2)
    assert f"A: {one}\nB: {two}" in shown, "brackets in a name are no markup"
    assert f"{expected.pearson.value:.3f}" in shown
    assert f"{expected.spearman:.3f}" in shown
    [overlap] = [line.split() for line in shown.splitlines() if "shared of the top 2" in line]
    assert (f"{expected.overlap:.1%}" in overlap, overlap[-2]) == (True, "50.0%")
    assert "by key-value head" in shown
    assert "passed the recall gate" in shown
    assert "the best of the 2 that share keys and values" in shown


def test_a_list_has_no_correlation_to_show(monkeypatch, capsys, tmp_path, wide):
    (tmp_path / "a.yaml").write_text('attn_head_set: "1-2,0-3"')
    (tmp_path / "b.yaml").write_text('attn_head_set: "1-2,0-1"')
    assert run(monkeypatch, "compare", tmp_path / "a.yaml", tmp_path / "b.yaml") == 0
    shown = capsys.readouterr().out
    assert "50.0%" in shown
    assert "Pearson" not in shown
    assert "unknown" in shown
    assert "nan" not in shown


def test_a_run_folder_stands_for_its_scores(monkeypatch, capsys, tmp_path, wide):
    assert run(monkeypatch, "detect", "planted-llama", "--lengths", 128, "--depths", 1, "--out", tmp_path / "run") == 0
    capsys.readouterr()
    shown = []
    for a in (tmp_path / "run", tmp_path / "run" / "scores.safetensors"):
        assert run(monkeypatch, "compare", a, tmp_path / "run") == 0
        shown.append(capsys.readouterr().out.partition("B: ")[2])
    assert shown[0] == shown[1]
    assert "1.000" in shown[0]
    assert run(monkeypatch, "compare", tmp_path, tmp_path / "run") == 2, "a folder without scores"
    assert f"{tmp_path} is a folder" in capsys.readouterr().err


def test_published_families(monkeypatch, capsys, published, wide):
    files = (published / f"{name}.json" for name in ("Mistral-7B-v0.2-hf", "Mixtral-8x7B-v0.1"))
    assert run(monkeypatch, "compare", *files) == 0
    shown = capsys.readouterr().out
    assert "0.964" in shown
    assert "shared of the top 43" in shown
    assert "13 of 390 trials exceed 1" in shown
    assert "362 in the first, 390 in the second" in shown


@pytest.mark.parametrize("content", ["", "{", '{"1-1000000000": [1]}', '{"0-0": [1]}'])
def test_bad_files_are_one_sentence_and_exit_code_2(monkeypatch, capsys, tmp_path, content):
    (tmp_path / "a.tsv").write_text("0.1\t0.9")
    (tmp_path / "b.json").write_text(content)
    assert run(monkeypatch, "compare", tmp_path / "a.tsv", tmp_path / "b.json") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("rhlens: ")
    assert said.err.count("\n") == 1
    assert run(monkeypatch, "compare", tmp_path / "a.tsv", tmp_path) == 2
    assert "is a folder" in capsys.readouterr().err
