"""Property 4, dynamic: some retrieval heads always fire, others in some contexts only, and not by chance."""

from __future__ import annotations

from collections import Counter

import numpy as np
from jaxtyping import Float

from rhlens.claims.claim import Claim, judged
from rhlens.results.dynamics import ALWAYS, ALWAYS_ON, DEPENDENT, Dynamics, dynamics_of
from rhlens.results.scores import RETRIEVAL_THRESHOLD, HeadScores
from rhlens.results.stats import Interval, bootstrap_ci

LEVEL = 0.05


def dynamic(scores: HeadScores, found: Dynamics | None = None) -> Claim:
    """The dynamic property: some retrieval heads are always on, some surely are not, and those follow the context.

    The statistic is the share of retrieval heads that fire in less than 90 % of the trials. Labels dealt out at random
    are the control: a head that fires by chance fires as often for any needle, kind, depth or length.

    Args:
        found: when the heads fire, if it is there already.

    Raises:
        ValueError: not every needle was asked at every depth and length, or at one of each only.
    """
    found = dynamics_of(scores) if found is None else found
    activity = Counter(found.frequencies["activity"].to_list())
    clauses = {
        f"some heads are always on (interval above {ALWAYS:g}): {activity[ALWAYS_ON]}": activity[ALWAYS_ON] > 0,
        f"some are not (interval below {ALWAYS:g}): {activity[DEPENDENT]}": activity[DEPENDENT] > 0,
    }
    everywhere = found.frequencies["frequency"].to_list().count(1)
    about, name = f"{everywhere} heads fire in every single trial (the paper's count); ", "dynamic"
    if found.labelled:
        rows = found.tests[["head", "by", "adjusted"]].to_numpy().tolist() if activity[DEPENDENT] else []
        sure = [(head, by) for head, by, p in rows if p < LEVEL]
        follow = len({head for head, _ in sure})
        clauses[f"those follow the context: {follow} of {activity[DEPENDENT]}"] = follow > 0
        counts = ", ".join(f"{by} {n}" for by, n in Counter(by for _, by in sure).items()) or "none"
        about += f"heads whose firing follows a label more than labels permuted do (p < {LEVEL:g}, Holm): {counts}"
    else:
        name = "dynamic, by frequency alone"
        about += "the trials carry no labels, so that firing follows the context, and not chance, is not tested"
    return judged(name, scores.model, dependent_share(scores), clauses, about)


def dependent_share(scores: HeadScores) -> Interval:
    """Share of retrieval heads that fire in less than 90 % of the trials, with its 95 % interval over needles.

    nan where no head retrieves.
    """
    values = scores.values[:, scores.mean() > 0]  # [trial, head]; the others never retrieve in a resample either

    def share(mean: Float[np.ndarray, " score_then_active"]) -> float:
        score, active = np.split(mean, 2)
        heads = score >= RETRIEVAL_THRESHOLD - 1e-9
        return float(np.mean(active[heads] < ALWAYS)) if heads.any() else float("nan")

    return bootstrap_ci(share, np.hstack([values, values > 0]), scores.needles)
