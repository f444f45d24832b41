"""Figures: the layer x head score map, the length x depth needle heatmap, and the dose curve."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rhlens.results.curves import TOP, AblationCurve, Measure
from rhlens.results.scores import RETRIEVAL_THRESHOLD, HeadScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TOP_COLOR, OUTLINE = "#D55E00", "#D55E00"
CONTROL_COLORS = {"random": "#0072B2", "layer-matched": "#009E73", "score-bottom": "#7F7F7F"}
MEASURES = {
    "recall": "needle recall (ROUGE-1)",
    "exact": "answers exactly right",
    "logprob": "log-probability of the answer (nats per token)",
}
METHODS = {
    "zero": "output set to zero",
    "mean": "output set to its mean",
    "uniform": "attention made uniform",
    "resample": "output of another prompt",
}
PHASES = {"both": "in prompt and answer", "decode": "while answering", "prefill": "while reading"}


@contextmanager
def _style() -> Iterator[None]:
    """The one style of every figure; matplotlib reads parts of it only when a figure is drawn or saved."""
    import matplotlib.pyplot as plt

    with resources.as_file(resources.files("rhlens.show") / "rhlens.mplstyle") as style, plt.style.context(style):
        yield


def plot(result: HeadScores | AblationCurve, **options: Any) -> Figure:
    """The figure that shows `result`: a score map or a dose curve."""
    if isinstance(result, HeadScores):
        return score_map(result, **options)
    if isinstance(result, AblationCurve):
        return dose_curve(result, **options)
    raise TypeError(f"nothing draws a {type(result).__name__}: give HeadScores or an AblationCurve")


@_style()
def score_map(scores: HeadScores, threshold: float = RETRIEVAL_THRESHOLD, title: str | None = None) -> Figure:
    """Every head's mean retrieval score as [layer, head]; heads at or above `threshold` are outlined."""
    from matplotlib.patches import Rectangle

    mean, found = scores.mean(), scores.retrieval_heads(threshold)
    figure, ax = _subplots(max(4.8, 0.26 * scores.n_heads + 2.2), max(2.6, 0.3 * scores.n_layers + 1.6))
    image = ax.imshow(mean, vmin=0, vmax=max(1.0, float(mean.max())), origin="lower", aspect="auto")
    for h in found:
        corner = (h.head - 0.5, h.layer - 0.5)
        ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=OUTLINE, linewidth=2, clip_on=False))
    ax.grid(visible=False)
    _integer_ticks(ax, scores.n_heads, scores.n_layers)
    ax.set(xlabel="head", ylabel="layer", title=title or f"Retrieval scores of {scores.model or 'the model'}")
    figure.colorbar(image, ax=ax, label="retrieval score")
    share = len(found) / mean.size
    note = f"outlined: {len(found)} of {mean.size} heads ({share:.1%}) ≥ {threshold:g}; n = {scores.n_trials} trials"
    _caption(figure, note + ("" if scores.protocol == "paper" else "; sum score, answered trials only"))
    return figure


@_style()
def needle_heatmap(scores: HeadScores, measure: str = "recall", title: str | None = None) -> Figure:
    """Mean recall by prompt length and needle depth, over needles.

    Raises:
        ValueError: the scores carry no trial labels (published files).
    """
    if not {"length", "depth", measure} <= set(scores.trials.columns):
        raise ValueError("these scores carry no trial labels (length, depth, recall), so there is no heatmap to draw")
    table = scores.trials.pivot_table(index="depth", columns="length", values=measure, aggfunc="mean")
    figure, ax = _subplots(max(4.8, 0.8 * table.shape[1] + 2.6), max(3.4, 0.4 * table.shape[0] + 1.6))
    image = ax.imshow(table.to_numpy(dtype=float), vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(table.to_numpy(dtype=float)):
        ax.text(
            column, row, f"{value:.2f}", ha="center", va="center", fontsize=9, color="white" if value < 0.6 else "black"
        )
    ax.grid(visible=False)
    ax.set_xticks(range(table.shape[1]), [f"{n:,}" for n in table.columns])
    ax.set_yticks(range(table.shape[0]), [f"{d:.0%}" for d in table.index])
    ax.set(
        xlabel="prompt length (tokens)",
        ylabel="needle depth",
        title=title or f"Needle test of {scores.model or 'the model'}",
    )
    figure.colorbar(image, ax=ax, label=MEASURES[measure])
    _caption(figure, f"n = {len(scores.trials)} trials, {len(scores.trials) / table.size:g} needles a cell")
    return figure


@_style()
def dose_curve(curve: AblationCurve, measure: Measure = "recall", title: str | None = None) -> Figure:
    """Recall against the number of ablated heads: the top heads, and each kind of control, with 95 % bands."""
    figure, ax = _subplots(6.0, 4.1)
    table = curve.summary(measure)
    for heads in (*curve.controls, TOP):
        rows, color = table[table["heads"] == heads], CONTROL_COLORS.get(heads, TOP_COLOR)
        label = "top heads by retrieval score" if heads == TOP else f"{heads} other heads ({curve.draws} draws)"
        ax.fill_between(rows["k"], rows["low"], rows["high"], color=color, alpha=0.18, linewidth=0)
        ax.plot(rows["k"], rows[measure], color=color, marker="s" if heads == TOP else "o", label=label)
    for draw in range(curve.draws):
        each = [curve.matrix(curve.controls[0], k, measure)[0 if k == 0 else draw].mean() for k in curve.ks]
        ax.plot(curve.ks, each, color=CONTROL_COLORS[curve.controls[0]], alpha=0.25, linewidth=0.8)
    ax.set(xlabel="heads ablated", ylabel=MEASURES[measure], xticks=curve.ks)
    if measure != "logprob":
        ax.set_ylim(-0.03, 1.03)
    ax.set_title(title or f"Without its retrieval heads: {curve.model or 'the model'}")
    ax.legend(loc="best")
    n = int(table["trials"].iloc[0])
    _caption(
        figure,
        f"{METHODS[curve.method]} {PHASES[curve.phase]}; n = {n} trials; bands: 95 % CI over needles and draws; "
        f"thin lines: each draw of the {curve.controls[0]} control",
    )
    return figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a PNG, the same bytes for the same figure, and close it."""
    import matplotlib.pyplot as plt

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _style():
        figure.savefig(path, metadata={"Software": "rhlens"})
    plt.close(figure)
    return path


def _subplots(width: float, height: float) -> tuple[Figure, Axes]:
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height))


def _integer_ticks(ax: Axes, n_heads: int, n_layers: int) -> None:
    step = max(1, (max(n_heads, n_layers) + 15) // 16)
    ax.set_xticks(range(0, n_heads, step))
    ax.set_yticks(range(0, n_layers, step))


def _caption(figure: Figure, text: str) -> None:
    """Small print below the axes: what was counted."""
    lines = textwrap.fill(text, int(figure.get_figwidth() * 15))
    figure.supxlabel(lines, x=0.02, ha="left", fontsize=8, color="#555555")
