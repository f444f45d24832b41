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
    n = curve.level(TOP, 0).n
    table = Table(
        title=f"{curve.model}: recall with k heads ablated ({curve.method}, {curve.phase})",
        caption=f"n = {n} trials, {curve.draws} draws a control; 95 % CI over needles (and draws); "
        "nats: of the right answer, per token",
    )
    for column in ("k", "heads", "recall", "95 % CI", "exact", "nats", "p"):
        table.add_column(column, justify="left" if column == "heads" else "right")
    for k in curve.ks:
        for heads in (TOP, *curve.controls) if k else (TOP,):
            level = curve.level(heads, k)
            exact, nats = curve.level(heads, k, "exact").value, curve.level(heads, k, "logprob").value
            p = f"{curve.p_value(k, control=heads):.2g}" if heads != TOP else ""
            name = "none" if k == 0 else heads
            cells = [
                name,
                f"{level.value:.2f}",
                f"{level.low:.2f} – {level.high:.2f}",
                f"{exact:.2f}",
                f"{nats:.2f}",
                p,
            ]
            table.add_row(str(k), *cells, end_section=heads == ((TOP, *curve.controls)[-1] if k else TOP))
    return table
