from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats as scipy_stats

from rhlens.results.heads import Head
from rhlens.results.scores import HeadScores
from tests.support import shown


def make(sets, sums=None, recall=None, **options) -> HeadScores:
    sets = np.asarray(sets, dtype=float)
    recall = [1.0] * len(sets) if recall is None else recall
    trials = pd.DataFrame({"trial": range(len(sets)), "recall": recall})
    return HeadScores(sets, sets if sums is None else np.asarray(sums, dtype=float), trials, "toy", **options)


def test_paper_counts_every_trial_and_wu2024_only_answered_ones_from_the_same_run():
    scores = make(
        sets=[[[1.0, 0.0]], [[0.5, 0.0]], [[0.0, 0.3]]],
        sums=[[[2.0, 0.0]], [[0.5, 0.0]], [[0.0, 0.9]]],
        recall=[1.0, 0.51, 0.5],
    )
    np.testing.assert_allclose(scores.mean(), [[0.5, 0.1]])
    np.testing.assert_allclose(scores.activation_frequency(), [[2 / 3, 1 / 3]])
    reference = scores.under("wu2024")
    assert (scores.n_trials, reference.n_trials) == (3, 2)
    np.testing.assert_allclose(reference.mean(), [[1.25, 0.0]])
    assert scores.retrieval_heads() == [Head(0, 0), Head(0, 1)]
    assert reference.retrieval_heads() == [Head(0, 0)]


def test_the_interval_of_a_head_resamples_needles():
    scores = make([[[0.0, 0.0], [0.0, 1.0]]] * 4 + [np.zeros((2, 2))] * 4)
    alone = scores.score_ci((1, 1))
    assert 0 < alone.low < alone.high < 1, "needles that are not known are one a trial"
    scores.trials["needle"] = ["a"] * 4 + ["b"] * 4
    assert scores.score_ci((1, 1)) == (0.5, 0, 1, 8, 2), "a draw of two needles may hold one of them only"
    assert scores.score_ci((0, 1)).value == 0


def test_when_no_trial_was_answered_wu2024_says_so_instead_of_zero():
    scores = make([[[1.0]]], recall=[0.2])
    assert scores.mean()[0, 0] == 1.0
    with pytest.raises(ValueError, match="use protocol='paper'"):
        scores.under("wu2024").mean()
    assert "no answered trial" in repr(scores.under("wu2024"))


@given(arrays(float, (3, 2, 4), elements=st.floats(0, 1, width=32)))
def test_ranking_is_by_mean_and_ties_keep_layer_and_head_order(values):
    scores = make(values)
    ranked, mean = scores.ranked(), scores.mean()
    assert sorted(ranked) == [Head(a, b) for a in range(2) for b in range(4)]
    for first, second in pairwise(ranked):
        assert mean[first] > mean[second] or (mean[first] == mean[second] and first < second)
    assert scores.top(3) == ranked[:3]
    found = scores.retrieval_heads(0.4)
    assert set(found) == {h for h in ranked if mean[h] >= 0.4}
    frame = scores.frame()
    assert list(frame["name"]) == [str(h) for h in ranked]
    np.testing.assert_allclose(frame["score"], [mean[h] for h in ranked])


@given(arrays(float, (2, 3, 2), elements=st.floats(0, 3, width=32)), st.sampled_from(["paper", "wu2024"]))
def test_saved_scores_load_unchanged(tmp_path_factory, values, protocol):
    scores = make(np.minimum(values, 1), values, recall=[0.9, 0.1], protocol=protocol)
    path = scores.save(tmp_path_factory.mktemp("s") / "deep" / "scores.safetensors")
    loaded = HeadScores.load(path)
    np.testing.assert_array_equal(loaded.mean(), scores.mean())
    assert loaded.under("paper").n_trials == 2
    assert (loaded.protocol, loaded.model, loaded.n_layers, loaded.n_heads) == (protocol, "toy", 3, 2)
    pd.testing.assert_frame_equal(loaded.trials, scores.trials)


def test_damaged_and_foreign_files_are_one_clear_sentence(tmp_path):
    path = make([[[1.0]]]).save(tmp_path / "s.safetensors")
    data = path.read_bytes()
    for bad in (data[: len(data) // 2], b"", b"\x80\x04pickle"):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match="not a file of rhlens scores"):
            HeadScores.load(path)
    with pytest.raises(ValueError, match="does not exist"):
        HeadScores.load(tmp_path / "missing.safetensors")


def test_shapes_and_protocols_are_checked():
    with pytest.raises(ValueError, match="protocol"):
        make([[[1.0]]], protocol="mine")
    with pytest.raises(ValueError, match=r"\[trial, layer, head\]"):
        make([[1.0]])
    with pytest.raises(ValueError, match="rows of labels"):
        HeadScores(None, np.zeros((2, 1, 1)), pd.DataFrame({"trial": [0]}), protocol="wu2024", gated=True)
    with pytest.raises(ValueError, match="no column 'recall'"):
        HeadScores(None, np.zeros((1, 1, 1)), pd.DataFrame({"trial": [0]}), protocol="wu2024")
    with pytest.raises(ValueError, match="sums only"):
        HeadScores(None, np.zeros((1, 1, 1)), pd.DataFrame({"trial": [0]}))
    with pytest.raises(ValueError, match="0 or more"):
        make([[[1.0]]]).top(-1)


def test_the_html_repr_escapes_the_models_name():
    scores = HeadScores(
        np.ones((1, 1, 1)), np.ones((1, 1, 1)), pd.DataFrame({"recall": [1.0]}), "<script>alert(1)</script>"
    )
    assert "<script>alert" not in scores._repr_html_()
    assert "L0H0" in scores._repr_html_()


def test_scores_show_their_map_and_table():
    values = np.random.default_rng(0).random((4, 8, 8))
    found = make(values)
    page = shown(found)
    assert (page.line, page.label) == (repr(found), "retrieval score")
    assert page.cells["L3 H5"] == f"{values[:, 3, 5].mean():.3f}"
    assert [row[0] for row in page.rows] == [str(h) for h in found.top(50)]
    assert page.headings == ["name", "layer", "head", "score", "stderr", "activation_frequency", "n"]
    silent = make(values, recall=[0.0] * 4, protocol="wu2024")
    assert shown(silent)[:2] == (repr(silent), "")
    first = ", ".join(f"{h} {found.mean()[h]:.2f}" for h in found.top(3))
    assert repr(found) == f"HeadScores(toy: 4 trials, 8 x 8 heads, paper; {first})"
    assert repr(HeadScores(values, values, found.trials)).startswith("HeadScores(model: ")


def test_a_frame_has_the_standard_error_of_each_mean():
    values = np.random.default_rng(0).random((5, 1, 2))
    table = make(values).frame().set_index("name")
    for head in (0, 1):
        row = table.loc[f"L0H{head}"]
        assert row["stderr"] == pytest.approx(scipy_stats.sem(values[:, 0, head]))
        assert row["activation_frequency"] == (values[:, 0, head] > 0).mean()
        assert (row["n"], row["layer"], row["head"]) == (5, 0, head)
    assert make(values[:1]).frame()["stderr"].isna().all(), "one trial has none"


def test_a_score_of_exactly_a_tenth_retrieves():
    assert make([[[0.1]], [[0.1]], [[0.1]]]).retrieval_heads() == [Head(0, 0)]
    assert make([[[0.1 - 1e-6]]]).retrieval_heads() == []
    assert len(make(np.ones((1, 3, 4))).top()) == 10
    assert make([[[0.1]]]).top(0) == []
