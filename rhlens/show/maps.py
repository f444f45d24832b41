"""Figures of interventions on single heads: causal maps and patching maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from matplotlib.colors import TwoSlopeNorm

from rhlens.results.curves import TOP
from rhlens.results.maps import NOTABLE, CausalMap
from rhlens.results.patching import NOTABLE_SHARE, PatchingCurve, PatchingMap
from rhlens.results.scores import RETRIEVAL_THRESHOLD, HeadScores
from rhlens.show.canvas import MARKED, OUTLINE, caption, integer_ticks, style, subplots
from rhlens.show.figures import CONTROL_COLORS, METHODS, PHASES, TOP_COLOR

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@style()
def causal_map_figure(found: CausalMap, scores: HeadScores | None = None, title: str | None = None) -> Figure:
    """Every head's effect as [layer, head]; with scores, beside it effect against score, disagreements named."""
    import matplotlib.pyplot as plt

    mean = found.mean()
    title = title or f"What each head of {found.model or 'the model'} is worth"
    about = f"{METHODS[found.method]} {PHASES[found.phase]}, one head at a time; n = {len(found.effects)} trials"
    about += f"; outlined: at least {NOTABLE:g} nats"
    if scores is None:
        figure, ax = subplots(max(4.8, 0.26 * mean.shape[1] + 2.6), max(2.8, 0.3 * mean.shape[0] + 1.6))
        _heads(ax, mean, "answer loses (nats per token)", NOTABLE)
        ax.set_title(title)
        caption(figure, about)
        return figure
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), width_ratios=(1.15, 1))
    right.yaxis.labelpad = 12
    _heads(left, mean, "answer loses (nats per token)", NOTABLE)
    left.set_title(title)
    _effect_against_score(right, found, scores)
    rho = found.spearman(scores)
    caption(figure, f"{about}; Spearman correlation over heads {rho.value:.2f} [{rho.low:.2f}, {rho.high:.2f}]")
    return figure


def _effect_against_score(ax: Axes, found: CausalMap, scores: HeadScores) -> None:
    table = found.frame(scores)
    off = table["disagrees"] != ""
    ax.errorbar(
        table["score"], table["effect"], yerr=[table["effect"] - table["low"], table["high"] - table["effect"]],
        fmt="none", ecolor="#BBBBBB", elinewidth=0.8,
    )  # fmt: skip
    ax.scatter(table["score"][~off], table["effect"][~off], color="#0072B2", s=16, label="agree")
    ax.scatter(table["score"][off], table["effect"][off], color=OUTLINE, s=22, label="disagree")
    for name, score, effect in table.loc[off, ["name", "score", "effect"]].head(5).to_numpy().tolist():
        ax.annotate(name, (score, effect), xytext=(4, 3), textcoords="offset points", fontsize=8)
    ax.axvline(RETRIEVAL_THRESHOLD, color="#555555", linewidth=0.8, linestyle=":")
    ax.set(xlabel="retrieval score", ylabel="answer loses (nats per token)", title="Effect against score")
    ax.legend(loc="best")


@style()
def patching_figure(found: PatchingMap, title: str | None = None) -> Figure:
    """Every head's effect as [layer, head]: 1 moves the run all the way to the other prompt's answer."""
    effect = found.effect()
    figure, ax = subplots(max(4.8, 0.26 * effect.shape[1] + 2.6), max(2.8, 0.3 * effect.shape[0] + 1.6))
    _heads(ax, effect, "answer recovered" if found.direction == "denoise" else "answer lost", NOTABLE_SHARE)
    if found.site in ("k", "v") and found.method == "exact":
        ax.set_xlabel("key-value group")
    ax.set_title(title or f"Patching {found.site} in {found.model or 'the model'}")
    where = {"answer": "from the prompt's last token on", "all": "from the needle's answer on"}[found.positions]
    about = f"{found.method}, {found.direction}, {where}; n = {len(found.trials)} pairs of prompts"
    caption(figure, f"{about}; outlined: at least {NOTABLE_SHARE:g}")
    return figure


@style()
def patching_curve(curve: PatchingCurve, title: str | None = None) -> Figure:
    """How much of the answer the top k heads carry together, against as many other heads, with 95 % bands."""
    figure, ax = subplots(6.0, 4.1)
    table = curve.summary()
    for heads in [*(name for name in table["heads"].unique() if name != TOP), TOP]:
        rows, color = table[(table["k"] == 0) | (table["heads"] == heads)], CONTROL_COLORS.get(heads, TOP_COLOR)
        label = "top heads by retrieval score" if heads == TOP else f"{heads} other heads"
        ax.fill_between(rows["k"], rows["low"], rows["high"], color=color, alpha=0.18, linewidth=0)
        ax.plot(rows["k"], rows["recovered"], color=color, marker="s" if heads == TOP else "o", label=label)
    for level in (0, 1):
        ax.axhline(level, color="#555555", linewidth=0.8, linestyle=":")
    ax.set(xlabel="heads patched together", ylabel="0: corrupt prompt's answer, 1: clean prompt's", xticks=curve.ks)
    ax.set_title(title or f"Patching heads together: {curve.model or 'the model'}")
    ax.legend(loc="best")
    caption(figure, f"{curve.direction}; bands: 95 % CI over needles and draws")
    return figure


def _heads(ax: Axes, values: Float[np.ndarray, "layer head"], label: str, outlined: float) -> None:
    """A map of heads whose colours part at 0, with those of at least `outlined` outlined."""
    from matplotlib.patches import Rectangle

    most = max(float(np.abs(values).max()), 1e-6)
    image = ax.imshow(
        values, norm=TwoSlopeNorm(0, -most, most), cmap="RdBu_r", origin="lower", aspect="auto", interpolation="nearest"
    )
    for layer, head in np.argwhere(values >= outlined):
        ax.add_patch(Rectangle((head - 0.5, layer - 0.5), 1, 1, fill=False, edgecolor=MARKED, linewidth=1.5))
    ax.grid(visible=False)
    integer_ticks(ax, values.shape[1], values.shape[0])
    ax.set(xlabel="head", ylabel="layer")
    ax.figure.colorbar(image, ax=ax, label=label)
