"""What every figure shares: one style, small print, and a file that is the same bytes each time."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OUTLINE = "#D55E00"
MARKED = "#E69F00"


@contextmanager
def style() -> Iterator[None]:
    """The one style of every figure; matplotlib reads parts of it only when a figure is drawn or saved."""
    import matplotlib.pyplot as plt

    with resources.as_file(resources.files("rhlens.show") / "rhlens.mplstyle") as style, plt.style.context(style):
        yield


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a PNG, the same bytes for the same figure, and close it."""
    import matplotlib.pyplot as plt

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with style():
        figure.savefig(path, metadata={"Software": "rhlens"})
    plt.close(figure)
    return path


def subplots(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one panel, in inches."""
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height))


def integer_ticks(ax: Axes, n_heads: int, n_layers: int) -> None:
    """Head and layer numbers, thinned out where there are many."""
    step = max(1, (max(n_heads, n_layers) + 15) // 16)
    ax.set_xticks(range(0, n_heads, step))
    ax.set_yticks(range(0, n_layers, step))


def caption(figure: Figure, text: str) -> None:
    """Small print below the axes: what was counted."""
    lines = textwrap.fill(text, int(figure.get_figwidth() * 15))
    figure.supxlabel(lines, x=0.02, ha="left", fontsize=8, color="#555555")
