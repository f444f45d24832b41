"""Figures of what retrieval heads are for: signs of right answers, tasks, caches, made-up answers, chains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rhlens.results.cache import RANDOM, RETRIEVAL, CacheCurve
from rhlens.results.curves import AblationCurve, Measure
from rhlens.results.detection import Detection
from rhlens.results.hits import SIGNS, Hits
from rhlens.results.ordering import drops
from rhlens.results.support import Support
from rhlens.show.canvas import caption, style, subplots
from rhlens.show.figures import CONTROL_COLORS, MEASURES, METHODS, PHASES, TOP_COLOR

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIGN_COLORS = {"aimed": TOP_COLOR, "copied": "#E69F00", "confidence": "#0072B2"}
GRAY = "#777777"


@style()
def hits_figure(hits: Hits, heads: Sequence[tuple[int, int]], title: str | None = None) -> Figure:
    """How well each sign tells right answers from wrong ones: over all trials, by needle kind, and by prompt length."""
    tables = [hits.frame(heads)]
    tables += [hits.frame(heads, by=by).rename(columns={by: "group"}) for by in ("kind", "length")]
    tables[-1]["group"] = tables[-1]["group"].map("{:,} tokens".format)
    table = pd.concat(tables)
    groups = list(dict.fromkeys(table["group"]))
    figure, ax = subplots(7.4, 0.42 * len(groups) + 2.2)
    for i, sign in enumerate(SIGNS):
        rows = table[table["sign"] == sign]
        y = np.array([groups.index(group) for group in rows["group"]]) + 0.22 * (i - 1)
        error = np.clip([rows["auroc"] - rows["low"], rows["high"] - rows["auroc"]], 0, None)
        ax.errorbar(
            rows["auroc"], y, xerr=error, fmt="os^"[i], color=SIGN_COLORS[sign], label=SIGNS[sign], linewidth=1.4
        )
        if sign != "confidence":
            label = f"the same by {len(heads)} random heads" if sign == "aimed" else None
            ax.plot(rows["random heads"], y, "|", color=GRAY, markersize=9, label=label)
    ax.axvline(0.5, color="#555555", linewidth=0.8, linestyle=":")
    ax.set_yticks(range(len(groups)), groups)
    ax.invert_yaxis()
    ax.grid(axis="x")
    ax.set(xlabel="chance that a right answer shows more of it than a wrong one (AUROC)", xlim=(0.2, 1.02))
    ax.set_title(title or f"Signs of a right answer: {hits.model or 'the model'}")
    ax.legend(loc="upper center", bbox_to_anchor=(0.4, -0.16 - 0.3 / len(groups)))
    caption(
        figure, f"n = {len(hits.right)} trials, {hits.right.sum()} right; dotted: a coin; bars: 95 % CI over needles"
    )
    return figure


@style()
def drops_figure(
    curves: Mapping[str, AblationCurve], k: int, measure: Measure = "recall", title: str | None = None
) -> Figure:
    """Left, each task unablated, without the top k heads and without k others; right, the drop beyond the control's."""
    import matplotlib.pyplot as plt

    table, first = drops(curves, k, measure), next(iter(curves.values()))
    y = np.arange(len(table))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 0.55 * len(table) + 2.2), sharey=True)
    marks = {"unablated": ("o", "white", "nothing ablated"), "without others": ("o", GRAY, f"without {k} others"),
             "without top": ("s", TOP_COLOR, f"without the top {k}")}  # fmt: skip
    for column, (marker, color, label) in marks.items():
        left.plot(table[column], y, marker, color=color, markeredgecolor="#444444", label=label, markersize=7)
    left.set(xlabel=MEASURES[measure].replace("needle ", ""), xlim=(-0.03, 1.03))
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncol=3, fontsize=9, columnspacing=1)
    error = np.clip([table["drop"] - table["low"], table["high"] - table["drop"]], 0, None)
    right.barh(y, table["drop"], xerr=error, color=TOP_COLOR, height=0.6, error_kw={"ecolor": "#444444"})
    right.axvline(0, color="#444444", linewidth=0.8)
    right.set(xlabel=f"lost beyond the loss without {k} others")
    left.set_yticks(y, [f"{task} (n = {n})" for task, n in zip(table["task"], table["prompts"], strict=True)])
    left.invert_yaxis()
    figure.suptitle(title or f"What {k} heads of {first.model} are needed for", x=0.01, ha="left", weight="bold")
    about = f"{METHODS[first.method]} {PHASES[first.phase]}"
    caption(figure, f"{about}; {first.draws} draws of {first.controls[0]} others; bars: 95 % CI over prompts and draws")
    return figure


@style()
def cache_figure(curve: CacheCurve, measure: Measure = "recall", title: str | None = None) -> Figure:
    """Recall against the share of the cache that is kept: for the retrieval heads, and for as many random ones."""
    figure, ax = subplots(6.4, 4.2)
    table = curve.summary(measure)
    for heads, color, marker in ((RANDOM, CONTROL_COLORS["random"], "o"), (RETRIEVAL, TOP_COLOR, "s")):
        rows = table[table["heads"] == heads]
        label = f"random ({curve.draws} draws)" if heads == RANDOM else "best retrieval scores"
        ax.fill_between(rows["share"], rows["low"], rows["high"], color=color, alpha=0.18, linewidth=0)
        ax.plot(
            rows["share"], rows[measure], color=color, marker=marker, label=f"key-value heads kept in full: {label}"
        )
    for full, share, value in table.loc[table["heads"] == RETRIEVAL, ["full", "share", measure]].itertuples(
        index=False
    ):
        ax.annotate(str(full), (share, value), textcoords="offset points", xytext=(0, 7), ha="center", fontsize=8)
    ax.axhline(curve.level(RETRIEVAL, curve.size.groups, measure).value, color="#555555", linewidth=0.8, linestyle=":")
    ax.set(xlabel="share of the KV cache kept (bytes)", ylabel=MEASURES[measure], xlim=(0, 1.03), ylim=(-0.03, 1.1))
    ax.set_title(title or f"A cache for some heads: {curve.model or 'the model'}")
    ax.legend(loc="lower right")
    window, n = curve.window, int(table["trials"].iloc[0])
    caption(
        figure,
        f"numbers: key-value heads kept in full, of {curve.size.groups}; the others keep the first {window.sink} and "
        f"latest {window.recent} positions; n = {n} trials; dotted: whole cache; bands: 95 % CI over needles and draws",
    )
    return figure


@style()
def detection_figure(found: Mapping[str, Detection], title: str | None = None) -> Figure:
    """How much support answers have whose needle is there, and answers to questions that nothing answers."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(4.6 * len(found) + 0.6, 3.7), sharey=True, squeeze=False)
    for ax, (name, one) in zip(axes.flat, found.items(), strict=True):
        bins = np.linspace(0, 1, 21).tolist()
        support = one.trials["support"].to_numpy(dtype=float)
        for side, color, label in ((one.absent, TOP_COLOR, "needle absent"), (~one.absent, "#0072B2", "needle there")):
            ax.hist(support[side], bins=bins, color=color, alpha=0.65, label=f"{label} (n = {int(side.sum())})")
        ax.axvline(one.threshold, color="#555555", linewidth=0.8, linestyle=":")
        area, control = one.area(), one.control_area()
        areas = f"AUROC {area.value:.2f} [{area.low:.2f}, {area.high:.2f}]; random heads {control.value:.2f}"
        ax.set_title(f"{name}\n{areas}", fontsize=10)
        ax.set(xlabel="support of the answer", xlim=(0, 1))
        ax.legend(loc="upper center")
    first = next(iter(found.values()))
    axes[0, 0].set_ylabel("answers")
    figure.suptitle(title or f"Made-up answers lack support: {first.model}", x=0.01, ha="left", weight="bold")
    names = ", ".join(map(str, first.heads[:8])) + (" and others" if len(first.heads) > 8 else "")
    caption(
        figure,
        f"support: mean over the answer's words of the most attention with which one of {names} copied each from the "
        "prompt; dotted: below it an alarm is raised; 95 % CI over needles",
    )
    return figure


@style()
def chain_figure(support: Support, title: str | None = None) -> Figure:
    """Which token of a chain of thought each head copied from where: one row a head, one column a step."""
    steps = len(support.source)
    figure, ax = subplots(max(6.0, 0.21 * steps + 1.6), 0.4 * len(support.heads) + 2.4)
    copied, prompt = support.copied(), support.from_prompt()
    shade = np.where(copied, support.weight, 0.0).T
    ax.imshow(shade, vmin=0, vmax=1, aspect="auto", cmap="Blues")
    for step, head in np.argwhere(copied):
        at = int(support.source[step, head])
        where = f"{at}" if prompt[step, head] else f"+{at - support.n_prompt}"
        color = "white" if shade[head, step] > 0.6 else "#222222"
        ax.text(step, head, where, ha="center", va="center", fontsize=6, color=color, rotation=90)
    ax.grid(visible=False)
    words = [text.replace("\n", "⏎").replace(" ", "·") for text in support.texts[support.n_prompt :]]
    ax.set_xticks(range(steps), words, rotation=90, fontsize=8)
    ax.set_yticks(range(len(support.heads)), list(map(str, support.heads)))
    ax.set(xlabel="token that was produced", title=title or "What retrieval heads copy along a chain of thought")
    caption(
        figure,
        "blue: the head copied the token, the deeper the more attention went to its source; number: the source's place "
        f"in the prompt of {support.n_prompt} tokens, or with + in the answer itself; n = 1 answer",
    )
    return figure
