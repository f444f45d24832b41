"""Property 3, intrinsic: a model and its descendants retrieve with the same heads; unrelated models do not."""

from __future__ import annotations

from rhlens.claims.claim import Claim, judged
from rhlens.results.compare import compare
from rhlens.results.scores import HeadScores

RELATED, UNRELATED = 0.8, 0.1


def intrinsic(a: HeadScores, b: HeadScores, related: bool) -> Claim:
    """The intrinsic property on a pair of models of one shape.

    The paper finds a Pearson correlation of the score maps above .8 within a family and below .1 across families. Heads
    paired at random are the control: a related pair must surely beat it, an unrelated one must not.

    Args:
        related: whether one was made from the other (continued, finetuned, upcycled, quantised).

    Raises:
        ValueError: the maps are of different shapes.
    """
    found = compare(a, b)
    r = found.pearson
    if related:
        clauses = {
            f"correlation is above {RELATED:g}: low end {r.low:.2f}": r.low > RELATED,
            f"chance cannot explain it: p = {found.p:.2g}": found.p < 0.05,
        }
    else:
        clauses = {
            f"correlation is below {UNRELATED:g}: {r.value:.2f}": r.value < UNRELATED,
            f"chance can explain it: p = {found.p:.2g}": found.p >= 0.05,
        }
    return judged(
        "intrinsic" if related else "intrinsic, across families",
        f"{a.model} and {b.model}",
        r,
        clauses,
        f"95 % of random pairings of heads correlate below {found.chance:.2f}; Spearman {found.spearman:.2f}; "
        f"{found.overlap:.0%} of the top {found.k} heads are shared",
    )
