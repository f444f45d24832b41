"""Figures of when heads fire, of their birth, of errors and of many models: what is drawn is what was found."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from rhlens.results.birth import birth
from rhlens.results.curves import AblationCurve
from rhlens.results.dynamics import dynamics_of
from rhlens.results.errors import ERRORS, errors_by_k
from rhlens.results.scores import HeadScores
from rhlens.show.canvas import save_figure
from rhlens.show.dynamics import birth_figure, dynamics_figure
from rhlens.show.figures import ERROR_COLORS, error_shares
from rhlens.show.properties import score_maps, sparsity_figure
from tests.support import firing


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def outlines(ax):
    return [patch for patch in ax.patches if not patch.get_fill()]


def test_labels_that_matter_are_outlined(tmp_path):
    figure = dynamics_figure(dynamics_of(firing("depth"), permutations=2000), "toy")
    when, what, vary = (axis for axis in figure.axes if axis.get_title(loc="left"))
    if "fire for" in vary.get_title(loc="left"):
        what, vary = vary, what
    (box,) = outlines(what)
    assert box.get_width() == 4, "four depths"
    assert box.get_y() == pytest.approx(0.5), "the second head"
    assert [text.get_text() for text in what.texts] == ["kind", "depth", "length", "token of the answer"]
    assert len(vary.get_yticks()) == 2
    assert "context-dependent (1)" in [text.get_text() for text in when.get_legend().get_texts()]
    assert save_figure(figure, tmp_path / "a.png").stat().st_size > 30_000


def test_without_labels_or_heads_one_panel_is_drawn():
    silent = firing("nothing")
    silent.set_scores[:] = 0
    unlabelled = HeadScores(silent.set_scores, silent.sum_scores, pd.DataFrame({"x": range(336)}))
    for scores in (silent, unlabelled):
        assert len(dynamics_figure(dynamics_of(scores), "toy").axes) == 1


@pytest.mark.parametrize("n", [1, 3, 6, 16])
def test_score_maps_draw_every_model(n):
    figure = score_maps([firing("nothing")] * n)
    drawn = [ax for ax in figure.axes if ax.get_title(loc="left")]
    assert len(drawn) == n
    assert all("2 of 4, n = 336" in ax.get_title(loc="left") for ax in drawn)
    assert all(len(outlines(ax)) == 2 for ax in drawn)


def test_no_two_lines_of_many_models_look_alike():
    lines = sparsity_figure([firing("nothing")] * 12).axes[1].lines[:12]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 12


def curve(n: int = 10) -> AblationCurve:
    """All right without ablation; every other kind of error without the top heads; right without others."""
    rows = [("top", 0, 0, t, "correct") for t in range(n)]
    rows += [("top", 4, 0, t, ERRORS[1 + t % 4]) for t in range(n)]
    rows += [("random", 4, d, t, "correct" if t else ERRORS[2 + d]) for d in range(2) for t in range(n)]
    answers = pd.DataFrame(rows, columns=["heads", "k", "draw", "trial", "error"])
    return AblationCurve(answers.assign(recall=0.0, exact=False), "toy")


def test_errors_by_k_are_the_shares_of_answers():
    table = errors_by_k(curve())
    cell = table.set_index(["heads", "k", "error"])
    assert cell.loc[("top", 0, "correct"), "share"] == 1
    assert cell.loc[("top", 4, "incomplete"), "share"] == pytest.approx(0.3)
    assert cell.loc[("top", 4, "no answer"), "share"] == pytest.approx(0.2)
    assert cell.loc[("random", 4, "correct"), "share"] == pytest.approx(0.9)
    assert cell.loc[("random", 4, "hallucination"), "share"] == pytest.approx(0.05)
    assert table.groupby(["heads", "k"])["share"].sum().to_numpy() == pytest.approx(1)
    assert list(table["error"][:5]) == list(ERRORS)
    assert (table["low"] <= table["share"] + 1e-12).all()
    assert set(table["trials"]) == {10}
    with pytest.raises(ValueError, match="ask for them anew"):
        errors_by_k(AblationCurve(curve().answers.drop(columns="error")))


def test_errors_are_stacked_to_one():
    figure = error_shares(curve())
    for ax, top_share in zip(figure.axes, (0.0, 0.9), strict=True):
        bars = np.array([[bar.get_height() for bar in group] for group in ax.containers])
        assert bars.sum(axis=0) == pytest.approx(1)
        assert bars[0, 1] == pytest.approx(top_share)
    assert len(set(ERROR_COLORS.values())) == len(ERRORS)


def test_a_birth_draws_a_line_a_head():
    rng = np.random.default_rng(0)
    found = [(10**i, firing("depth", i)) for i in range(3, 6)]
    for i, (_, scores) in enumerate(found):
        scores.set_scores[:] *= i / 2 * rng.uniform(0.9, 1, (1, 2, 2))
    figure = birth_figure(birth(found), "toy")
    left, right = figure.axes
    figure.canvas.draw()
    assert {"1 k", "10 k", "100 k"} <= {label.get_text() for label in left.get_xticklabels()}
    assert len(left.lines) == 4, "two heads, recall, and the threshold"
    assert left.get_xscale() == "log"
    assert len(right.lines[0].get_xdata()) == 2, "no map is like one of zeros"
