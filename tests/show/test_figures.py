import numpy as np
import pandas as pd
import pytest
from PIL import Image

import rhlens as rh
from rhlens.results.curves import AblationCurve
from rhlens.show.canvas import save_figure
from rhlens.show.tables import curve_table, score_table


@pytest.fixture
def scores():
    values = np.zeros((6, 4, 8))
    values[:, 2, 3] = 0.75
    values[::2, 1, 0] = 0.3
    cells = [(256, 0.0, 1.0), (256, 1.0, 0.0), (512, 0.0, 1.0), (512, 1.0, 0.5), (256, 0.0, 0.5), (512, 1.0, 0.5)]
    trials = pd.DataFrame(cells, columns=["length", "depth", "recall"]).assign(exact=False)
    return rh.HeadScores(values, values, trials, "toy <b>model</b>")


@pytest.fixture
def curve():
    rows = [{"heads": "top", "k": k, "draw": 0, "trial": t, "recall": r, "exact": r == 1}
            for k, r in ((0, 1.0), (2, 0.0)) for t in range(4)]  # fmt: skip
    rows += [{"heads": "random", "k": 2, "draw": d, "trial": t, "recall": 1 - 0.1 * d, "exact": d == 0}
             for d in range(3) for t in range(4)]  # fmt: skip
    return AblationCurve(pd.DataFrame(rows).assign(logprob=-0.5), "toy", "zero", "both")


def test_the_score_map_shows_the_scores_and_outlines_the_retrieval_heads(scores):
    figure = rh.plot(scores)
    ax = figure.axes[0]
    np.testing.assert_allclose(ax.images[0].get_array(), scores.mean())
    corners = {(p.get_x() + 0.5, p.get_y() + 0.5) for p in ax.patches}
    assert corners == {(3, 2), (0, 1)}
    assert "2 of 32 heads (6.2%)" in figure.get_supxlabel()
    assert "n = 6 trials" in figure.get_supxlabel()


def test_the_heatmap_shows_the_mean_recall_of_each_cell(scores):
    figure = rh.needle_heatmap(scores)
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), [[0.75, 1.0], [0.0, 0.5]])
    bare = rh.HeadScores(None, np.zeros((1, 1, 1)), pd.DataFrame({"trial": [0]}), protocol="wu2024", gated=True)
    with pytest.raises(ValueError, match="no trial labels"):
        rh.needle_heatmap(bare)


def test_the_dose_curve_shows_both_lines_and_every_draw(curve):
    ax = rh.plot(curve).axes[0]
    lines = {tuple(np.round(line.get_ydata(), 3)) for line in ax.lines}
    assert {(1.0, 0.0), (1.0, 0.9), (1.0, 1.0), (1.0, 0.8)} <= lines
    assert "3 draws" in ax.get_legend().get_texts()[0].get_text()


def test_the_same_figure_is_the_same_file_and_not_blank(scores, curve, tmp_path):
    for name, result in (("a", scores), ("b", curve)):
        first, second = (save_figure(rh.plot(result), tmp_path / f"{name}{i}.png") for i in (1, 2))
        assert first.read_bytes() == second.read_bytes()
        pixels = np.asarray(Image.open(first).convert("L"))
        assert min(pixels.shape) > 300
        assert 0.02 < (pixels < 250).mean() < 0.9


def test_what_cannot_be_drawn_is_said():
    with pytest.raises(TypeError, match="nothing draws a dict"):
        rh.plot({})  # pyright: ignore[reportArgumentType]


def test_a_curve_of_the_unablated_model_alone_is_drawn(curve):
    alone = AblationCurve(curve.answers[curve.answers["k"] == 0], "toy")
    assert rh.plot(alone).axes[0].get_xlabel() == "heads ablated"


def test_tables_hold_the_numbers_their_interval_and_n(scores, curve):
    from rich.console import Console

    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(score_table(scores))
    console.print(curve_table(curve))
    text = console.export_text()
    assert "2 of 32 heads" in text
    assert "L2H3" in text
    assert "n = 6 trials" in text
    assert "3 draws a control" in text
    assert "0.90" in text
