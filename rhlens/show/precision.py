"""What rounding does to retrieval scores, drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from rhlens.show.canvas import caption, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = {"bfloat16": "#D55E00", "float16": "#0072B2"}
MARKERS = {"twin": "o", "bridge": "s"}
PANELS = {"moved": "strongest positions that moved", "largest": "largest change of a head's score"}


@style()
def precision_figure(table: pd.DataFrame, note: str, title: str | None = None) -> Figure:
    """Each model in 16 bits against itself in float32: filled where the same heads retrieve, hollow where others do.

    Args:
        table: one row a model, dtype and path (`decode`), as `measure.precision.differences` has it.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import PercentFormatter

    models = list(dict.fromkeys(table["model"]))
    figure, axes = plt.subplots(1, 2, figsize=(11, 0.5 * len(models) + 2.6), sharey=True)
    ways = list(dict.fromkeys(zip(table["dtype"], table["decode"], strict=True)))
    for (column, label), ax in zip(PANELS.items(), axes, strict=True):
        for i, (dtype, path) in enumerate(ways):
            some = table[(table["dtype"] == dtype) & (table["decode"] == path)]
            rows = [models.index(model) + 0.16 * (i - (len(ways) - 1) / 2) for model in some["model"]]
            color, marker = COLORS.get(dtype, "#555555"), MARKERS.get(path, "D")
            same = [not lost and not gained for lost, gained in zip(some["lost"], some["gained"], strict=True)]
            faces = [color if one else "white" for one in same]
            look = {"marker": marker, "edgecolors": color, "s": 42, "linewidths": 1.4, "zorder": 3}
            ax.scatter(some[column], rows, c=faces, clip_on=False, **look)
            ax.scatter([], [], c=color, label=f"{dtype}, {path}", **look)
        ax.set(xlabel=label, xlim=(0, None), ylim=(len(models) - 0.5, -0.5))
        ax.locator_params(axis="x", nbins=6)
    axes[0].set_yticks(range(len(models)), models)
    axes[0].xaxis.set_major_formatter(PercentFormatter(1))
    axes[1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.suptitle(title or "16 bits against float32", x=0.01, ha="left", weight="bold")
    caption(figure, f"filled: the same heads score 0.1 or more as in float32; hollow: others do; {note}")
    return figure
