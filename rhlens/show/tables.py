"""Results as tables in the terminal."""

from __future__ import annotations

from rich.table import Table

from rhlens.results.curves import TOP, AblationCurve
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


def curve_table(curve: AblationCurve) -> Table:
    """Recall and exact match for each k, top heads against controls, with 95 % intervals."""
    summary = curve.summary()
    n = int(summary["trials"].iloc[0])
    table = Table(
        title=f"{curve.model}: recall with k heads ablated ({curve.method}, {curve.phase})",
        caption=f"n = {n} trials, {curve.draws} control draws; 95 % CI over needles (and draws)",
    )
    for column in ("k", "top heads", "95 % CI", "exact", "random heads", "95 % CI", "exact"):
        table.add_column(column, justify="right")
    for k in curve.ks:
        cells = [str(k)]
        for heads in (TOP, "random"):
            level = curve.level(heads, k)
            cells += [
                f"{level.value:.2f}",
                f"{level.low:.2f} – {level.high:.2f}",
                f"{curve.level(heads, k, 'exact').value:.2f}",
            ]
        table.add_row(*cells)
    return table
