"""The birth of retrieval heads: recall and scores over the snapshots of one training."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from rhlens.results.compare import compare
from rhlens.results.scores import HeadScores
from rhlens.results.stats import mean_ci

RECALL, ALIKE = "recall", "correlation with the last map"


def birth(snapshots: Sequence[tuple[int, HeadScores]]) -> pd.DataFrame:
    """One row a snapshot and curve: tokens of training, `what`, value, and its 95 % interval over needles.

    Curves are the recall, the score of every head that retrieves (0.1 or more) in the last snapshot or did in one
    before, and the Pearson correlation of the score map with the last one; nan while no head scores anything.

    Raises:
        ValueError: fewer than two snapshots.
    """
    if len(snapshots) < 2:
        raise ValueError(f"a birth needs two snapshots or more, not {len(snapshots)}: name a model that has them")
    snapshots = sorted(snapshots, key=lambda snapshot: snapshot[0])
    last, rows = snapshots[-1][1], []
    heads = list(dict.fromkeys(h for _, scores in reversed(snapshots) for h in scores.retrieval_heads()))
    for tokens, scores in snapshots:
        found = {RECALL: mean_ci(scores.trials["recall"].to_numpy(dtype=float), list(scores.trials["needle"]))}
        found |= {str(h): scores.score_ci(h) for h in heads}
        if scores.mean().any() and last.mean().any():
            found[ALIKE] = compare(scores, last).pearson
        rows += [{"tokens": tokens, "what": what, **ci._asdict()} for what, ci in found.items()]
    return pd.DataFrame(rows)
