"""One call that draws any result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rhlens.results.cache import CacheCurve
from rhlens.results.curves import AblationCurve
from rhlens.results.maps import CausalMap
from rhlens.results.patching import PatchingCurve, PatchingMap
from rhlens.results.scores import HeadScores
from rhlens.show.factuality import cache_figure
from rhlens.show.figures import dose_curve, score_map
from rhlens.show.maps import causal_map_figure, patching_curve, patching_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DRAWN_BY = {
    HeadScores: score_map,
    AblationCurve: dose_curve,
    CacheCurve: cache_figure,
    CausalMap: causal_map_figure,
    PatchingMap: patching_figure,
    PatchingCurve: patching_curve,
}


def plot(
    result: HeadScores | AblationCurve | CacheCurve | CausalMap | PatchingMap | PatchingCurve, **options: Any
) -> Figure:
    """The figure that shows `result`; options are those of the function that draws it."""
    for kind, draw in _DRAWN_BY.items():
        if isinstance(result, kind):
            return draw(result, **options)
    known = ", ".join(kind.__name__ for kind in _DRAWN_BY)
    raise TypeError(f"nothing draws a {type(result).__name__}: give one of {known}")
