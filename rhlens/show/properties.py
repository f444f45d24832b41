"""Figures that set models side by side: score maps, how scores are spread, and how alike the maps are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from rhlens.results.scores import RETRIEVAL_THRESHOLD, HeadScores
from rhlens.results.sparsity import BINS, bins, by_threshold
from rhlens.show.canvas import OUTLINE, caption, integer_ticks, style, subplots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BIN_COLORS = ("#DDDDDD", "#9ECAE1", "#E69F00", "#D55E00")


@style()
def score_maps(models: Sequence[HeadScores], title: str | None = None) -> Figure:
    """The score map of every model, four in a row, on one scale; heads of 0.1 or more are outlined."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    columns = min(4, len(models))
    rows = -(-len(models) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.7 * columns + 1.2, 2.5 * rows + 1.3), squeeze=False)
    for ax, scores in zip(axes.flat, models, strict=False):
        mean, found = scores.mean(), scores.retrieval_heads()
        ax.imshow(mean, vmin=0, vmax=1, origin="lower", aspect="auto")
        for h in found:
            square = Rectangle((h.head - 0.5, h.layer - 0.5), 1, 1, fill=False, edgecolor=OUTLINE)
            square.set_linewidth(2.0 if max(mean.shape) <= 16 else 0.9)
            ax.add_patch(square)
        ax.grid(visible=False)
        integer_ticks(ax, 2 * scores.n_heads, 2 * scores.n_layers)
        ax.set(xlim=(-0.5, scores.n_heads - 0.5), ylim=(-0.5, scores.n_layers - 0.5))
        ax.set_title(f"{scores.model or 'model'}\n{len(found)} of {mean.size}, n = {scores.n_trials}", fontsize=10)
    for ax in axes.flat[len(models) :]:
        ax.axis("off")
    for ax in axes[:, 0]:
        ax.set_ylabel("layer")
    for i in range(columns):
        axes[max(row for row in range(rows) if row * columns + i < len(models)), i].set_xlabel("head")
    figure.colorbar(axes.flat[0].images[0], ax=axes, label="retrieval score", shrink=min(1.0, 1.6 / rows), aspect=25)
    figure.suptitle(title or "Retrieval scores of every head", x=0.01, ha="left", weight="bold")
    caption(figure, "outlined and counted: heads of 0.1 or more; n = trials")
    return figure


@style()
def sparsity_figure(models: Sequence[HeadScores], title: str | None = None) -> Figure:
    """Left, the share of each model's heads in the paper's four bins; right, at or above any threshold."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 0.45 * len(models) + 3.2), width_ratios=(1.2, 1))
    names, start = [scores.model or "model" for scores in models], np.zeros(len(models))
    tables = [bins(scores) for scores in models]
    for i, (name, color) in enumerate(zip(BINS, BIN_COLORS, strict=True)):
        shares = np.array([table["share"].to_list()[i] for table in tables])
        left.barh(names, shares, left=start, color=color, label=name)
        for y, (share, at) in enumerate(zip(shares, start, strict=True)):
            if share >= 0.04:
                left.text(at + share / 2, y, f"{share:.1%}", ha="center", va="center", fontsize=8)
        start = start + shares
    left.set(xlabel="share of heads", xlim=(0, 1), title=title or "Heads by mean retrieval score")
    left.invert_yaxis()
    left.grid(visible=False)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=4.5, ncol=4)  # in font sizes below
    n_colors = len(plt.rcParams["axes.prop_cycle"])
    for i, (scores, name) in enumerate(zip(models, names, strict=True)):
        curve, dashes = by_threshold(scores), ("-", "--", ":")[i // n_colors % 3]  # colours come again
        line = right.plot(curve["threshold"], curve["share"], dashes, label=name)[0]
        right.fill_between(curve["threshold"], curve["low"], curve["high"], color=line.get_color(), alpha=0.15, lw=0)
    right.axvline(RETRIEVAL_THRESHOLD, color="#555555", linewidth=0.8, linestyle=":")
    right.axhline(0.05, color="#555555", linewidth=0.8, linestyle=":")
    right.set(
        xlabel="threshold", ylabel="share of heads at or above it", ylim=(0, None), title="The choice of threshold"
    )
    right.legend(loc="best")
    counts = ", ".join(f"{name} {scores.n_trials}" for scores, name in zip(models, names, strict=True))
    caption(
        figure, f"n trials: {counts}; bands: 95 % CI over needles (published files: over trials); dotted: 0.1 and 5 %"
    )
    return figure


@style()
def similarity_matrix(
    names: Sequence[str], correlations: Float[np.ndarray, "model model"], note: str, title: str | None = None
) -> Figure:
    """Pearson correlation of every pair of score maps; empty where shapes differ."""
    size = 0.75 * len(names) + 2.6
    figure, ax = subplots(size + 0.8, size)
    image = ax.imshow(correlations, vmin=-1, vmax=1, cmap="RdBu_r")
    for (row, column), value in np.ndenumerate(correlations):
        if np.isfinite(value):
            color = "white" if abs(value) > 0.6 else "black"
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9, color=color)
    ax.grid(visible=False)
    ax.set_xticks(range(len(names)), names, rotation=35, ha="right")
    ax.set_yticks(range(len(names)), names)
    ax.set_title(title or "Correlation of score maps")
    figure.colorbar(image, ax=ax, label="Pearson correlation over heads", shrink=0.8)
    caption(figure, note)
    return figure
