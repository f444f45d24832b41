"""The experiments as a person runs them: on saved scores, without a model where that is possible."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rhlens.cli import run
from rhlens.results.scores import HeadScores
from rhlens.show.publish import publish
from rhlens.zoo.registry import trained_tokens

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.fixture
def saved(tmp_path):
    """Three score files: two alike, one not."""
    rng, paths = np.random.default_rng(0), []
    base = rng.permutation(np.r_[[0.9, 0.7, 0.6], np.zeros(97)]).reshape(10, 10)
    for name, mean in (("one", base), ("like-one", base * 0.9), ("other", rng.permuted(base))):
        values = np.clip(mean + (mean > 0) * 0.05 * rng.normal(size=(12, 10, 10)), 0, 1)
        trials = pd.DataFrame({"trial": range(12), "needle": [f"n{i // 2}" for i in range(12)]})
        paths.append(HeadScores(values, values, trials, name).save(tmp_path / f"{name}.safetensors"))
    return [argument for path in paths for argument in ("--scores", str(path))]


def experiment(monkeypatch, module, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        run(module.main)
    return int(stop.value.code or 0)


def claims_of(folder) -> list[dict]:
    return json.loads((folder / "findings.json").read_text())["claims"]


def test_sparse_needs_no_model_for_saved_scores(monkeypatch, capsys, tmp_path, saved):
    from experiments import sparse

    assert experiment(monkeypatch, sparse, *saved, "--out", tmp_path) == 0
    assert "sparse: holds on one" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "sparse" / "sparsity.csv")) == 12
    assert len(claims_of(tmp_path / "sparse")) == 3
    assert (tmp_path / "sparse" / "sparsity.png").stat().st_size > 10_000


def test_intrinsic_judges_every_pair_by_its_families(monkeypatch, capsys, tmp_path, saved):
    from experiments import intrinsic

    assert experiment(monkeypatch, intrinsic, *saved, "--families", "a,a,b", "--out", tmp_path) == 0
    text = capsys.readouterr().out
    assert "intrinsic: holds on one and like-one" in text
    assert "intrinsic, across families: holds on one and other" in text
    table = pd.read_csv(tmp_path / "intrinsic" / "similarity.csv").set_index("model")
    assert len(claims_of(tmp_path / "intrinsic")) == 3
    assert table.loc["one", "like-one"] > 0.9
    assert experiment(monkeypatch, intrinsic, *saved, "--families", "a,b", "--out", tmp_path) == 2
    assert "names 2 families for 3 models" in capsys.readouterr().err


def test_universal_sets_a_model_that_retrieves_beside_one_that_cannot(monkeypatch, capsys, tmp_path):
    from experiments import universal

    small = ("--depths", 1, "--needles", 7, "--draws", 2, "--out", tmp_path)
    assert experiment(monkeypatch, universal, "--models", "planted-llama,random-llama", *small) == 0
    text = capsys.readouterr().out
    assert "universal: holds on planted-llama" in text
    assert "universal, control: holds on random-llama" in text
    assert "universal, overall: holds on 2 models" in text
    table = pd.read_csv(tmp_path / "universal" / "score_maps.csv").set_index("model")
    assert table.loc["planted-llama", "retrieval_heads"].split() == ["L2H3", "L2H6", "L3H1"]
    assert table.loc["planted-llama", "low"] > 0.5
    assert (tmp_path / "universal" / "score_maps.png").stat().st_size > 10_000


def test_universal_says_what_published_scores_do_not_show(monkeypatch, capsys, tmp_path, saved):
    from experiments import universal

    assert experiment(monkeypatch, universal, *saved, "--out", tmp_path) == 0
    text = capsys.readouterr().out
    assert "universal, by scores alone: holds on one" in text
    assert "universal, overall: does NOT hold on 3 models" in text
    assert "NO, some, as controls, cannot: 0" in text


def test_universal_has_controls_by_default():
    from experiments.universal import default_models

    assert {"nano-llama", "nano-llama@201216", "random-llama"} <= set(default_models())
    assert "planted-llama" not in default_models()


def test_snapshots_and_models_know_their_age():
    assert trained_tokens("nano-llama@201216") == 201_216
    assert trained_tokens("nano-llama") > 11_000_832


def test_dynamic_on_a_model_and_on_saved_scores(monkeypatch, capsys, tmp_path, saved):
    from experiments import dynamic

    small = ("--lengths", "256,300", "--depths", 2, "--needles", 7, "--out", tmp_path / "model")
    assert experiment(monkeypatch, dynamic, "--models", "planted-llama", *small) == 0
    text = capsys.readouterr().out
    assert "dynamic: does NOT hold on planted-llama" in text
    assert "3 heads fire in every single trial" in text
    table = pd.read_csv(tmp_path / "model" / "dynamic" / "planted-llama.csv").set_index("head")
    assert table.loc["L2H3", "depth 0.0"] == table.loc["L2H3", "position first"] == 1
    assert experiment(monkeypatch, dynamic, *saved, "--out", tmp_path) == 0
    assert "dynamic, by frequency alone" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "dynamic").glob("*.png")} == {"one.png", "like-one.png", "other.png"}


def test_birth_needs_an_age_for_every_snapshot(monkeypatch, capsys, tmp_path):
    from experiments import birth

    small = ("--depths", 1, "--needles", 7, "--out", tmp_path)
    models = ("--models", "random-llama,planted-llama", "--tokens")
    assert experiment(monkeypatch, birth, *models, "1e3,1e6", *small) == 0
    table = pd.read_csv(tmp_path / "intrinsic-birth" / "birth.csv").set_index(["what", "tokens"])["value"]
    assert table["recall", 1000] == 0
    assert table["L2H3", 1_000_000] == table["recall", 1_000_000] == 1
    assert experiment(monkeypatch, birth, *models, "1e3", *small) == 2
    assert "names 1 ages for 2 models" in capsys.readouterr().err
    assert experiment(monkeypatch, birth, "--model", "nano-qwen2", *small) == 2
    assert "nano-qwen2 has no snapshots" in capsys.readouterr().err


def test_causal_writes_figures_data_and_verdict(monkeypatch, capsys, tmp_path):
    from experiments import causal

    small = ("--lengths", 256, "--depths", 2, "--needles", 7, "--k", "0,3", "--draws", 2, "--out", tmp_path)
    assert experiment(monkeypatch, causal, "--model", "planted-gpt2", *small) == 0
    assert "causal: holds on planted-gpt2" in capsys.readouterr().out
    folder = tmp_path / "causal-planted-gpt2"
    names = ("score_map", "dose_curve", "needle_heatmaps", "errors", "causal_map", "patching", "patching_together")
    files = {f"{name}.{kind}" for name in names for kind in ("png", "csv")}
    assert {path.name for path in folder.iterdir()} == files | {"findings.json", "attention.html"}
    assert [claim["holds"] for claim in claims_of(folder)] == [True]
    shares = pd.read_csv(folder / "errors.csv").query("k == 3").pivot(index="heads", columns="error", values="share")
    assert shares.loc["random", "correct"] == 1
    assert shares.loc["top", "correct"] < 0.2
    assert experiment(monkeypatch, causal, "--model", "nope") == 2
    assert "give an embedded model" in capsys.readouterr().err


def test_every_way_to_ablate_stands_in_one_figure(monkeypatch, tmp_path):
    from experiments import ablations

    small = ("--model", "planted-llama", "--needles", 3, "--draws", 2, "--k", 3, "--out", tmp_path)
    assert experiment(monkeypatch, ablations, *small) == 0
    table = pd.read_csv(tmp_path / "ablations-planted-llama" / "methods.csv").query("k == 3 and heads == 'top'")
    assert len(table) == 4 * 3
    left = table.set_index(["method", "phase"])["recall"]
    assert (left.xs("both", level="phase") < 0.2).all()


def test_figures_are_made_together_or_one_by_one(monkeypatch, capsys, tmp_path):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    from experiments import figures

    monkeypatch.setattr(figures.causal, "main", lambda out, **_: publish(out / "causal-toy", "Causal", {}, [], {}))
    assert experiment(monkeypatch, figures, "--only", "causal", "--out", tmp_path) == 0
    assert "total" in capsys.readouterr().out
    assert "<h2>Causal</h2>" in (tmp_path / "report.html").read_text()
    assert experiment(monkeypatch, figures, "--only", "spars", "--out", tmp_path) == 2
    assert "did you mean sparse" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.py")), ids=lambda path: path.stem)
def test_experiments_are_short(path):
    """The five properties are configuration, run and drawing; only what others do plainly takes longer."""
    if path.stem not in {"benchmark", "benchmark_parts", "reference"}:
        assert len(path.read_text().splitlines()) < 80
