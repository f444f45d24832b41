"""Property 2, sparse: few heads retrieve, and most never copy anything from the needle."""

from __future__ import annotations

from rhlens.claims.claim import Claim, judged
from rhlens.results.scores import HeadScores
from rhlens.results.sparsity import bins, gini_ci, retrieval_share, share_ci

MOST = 0.05
EQUAL_GINI = 0.5


def sparse(scores: HeadScores) -> Claim:
    """The sparse property: some heads score at least 0.1, surely fewer than 5 % of them (the paper's figure).

    That the verdict hangs on the threshold of 0.1 could refute it: the shares at half and at twice the threshold are
    printed, and the scores must be concentrated (Gini coefficient above .5) whatever the threshold.
    """
    share, gini, table = retrieval_share(scores), gini_ci(scores), bins(scores)
    found = len(scores.retrieval_heads())
    half, twice = share_ci(scores, 0.05), share_ci(scores, 0.2)
    silent = table["share"].to_list()[0]
    clauses = {
        f"some heads score 0.1 or more: {found} of {scores.n_layers * scores.n_heads}": found > 0,
        f"they are fewer than {MOST:.0%}: high end {share.high:.1%}": share.high < MOST,
        f"scores are concentrated: Gini above {EQUAL_GINI:g}, low end {gini.low:.2f}": gini.low > EQUAL_GINI,
    }
    return judged(
        "sparse",
        scores.model,
        share,
        clauses,
        f"{half.value:.1%} of heads at half the threshold, {twice.value:.1%} at twice; {silent:.1%} score exactly 0",
    )
