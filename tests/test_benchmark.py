"""The benchmark at its smallest: every tool runs every workload, and their results are the same."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_quick_compares_every_workload_and_writes_a_figure(tmp_path):
    command = [sys.executable, "experiments/benchmark.py", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "benchmark.csv")
    workloads = {"detection", "ablation, decode", "ablation, both", "causal map", "patching map"}
    for tool in ("Hugging Face", "rhlens"):
        assert set(table.loc[table["tool"] == tool, "workload"]) == workloads
    assert "TransformerLens" in set(table["tool"])
    assert (table["seconds"] > 0).all()
    assert (tmp_path / "benchmark.png").stat().st_size > 10_000
    assert (table.loc[table["tool"] != "rhlens", "measured_units"] <= 2).all()
    parts = pd.read_csv(tmp_path / "benchmark_parts.csv")
    for what in ("reading every head", "peak memory", "prefill", "seconds of rhlens --help"):
        assert parts["what"].str.startswith(what).any()
    assert "wanted" in done.stdout
    assert "of the matmul peak" in done.stdout


def test_results_that_differ_are_an_error():
    script = (
        "import sys; sys.path.insert(0, 'experiments'); import numpy as np;"
        "from benchmark import HF, RHLENS, Workload, measure;"
        "tools = {HF: lambda units: np.array([1.0]), RHLENS: lambda units: np.array([1.1])};"
        "measure(Workload('made up', 'none', 1, 1, tools, np.testing.assert_array_equal), 1, 1)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "AssertionError" in done.stderr
    assert done.returncode == 1
