"""Figures: the layer x head score map, the length x depth needle heatmap, the dose curve and the kinds of error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rhlens.results.curves import TOP, AblationCurve, Measure
from rhlens.results.errors import ERRORS, errors_by_k
from rhlens.results.scores import RETRIEVAL_THRESHOLD, HeadScores
from rhlens.show.canvas import OUTLINE, caption, integer_ticks, style, subplots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOP_COLOR = OUTLINE
CONTROL_COLORS = {"random": "#0072B2", "layer-matched": "#009E73", "score-bottom": "#7F7F7F"}
MEASURES = {
    "recall": "needle recall (ROUGE-1)",
    "exact": "answers exactly right",
    "f1": "overlap of words (F1)",
    "logprob": "log-probability of the answer (nats per token)",
}
METHODS = {
    "zero": "output set to zero",
    "mean": "output set to its mean",
    "uniform": "attention made uniform",
    "window": "attention to a window only",
    "resample": "output of another prompt",
}
ERROR_COLORS = dict(zip(ERRORS, ("#DDDDDD", "#56B4E9", "#E69F00", "#D55E00", "#555555"), strict=True))
PHASES = {"both": "in prompt and answer", "decode": "while answering", "prefill": "while reading"}


@style()
def score_map(scores: HeadScores, threshold: float = RETRIEVAL_THRESHOLD, title: str | None = None) -> Figure:
    """Every head's mean retrieval score as [layer, head]; heads at or above `threshold` are outlined."""
    from matplotlib.patches import Rectangle

    mean, found = scores.mean(), scores.retrieval_heads(threshold)
    figure, ax = subplots(max(4.8, 0.26 * scores.n_heads + 2.2), max(2.6, 0.3 * scores.n_layers + 1.6))
    image = ax.imshow(mean, vmin=0, vmax=max(1.0, float(mean.max())), origin="lower", aspect="auto")
    for h in found:
        corner = (h.head - 0.5, h.layer - 0.5)
        ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=OUTLINE, linewidth=2, clip_on=False))
    ax.grid(visible=False)
    integer_ticks(ax, scores.n_heads, scores.n_layers)
    ax.set(xlabel="head", ylabel="layer", title=title or f"Retrieval scores of {scores.model or 'the model'}")
    figure.colorbar(image, ax=ax, label="retrieval score")
    share = len(found) / mean.size
    note = f"outlined: {len(found)} of {mean.size} heads ({share:.1%}) ≥ {threshold:g}; n = {scores.n_trials} trials"
    caption(figure, note + ("" if scores.protocol == "paper" else "; sum score, answered trials only"))
    return figure


@style()
def needle_heatmap(scores: HeadScores, measure: str = "recall", title: str | None = None) -> Figure:
    """Mean recall by prompt length and needle depth, over needles.

    Raises:
        ValueError: the scores carry no trial labels (published files).
    """
    if not {"length", "depth", measure} <= set(scores.trials.columns):
        raise ValueError("these scores carry no trial labels (length, depth, recall), so there is no heatmap to draw")
    title = title or f"Needle test of {scores.model or 'the model'}"
    figure, cells = _heatmaps({"": scores.trials}, measure, title)
    caption(figure, f"n = {len(scores.trials)} trials, {len(scores.trials) / cells:g} needles a cell")
    return figure


@style()
def needle_heatmaps(curve: AblationCurve, k: int, measure: Measure = "recall", title: str | None = None) -> Figure:
    """The needle test before and after: of the whole model, without the top k heads, without k others.

    Raises:
        ValueError: this k was not measured.
    """
    control, answers = curve.controls[0], curve.answers
    curve.matrix(control, k, measure)  # it must be there
    panels = {"nothing ablated": (TOP, 0), f"top {k} heads": (TOP, k), f"{k} {control} others": (control, k)}
    tables = {name: answers[(answers["heads"] == heads) & (answers["k"] == n)] for name, (heads, n) in panels.items()}
    figure, cells = _heatmaps(tables, measure, title or f"Needle test of {curve.model or 'the model'} without heads")
    n = curve.level(TOP, 0).n
    caption(
        figure,
        f"{METHODS[curve.method]} {PHASES[curve.phase]}; n = {n} trials, {n / cells:g} needles a cell; "
        f"{curve.draws} {'draw' if curve.draws == 1 else 'draws'} of {control} others",
    )
    return figure


def _heatmaps(tables: Mapping[str, Any], measure: str, title: str) -> tuple[Figure, int]:
    """Means by depth and length, one panel a table on one scale; and how many cells a panel has."""
    import matplotlib.pyplot as plt

    means = [t.pivot_table(index="depth", columns="length", values=measure, aggfunc="mean") for t in tables.values()]
    rows, columns = means[0].shape
    size = (max(4.8 if len(means) == 1 else 3.2, 0.8 * columns + 1.6) * len(means) + 1, max(3.4, 0.4 * rows + 1.6))
    figure, axes = plt.subplots(1, len(means), figsize=size, sharey=True, squeeze=False)
    for ax, name, table in zip(axes.flat, tables, means, strict=True):
        image = ax.imshow(table.to_numpy(dtype=float), vmin=0, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(table.to_numpy(dtype=float)):
            color = "white" if value < 0.6 else "black"
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9, color=color)
        ax.grid(visible=False)
        ax.set_xticks(range(columns), [f"{n:,}" for n in table.columns])
        ax.set_yticks(range(rows), [f"{d:.0%}" for d in table.index])
        ax.set(xlabel="prompt length (tokens)", title=name or title)
    axes[0, 0].set_ylabel("needle depth")
    if len(means) > 1:
        figure.suptitle(title, x=0.01, ha="left", weight="bold")
    figure.colorbar(image, ax=list(axes.flat), label=MEASURES[measure])  # pyright: ignore[reportPossiblyUnboundVariable] (one panel at least)
    return figure, rows * columns


@style()
def dose_curve(curve: AblationCurve, measure: Measure = "recall", title: str | None = None) -> Figure:
    """Recall against the number of ablated heads: the top heads, and each kind of control, with 95 % bands."""
    figure, ax = subplots(6.0, 4.1)
    table = curve.summary(measure)
    for heads in (*curve.controls, TOP):
        rows, color = table[table["heads"] == heads], CONTROL_COLORS.get(heads, TOP_COLOR)
        label = "top heads by retrieval score" if heads == TOP else f"{heads} other heads ({curve.draws} draws)"
        ax.fill_between(rows["k"], rows["low"], rows["high"], color=color, alpha=0.18, linewidth=0)
        ax.plot(rows["k"], rows[measure], color=color, marker="s" if heads == TOP else "o", label=label)
    for draw in range(curve.draws if curve.controls else 0):
        each = [curve.matrix(curve.controls[0], k, measure)[0 if k == 0 else draw].mean() for k in curve.ks]
        ax.plot(curve.ks, each, color=CONTROL_COLORS[curve.controls[0]], alpha=0.25, linewidth=0.8)
    ax.set(xlabel="heads ablated", ylabel=MEASURES[measure], xticks=curve.ks)
    if measure != "logprob":
        ax.set_ylim(-0.03, 1.03)
    ax.set_title(title or f"Without its retrieval heads: {curve.model or 'the model'}")
    ax.legend(loc="best")
    n = int(table["trials"].iloc[0])
    caption(
        figure,
        f"{METHODS[curve.method]} {PHASES[curve.phase]}; n = {n} trials; bands: 95 % CI over needles and draws; "
        f"thin lines: each draw of the {', '.join(curve.controls[:1]) or 'first'} control",
    )
    return figure


@style()
def error_shares(curve: AblationCurve, title: str | None = None) -> Figure:
    """What kind of answers are given without k heads: left without the top heads, right without as many others."""
    import matplotlib.pyplot as plt

    table, sides = errors_by_k(curve), (TOP, *curve.controls[:1])
    figure, axes = plt.subplots(1, len(sides), figsize=(4.2 * len(sides) + 1, 4.0), sharey=True, squeeze=False)
    for ax, heads in zip(axes.flat, sides, strict=True):
        start = np.zeros(len(curve.ks))
        for error, color in ERROR_COLORS.items():
            share = np.array(table.loc[(table["heads"] == heads) & (table["error"] == error), "share"])
            ax.bar(range(len(curve.ks)), share, bottom=start, color=color, width=0.8, label=error)
            start = start + share
        ax.set_xticks(range(len(curve.ks)), list(map(str, curve.ks)))
        ax.set(xlabel="top heads ablated" if heads == TOP else f"{heads} other heads ablated", ylim=(0, 1))
        ax.grid(visible=False)
    axes[0, 0].set_ylabel("share of answers")
    axes[0, -1].legend(
        *(x[::-1] for x in axes[0, 0].get_legend_handles_labels()), loc="center left", bbox_to_anchor=(1.02, 0.5)
    )
    figure.suptitle(
        title or f"What goes wrong without heads: {curve.model or 'the model'}", x=0.01, ha="left", weight="bold"
    )
    n = int(table["trials"].iloc[0])
    caption(
        figure, f"{METHODS[curve.method]} {PHASES[curve.phase]}; n = {n} trials; {curve.draws} draws of other heads"
    )
    return figure


@style()
def method_grid(
    curves: Sequence[AblationCurve], k: int, measure: Measure = "recall", title: str | None = None
) -> Figure:
    """Every method in every phase, at `k` heads: the top heads beside their control, with 95 % intervals."""
    import matplotlib.pyplot as plt

    phases = [phase for phase in PHASES if any(curve.phase == phase for curve in curves)]
    methods = [method for method in METHODS if any(curve.method == method for curve in curves)]
    figure, axes = plt.subplots(1, len(phases), figsize=(3.6 * len(phases) + 1, 0.55 * len(methods) + 2.2), sharey=True)
    for ax, phase in zip(np.atleast_1d(axes), phases, strict=True):
        for curve in (curve for curve in curves if curve.phase == phase):
            at = methods.index(curve.method)
            for heads, color, marker, shift in (
                (curve.controls[0], CONTROL_COLORS[curve.controls[0]], "o", 0.12),
                (TOP, TOP_COLOR, "s", -0.12),
            ):
                level = curve.level(heads, k, measure)
                width = [[max(0.0, level.value - level.low)], [max(0.0, level.high - level.value)]]
                label = f"top {k}" if heads == TOP else f"{k} {heads} others"
                ax.errorbar(level.value, at + shift, xerr=width, fmt=marker, color=color, label=label)
            ax.axvline(curve.level(TOP, 0, measure).value, color="#555555", linewidth=0.8, linestyle=":")
        ax.set(title=PHASES[phase], xlabel=MEASURES[measure])
        if measure != "logprob":
            ax.set_xlim(-0.03, 1.03)
        ax.set_yticks(range(len(methods)), [METHODS[method] for method in methods])
    last = np.atleast_1d(axes)[-1]
    handles = dict(zip(*reversed(last.get_legend_handles_labels()), strict=True))
    last.legend(handles.values(), handles.keys(), loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.suptitle(title or f"Ways to take {k} heads of {curves[0].model} away", x=0.01, ha="left", weight="bold")
    n = curves[0].level(TOP, 0).n
    caption(figure, f"dotted: nothing ablated; n = {n} trials, {curves[0].draws} draws; 95 % CI over needles and draws")
    return figure
