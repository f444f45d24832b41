"""Results as tables in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from rich.table import Table
from rich.text import Text

from rhlens.results.compare import Comparison
from rhlens.results.curves import TOP, AblationCurve
from rhlens.results.maps import CausalMap
from rhlens.results.patching import PatchingCurve, PatchingMap
from rhlens.results.prompt_check import PromptCheck
from rhlens.results.scores import RETRIEVAL_THRESHOLD, HeadScores


def score_table(scores: HeadScores, rows: int = 10) -> Table:
    """The highest heads: mean score with its 95 % interval, activation frequency, n."""
    found = scores.retrieval_heads()
    total = scores.n_layers * scores.n_heads
    table = Table(
        title=f"{scores.model}: {len(found)} of {total} heads ({len(found) / total:.1%}) ≥ {RETRIEVAL_THRESHOLD:g}",
        caption=f"n = {scores.n_trials} trials, protocol {scores.protocol}",
    )
    for column in ("head", "retrieval score", "95 % CI", "active in"):
        table.add_column(column, justify="left" if column == "head" else "right")
    frequency = scores.activation_frequency()
    for h in scores.top(rows):
        ci = scores.score_ci(h)
        style = "bold" if ci.value >= RETRIEVAL_THRESHOLD else "dim"
        table.add_row(str(h), f"{ci.value:.3f}", f"{ci.low:.3f} – {ci.high:.3f}", f"{frequency[h]:.0%}", style=style)
    return table


def check_table(check: PromptCheck) -> Table:
    """Recall under each form of prompt, best first, and the flags that ask so."""
    table = Table(title=f"{check.model}: needles answered, by form of prompt")
    for column in ("form", "haystack", "recall", "95 % CI", "exact", "n", "s a trial", "flags"):
        table.add_column(column, justify="left" if column in ("form", "haystack", "flags") else "right")
    for row in check.table.to_dict("records"):
        if row["recall"] != row["recall"]:
            table.add_row(row["form"], row["haystack"], "–", "", "", "", "", row["note"], style="dim")
            continue
        empty = f"{row['empty']:.0%} empty" if row["empty"] else ""
        flags = " ".join(filter(None, [row["flags"], *(f"({note})" for note in (empty, row["note"]) if note)]))
        interval = f"{row['low']:.2f} – {row['high']:.2f}"
        found = (f"{row['recall']:.2f}", interval, f"{row['exact']:.2f}", str(int(row["n"])), f"{row['seconds']:.1f}")
        table.add_row(row["form"], row["haystack"], *found, flags)
    return table


def curve_table(curve: AblationCurve) -> Table:
    """Recall and exact match for each k, top heads against controls, with 95 % intervals."""
    n = curve.level(TOP, 0).n
    table = Table(
        title=f"{curve.model}: recall with k heads ablated ({curve.method}, {curve.phase})",
        caption=f"n = {n} trials, {curve.draws} draws a control; 95 % CI over needles (and draws); "
        "nats: of the right answer, per token; p: signs flipped by needle; p of sets: rank among the draws",
    )
    for column in ("k", "heads", "recall", "95 % CI", "exact", "nats", "p", "p of sets"):
        table.add_column(column, justify="left" if column == "heads" else "right")
    for k in curve.ks:
        for heads in (TOP, *curve.controls) if k else (TOP,):
            level = curve.level(heads, k)
            exact, nats = curve.level(heads, k, "exact").value, curve.level(heads, k, "logprob").value
            ps = [f"{p(k, control=heads):.2g}" if heads != TOP else "" for p in (curve.p_value, curve.draw_p)]
            name = "none" if k == 0 else heads
            cells = [
                name,
                f"{level.value:.2f}",
                f"{level.low:.2f} – {level.high:.2f}",
                f"{exact:.2f}",
                f"{nats:.2f}",
                *ps,
            ]
            table.add_row(str(k), *cells, end_section=heads == ((TOP, *curve.controls)[-1] if k else TOP))
    return table


def map_table(found: CausalMap, scores: HeadScores, rows: int = 10) -> Table:
    """The heads that matter most: effect with its 95 % interval, retrieval score, and whether the two disagree."""
    frame, rho = found.frame(scores), found.spearman(scores)
    table = Table(
        title=f"{found.model}: what the answer loses without each head ({found.method}, {found.phase})",
        caption=f"n = {len(found.effects)} trials; nats per token; Spearman with the retrieval score {rho.value:.2f} "
        f"[{rho.low:.2f}, {rho.high:.2f}]; {(frame['disagrees'] != '').sum()} heads disagree",
    )
    for column in ("head", "effect", "95 % CI", "score", "disagrees"):
        table.add_column(column, justify="left" if column in {"head", "disagrees"} else "right")
    listed = pd.concat([frame.head(rows), frame.iloc[rows:].query("disagrees != ''")])
    for row in listed.to_dict("records"):
        ci = f"{row['low']:.3f} – {row['high']:.3f}"
        table.add_row(row["name"], f"{row['effect']:.3f}", ci, f"{row['score']:.2f}", row["disagrees"])
    return table


def patch_table(found: PatchingMap, rows: int = 10) -> Table:
    """The heads whose patch moves the run most: effect, and how much of the clean answer is there."""
    table = Table(
        title=f"{found.model}: patching {found.site} ({found.method}, {found.direction}, {found.positions})",
        caption=f"n = {len(found.trials)} pairs of prompts; 0 = corrupt, 1 = clean; 95 % CI over needles",
    )
    for column in ("head", "effect", "recovered", "95 % CI"):
        table.add_column(column, justify="left" if column == "head" else "right")
    for row in found.frame(rows).to_dict("records"):
        ci = f"{row['low']:.3f} – {row['high']:.3f}"
        table.add_row(row["name"], f"{row['effect']:.3f}", f"{row['recovered']:.3f}", ci)
    return table


def patching_curve_table(curve: PatchingCurve) -> Table:
    """How much of the clean answer is there with k heads patched together, top heads against controls."""
    summary = curve.summary()
    table = Table(
        title=f"{curve.model}: patching k heads together ({curve.site}, {curve.direction}, {curve.positions})",
        caption=f"n = {summary['n'].iloc[0]} pairs of prompts; 0 = corrupt, 1 = clean; "
        "95 % CI over needles (and draws)",
    )
    for column in ("k", "heads", "recovered", "95 % CI"):
        table.add_column(column, justify="left" if column == "heads" else "right")
    for row in summary.sort_values("k", kind="stable").to_dict("records"):
        name = row["heads"] if row["k"] else "none"
        table.add_row(str(row["k"]), name, f"{row['recovered']:.3f}", f"{row['low']:.3f} – {row['high']:.3f}")
    return table


def comparison_table(found: Comparison) -> Table:
    """How alike two score maps are, and what chance would give; without the correlations where there are no scores."""
    r, known = found.pearson, found.pearson.value == found.pearson.value
    over = f"; interval over needles or trials (at least {r.clusters})" if r.n else ""
    table = Table(title="A against B", caption=f"by {found.unit}{over}")
    for column in ("measure", "value", "95 % CI", "by chance"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    if known:
        ci = f"{r.low:.3f} – {r.high:.3f}" if r.n else "unknown"
        table.add_row("Pearson", f"{r.value:.3f}", ci, f"95 % below {found.chance:.3f}; p = {found.p:.2g}")
        table.add_row("Spearman", f"{found.spearman:.3f}", "", "")
    chance = f"{found.expected:.1%}" if found.expected == found.expected else "unknown"
    table.add_row(f"shared of the top {found.k}", f"{found.overlap:.1%}", "", chance)
    return table


def anomaly_table(sentences: Mapping[str, Sequence[str]]) -> Table:
    """What is odd about each of some files, a sentence a row."""
    table = Table(title="what to know")
    table.add_column("of")
    table.add_column("anomaly, and its reason")
    for name, listed in sentences.items():
        for i, sentence in enumerate(listed, 1):
            table.add_row(Text(name if i == 1 else ""), Text(f"- {sentence}"), end_section=i == len(listed))
    return table
