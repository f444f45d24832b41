"""rhlens: which attention heads of a language model fetch facts from its context, and what breaks without them.

    import rhlens as rh
    model = rh.load("nano-qwen2")
    trials = rh.niah(model, lengths=[256, 512], depths=5, needles=8)
    scores = rh.detect(model, trials)
    curve = rh.ablate(model, trials, scores)

Names are imported when first used, so that `import rhlens` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rhlens.claims.causal import causal as causal
    from rhlens.claims.claim import Claim as Claim
    from rhlens.measure.ablate import ablate as ablate
    from rhlens.measure.cache import cut_cache as cut_cache
    from rhlens.measure.causal_map import causal_map as causal_map
    from rhlens.measure.check import check as check
    from rhlens.measure.detect import detect as detect
    from rhlens.measure.patch import patch as patch
    from rhlens.measure.patch import patch_top as patch_top
    from rhlens.measure.patch import path_patch as path_patch
    from rhlens.measure.support import watch as watch
    from rhlens.model.load import load as load
    from rhlens.results.cache import CacheCurve as CacheCurve
    from rhlens.results.compare import compare as compare
    from rhlens.results.curves import AblationCurve as AblationCurve
    from rhlens.results.head_tables import HeadList as HeadList
    from rhlens.results.head_tables import KVHeadScores as KVHeadScores
    from rhlens.results.heads import Head as Head
    from rhlens.results.interop import read_scores as read_scores
    from rhlens.results.maps import CausalMap as CausalMap
    from rhlens.results.patching import PatchingCurve as PatchingCurve
    from rhlens.results.patching import PatchingMap as PatchingMap
    from rhlens.results.prompt_check import PromptCheck as PromptCheck
    from rhlens.results.scores import HeadScores as HeadScores
    from rhlens.results.share import Share as Share
    from rhlens.results.share import Unfinished as Unfinished
    from rhlens.scale.workers import ray_workers as ray_workers
    from rhlens.show.browser import browse as browse
    from rhlens.show.canvas import save_figure as save_figure
    from rhlens.show.figures import dose_curve as dose_curve
    from rhlens.show.figures import needle_heatmap as needle_heatmap
    from rhlens.show.figures import score_map as score_map
    from rhlens.show.plot import plot as plot
    from rhlens.show.support import support as support
    from rhlens.show.views import attention as attention
    from rhlens.tasks.needles import Needle as Needle
    from rhlens.tasks.needles import bundled_needles as bundled_needles
    from rhlens.tasks.needles import draw_needles as draw_needles
    from rhlens.tasks.needles import read_needles as read_needles
    from rhlens.tasks.trials import Grid as Grid
    from rhlens.tasks.trials import Trial as Trial
    from rhlens.tasks.trials import niah as niah

__version__ = "0.1.0"

_HOME = {
    "claims.causal": ("causal",),
    "claims.claim": ("Claim",),
    "measure.ablate": ("ablate",),
    "measure.cache": ("cut_cache",),
    "measure.causal_map": ("causal_map",),
    "measure.check": ("check",),
    "measure.detect": ("detect",),
    "measure.patch": ("patch", "patch_top", "path_patch"),
    "measure.support": ("watch",),
    "model.load": ("load",),
    "results.cache": ("CacheCurve",),
    "results.compare": ("compare",),
    "results.curves": ("AblationCurve",),
    "results.head_tables": ("HeadList", "KVHeadScores"),
    "results.heads": ("Head",),
    "results.maps": ("CausalMap",),
    "results.patching": ("PatchingCurve", "PatchingMap"),
    "results.interop": ("read_scores",),
    "results.prompt_check": ("PromptCheck",),
    "results.scores": ("HeadScores",),
    "results.share": ("Share", "Unfinished"),
    "scale.workers": ("ray_workers",),
    "show.browser": ("browse",),
    "show.canvas": ("save_figure",),
    "show.figures": ("dose_curve", "needle_heatmap", "score_map"),
    "show.plot": ("plot",),
    "show.support": ("support",),
    "show.views": ("attention",),
    "tasks.needles": ("Needle", "bundled_needles", "draw_needles", "read_needles"),
    "tasks.trials": ("Grid", "Trial", "niah"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_MODULE)  # pyright: ignore[reportUnsupportedDunderAll] (names live in the table above)


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'rhlens' has no attribute {name!r}")
    return globals().setdefault(name, getattr(import_module(f"rhlens.{_MODULE[name]}"), name))


def __dir__() -> list[str]:
    return [*globals(), *_MODULE]
