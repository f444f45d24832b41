"""rhlens's own file: what it holds is checked, versioned, and leaves as CSV and parquet too."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from rhlens.results import score_file
from rhlens.results.scores import HeadScores

SETS = np.array([[[0.5, 0.0]], [[1.0, 0.25]]])
TRIALS = {"needle": ['the, "cat"', "Où?"], "recall": [1.0, 0.2]}
META = {"version": 1, "model": "toy", "protocol": "paper", "gated": False, "run": {"device": "cpu"}, "trials": TRIALS}
ARRAYS = {"sum_scores": 2 * SETS, "set_scores": SETS, "copies": np.zeros((1, 5), np.int32)}


def saved(path, arrays=ARRAYS, **meta):
    save_file(arrays, path, {"rhlens": json.dumps(META | meta)})
    return path


def scores(**options) -> HeadScores:
    return HeadScores(SETS, 2 * SETS, pd.DataFrame(TRIALS), "toy", **options)


def test_the_form_is_as_documented(tmp_path):
    found = HeadScores.load(saved(tmp_path / "s.safetensors"))
    np.testing.assert_array_equal(found.mean(), SETS.mean(0))
    np.testing.assert_array_equal(found.under("wu2024").mean(), 2 * SETS[0])
    assert (found.model, found.run, found.gated) == ("toy", {"device": "cpu"}, False)
    assert found.trials.to_dict("list") == TRIALS
    assert found.copies is not None
    sums = HeadScores.load(saved(tmp_path / "s.safetensors", {"sum_scores": SETS}, protocol="wu2024", gated=True))
    assert (sums.set_scores, sums.copies, sums.n_trials) == (None, None, 2)


def test_a_newer_form_says_what_to_do_and_is_not_guessed_at(tmp_path):
    path = saved(tmp_path / "s.safetensors", {"other": SETS}, version=2, trials="elsewhere")
    with pytest.raises(ValueError, match=r"newer rhlens \(format 2, .* up to 1\): upgrade rhlens"):
        HeadScores.load(path)


@pytest.mark.parametrize(
    ("meta", "why"),
    [
        ({"version": None}, "no version"), ({"version": "1"}, "no version"), ({"version": True}, "no version"),
        ({"version": 0}, "no version"), ({"version": 1.0}, "no version"), ({"model": 3}, "no model"),
        ({"protocol": "mine"}, "protocol must be"), ({"protocol": None}, "no protocol"), ({"gated": 1}, "no gated"),
        ({"run": []}, "no run"), ({"trials": [1, 2]}, "no trials"), ({"trials": {}}, "no labels"),
        ({"trials": {"recall": [1.0]}}, "no list of 2"), ({"trials": {"recall": "ab"}}, "no list of 2"),
        ({"trials": {"x": [[1], [2]]}}, "no list of 2"), ({"trials": {"recall": ["1", "0"]}}, "no number"),
        ({"trials": {"recall": [True, False]}}, "no number"), ({"trials": {"recall": [None, 1.0]}}, "no number"),
        ({"trials": {"x": [1, 2]}, "protocol": "wu2024"}, "no column 'recall'"),
    ],
)  # fmt: skip
def test_metadata_that_no_run_writes_is_refused(tmp_path, meta, why):
    with pytest.raises(ValueError, match=f"s.safetensors is not a file of rhlens scores .*{why}"):
        HeadScores.load(saved(tmp_path / "s.safetensors", **meta))


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"sum_scores": SETS[0]}, "shape"), ({"sum_scores": SETS[:0]}, "shape"), ({"sum_scores": -SETS}, "from 0"),
        ({"sum_scores": SETS * np.nan}, "from 0"), ({"sum_scores": SETS + np.inf}, "from 0"),
        ({"sum_scores": 1e300 * SETS}, "from 0"), ({"sum_scores": SETS.astype(int)}, "not numbers"),
        ({"set_scores": 2 * SETS}, "from 0 to 1"), ({"set_scores": SETS[:1]}, "shape"),
        ({"sum_scores": SETS[:, :0], "set_scores": SETS[:, :0]}, r"not \[trial, layer, head\]"),
        ({"sum_scores": SETS[:1], "set_scores": SETS[:1]}, "no list of 1"),
        ({"copies": np.zeros((1, 4), np.int32)}, "int32"), ({"copies": np.zeros((1, 5))}, "int32"),
        ({"copies": np.array([[2, 0, 0, 0, 0]], np.int32)}, "not there"),
        ({"copies": np.array([[0, 0, 1, 0, 0]], np.int32)}, "not there"),
        ({"copies": np.array([[0, 0, 0, 2, 0]], np.int32)}, "not there"),
        ({"copies": np.array([[0, 0, 0, 0, -1]], np.int32)}, "not there"),
    ],
)  # fmt: skip
def test_scores_that_no_run_finds_are_refused(tmp_path, arrays, why):
    with pytest.raises(ValueError, match=f"s.safetensors is not a file of rhlens scores .*{why}"):
        HeadScores.load(saved(tmp_path / "s.safetensors", ARRAYS | arrays))


def test_files_without_our_metadata_or_scores_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    for metadata in (None, {"format": "pt"}, {"rhlens": "[1"}, {"rhlens": "[]"}, {"rhlens": "[" * 99_999}):
        save_file(ARRAYS, path, metadata)
        with pytest.raises(ValueError, match=r"weights\.safetensors is not a file of rhlens scores"):
            HeadScores.load(path)
    double = json.dumps(META).replace('"gated"', '"model": "other", "gated"')
    save_file(ARRAYS, path, {"rhlens": double})
    with pytest.raises(ValueError, match="key twice"):
        HeadScores.load(path)
    with pytest.raises(ValueError, match="sum_scores"):
        HeadScores.load(saved(path, {"set_scores": SETS}))


def test_nothing_is_saved_that_could_not_be_loaded(tmp_path, monkeypatch):
    path = tmp_path / "s.safetensors"
    with pytest.raises(ValueError, match="from 0"):
        HeadScores(SETS, SETS * np.nan, pd.DataFrame(TRIALS)).save(path)
    monkeypatch.setattr(score_file, "MAX_BYTES", 64 * 2**20)
    with pytest.raises(ValueError, match="save them in parts"):
        scores().save(path)
    assert not path.exists()


def test_the_long_table_has_a_row_for_every_trial_layer_and_head():
    values = np.random.default_rng(0).random((3, 2, 4))
    labels = pd.DataFrame({"needle": list("abc"), "recall": [0.9, 0.1, 0.6]})
    table = HeadScores(values, 2 * values, labels, protocol="wu2024").by_trial()
    assert len(table) == values.size
    for row in table.to_dict("records"):
        trial = "abc".index(row["needle"])
        assert row["set_score"] == values[trial, row["layer"], row["head"]]
        assert row["sum_score"] == 2 * row["set_score"]
        assert row["counted"] is (row["recall"] > 0.5)
    assert len(table.value_counts(["needle", "layer", "head"])) == values.size
    sums = HeadScores(None, values, labels, protocol="wu2024").by_trial()
    assert "set_score" not in sums, "unknown, and not made up"


@pytest.mark.parametrize(("name", "read"), [("a.csv", pd.read_csv), ("b.PARQUET", pd.read_parquet)])
def test_exported_tables_are_read_back(tmp_path, name, read):
    if read is pd.read_parquet:
        pytest.importorskip("pyarrow")
    path = scores().export(tmp_path / "deep" / name)
    pd.testing.assert_frame_equal(read(path), scores().by_trial(), check_dtype=False)


def test_what_cannot_be_exported_to_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"end it in \.csv or \.parquet"):
        scores().export(tmp_path / "scores.xlsx")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install 'rhlens\[parquet\]'"):
        scores().export(tmp_path / "scores.parquet")
