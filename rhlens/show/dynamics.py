"""Figures of heads in time: when they fire, and when in training they are born."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rhlens.claims.dynamic import LEVEL
from rhlens.results.birth import ALIKE, RECALL
from rhlens.results.dynamics import ALWAYS, ALWAYS_ON, DEPENDENT, FACTORS, POSITION, UNDECIDED, Dynamics
from rhlens.results.scores import RETRIEVAL_THRESHOLD
from rhlens.show.canvas import OUTLINE, caption, style, subplots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACTIVITY = {ALWAYS_ON: ("#0072B2", "o"), UNDECIDED: ("#999999", "D"), DEPENDENT: (OUTLINE, "s")}
PART_COLORS = dict(zip((*FACTORS, "residual"), ("#0072B2", "#E69F00", "#009E73", "#DDDDDD"), strict=True))


@style()
def dynamics_figure(found: Dynamics, title: str, rows: int = 14) -> Figure:
    """Frequency against score; where labels are known, also what scores vary with and what heads fire for.

    Args:
        rows: retrieval heads to draw, highest score first.
    """
    import matplotlib.pyplot as plt

    if found.variance.empty:
        figure, ax = subplots(6.0, 4.3)
        _frequency_against_score(ax, found.frequencies)
        ax.set_title(title)
        caption(figure, _counted(found.frequencies))
        return figure
    heads = list(found.variance["head"])[:rows]
    tall = 1.1 + 0.24 * max(6, len(heads))
    figure, axes = plt.subplot_mosaic(
        [["when", "vary"], ["what", "what"]], figsize=(10, 5.2 + tall), height_ratios=(3.6, tall), width_ratios=(1.2, 1)
    )
    _frequency_against_score(axes["when"], found.frequencies)
    axes["when"].set_title("When heads fire")
    _variance_bars(axes["vary"], found.variance.set_index("head").loc[heads])
    _rate_map(axes["what"], found.rates, found.tests, heads)
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    caption(
        figure,
        f"{_counted(found.frequencies)}. Variance: the residual holds interactions. What they fire for: share of "
        f"trials in which a head fires; of a token's place in the answer, share of such tokens that it copied (right "
        f"answers); outlined: the label matters to a context-dependent head (permutation test, Holm, p < {LEVEL:g})",
    )
    return figure


def _counted(table: pd.DataFrame) -> str:
    everywhere = table["frequency"].to_list().count(1)
    return (
        f"n = {table['n'].iloc[0]} trials; bars: 95 % Wilson intervals of heads of {RETRIEVAL_THRESHOLD:g} or more; "
        f"{everywhere} heads fire in every trial"
    )


def _frequency_against_score(ax: Axes, table: pd.DataFrame) -> None:
    others = table[table["activity"] == ""]
    ax.scatter(others["score"], others["frequency"], s=9, color="#CCCCCC", label=f"below 0.1 ({len(others)})")
    for activity, (color, marker) in ACTIVITY.items():
        of = table[table["activity"] == activity]
        if of.empty:
            continue
        width = np.maximum(0, [of["frequency"] - of["low"], of["high"] - of["frequency"]])
        ax.errorbar(
            of["score"], of["frequency"], yerr=width, fmt=marker, color=color, markersize=5, elinewidth=1,
            label=f"{activity} ({len(of)})",
        )  # fmt: skip
    ax.axhline(ALWAYS, color="#555555", linewidth=0.8, linestyle=":")
    ax.axvline(RETRIEVAL_THRESHOLD, color="#555555", linewidth=0.8, linestyle=":")
    ax.set(xlabel="retrieval score", ylabel="share of trials in which it fires", ylim=(-0.03, 1.03))
    ax.legend(loc="lower right")


def _rate_map(ax: Axes, rates: pd.DataFrame, tests: pd.DataFrame, heads: list[str]) -> None:
    """Heads against levels, labels side by side with a gap between them."""
    from matplotlib.patches import Rectangle

    names, cells, spans, at = [], [], {}, 0
    for by, group in rates.groupby("by", sort=False):
        table = group.pivot(index="head", columns="level", values="rate")
        table = table.reindex(index=heads, columns=list(dict.fromkeys(group["level"])))
        cells += [table.to_numpy(dtype=float), np.full((len(heads), 1), np.nan)]
        names += [_level(str(by), level) for level in table.columns] + [""]
        spans[by] = (at, table.shape[1])
        at += table.shape[1] + 1
    image = ax.imshow(np.hstack(cells)[:, :-1], vmin=0, vmax=1, aspect="auto")
    for head, by, adjusted in [] if tests.empty else tests[["head", "by", "adjusted"]].to_numpy().tolist():
        if adjusted < LEVEL and head in heads and by in spans:
            start, width = spans[by]
            corner = (start - 0.5, heads.index(head) - 0.5)
            ax.add_patch(Rectangle(corner, width, 1, fill=False, edgecolor=OUTLINE, linewidth=2, clip_on=False))
    for by, (start, width) in spans.items():
        ax.text(
            start + (width - 1) / 2,
            -0.7,
            "token of the answer" if by == POSITION else str(by),
            ha="center",
            va="bottom",
            fontsize=10,
        )
    ax.grid(visible=False)
    ax.set_xticks(
        [i for i, name in enumerate(names) if name], [name for name in names if name], rotation=60, ha="right"
    )
    ax.set_yticks(range(len(heads)), heads)
    ax.set_title("What they fire for", pad=22)
    ax.figure.colorbar(image, ax=ax, label="share of trials (tokens)")


def _level(by: str, level: object) -> str:
    return f"{float(str(level)):.0%}" if by == "depth" else f"{level:,}" if by == "length" else str(level)


def _variance_bars(ax: Axes, parts: pd.DataFrame) -> None:
    start, places = np.zeros(len(parts)), np.arange(len(parts))
    for part, color in PART_COLORS.items():
        share = parts[part].fillna(0).to_numpy(dtype=float)
        ax.barh(places, share, left=start, color=color, label=part)
        start = start + share
    ax.set_yticks(places, list(parts.index))
    ax.invert_yaxis()
    ax.grid(visible=False)
    ax.set(xlabel="share of the variance of trial scores", xlim=(0, 1), title="What scores vary with")
    ax.legend(loc="upper center", bbox_to_anchor=(0.45, -0.2), ncol=4, columnspacing=1, handlelength=1)


@style()
def birth_figure(table: pd.DataFrame, model: str, title: str | None = None) -> Figure:
    """Left, recall and the scores of retrieval heads against tokens of training; right, likeness with the last map."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter

    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.3), width_ratios=(1.35, 1), sharex=True)
    curves = {str(what): group for what, group in table.groupby("what", sort=False)}
    heads = [what for what in curves if what not in (RECALL, ALIKE)]
    for i, head in enumerate(heads):
        label = f"score of each retrieval head ({len(heads)})" if i == 0 else None
        left.plot(
            curves[head]["tokens"], curves[head]["value"], color="#0072B2", alpha=0.55, linewidth=1.1, label=label
        )
    for ax, what, color, label in (
        (left, RECALL, OUTLINE, "needle recall (ROUGE-1)"),
        (right, ALIKE, "#009E73", "Pearson correlation"),
    ):
        if what in curves:
            of = curves[what]
            ax.fill_between(of["tokens"], of["low"], of["high"], color=color, alpha=0.18, linewidth=0)
            ax.plot(of["tokens"], of["value"], color=color, marker="o", label=label)
        ax.set(xscale="log", xlabel="tokens of training", ylim=(-0.05 if ax is left else -0.3, 1.03))
        ax.xaxis.set_major_formatter(EngFormatter())  # the usual powers of ten are math, which our style does not draw
    left.axhline(RETRIEVAL_THRESHOLD, color="#555555", linewidth=0.8, linestyle=":")
    left.set(ylabel="recall, or retrieval score", title=title or f"The birth of retrieval heads: {model}")
    right.set(ylabel="correlation over heads", title="Likeness with the last score map")
    left.legend(loc="best")
    n = min(table["n"].to_list())
    caption(figure, f"n = {n} trials a snapshot; bands: 95 % CI over needles; dotted: score of 0.1")
    return figure
