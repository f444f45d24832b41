"""The experiments as a person runs them: on saved scores, without a model where that is possible."""

import json
import sys

import numpy as np
import pandas as pd
import pytest

from rhlens.cli import run
from rhlens.results.scores import HeadScores


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


def test_sparse_needs_no_model_for_saved_scores(monkeypatch, capsys, tmp_path, saved):
    from experiments import sparse

    assert experiment(monkeypatch, sparse, *saved, "--out", tmp_path) == 0
    assert "sparse: holds on one" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "sparse" / "shares.csv")) == 12
    assert len(json.loads((tmp_path / "sparse" / "claims.json").read_text())) == 3
    assert (tmp_path / "sparse" / "sparsity.png").stat().st_size > 10_000


def test_intrinsic_judges_every_pair_by_its_families(monkeypatch, capsys, tmp_path, saved):
    from experiments import intrinsic

    assert experiment(monkeypatch, intrinsic, *saved, "--families", "a,a,b", "--out", tmp_path) == 0
    text = capsys.readouterr().out
    assert "intrinsic: holds on one and like-one" in text
    assert "intrinsic, across families: holds on one and other" in text
    table = pd.read_csv(tmp_path / "intrinsic" / "correlations.csv", index_col=0)
    assert table.loc["one", "like-one"] > 0.9
    assert experiment(monkeypatch, intrinsic, *saved, "--families", "a,b", "--out", tmp_path) == 2
    assert "names 2 families for 3 models" in capsys.readouterr().err
