"""Property 1, universal: every model that retrieves has retrieval heads that it needs; one that cannot has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rhlens.claims.causal import RETRIEVES
from rhlens.claims.claim import Claim, judged
from rhlens.measure.recall import chance_recall
from rhlens.results.curves import TOP, AblationCurve
from rhlens.results.heads import Head
from rhlens.results.scores import RETRIEVAL_THRESHOLD, HeadScores
from rhlens.results.stats import Interval, mean_ci

CONTROL = "universal, control"
_LEAST = RETRIEVAL_THRESHOLD - 1e-9  # a mean of tenths that is 0.1 on paper may be 0.0999... in binary


class Recall(NamedTuple):
    """How much of the needle a model's answers hold, and how much more than of other needles of the same kind."""

    level: Interval
    gain: Interval

    @property
    def retrieves(self) -> bool:
        return self.level.low > RETRIEVES

    @property
    def cannot(self) -> bool:
        return self.level.high < RETRIEVES and self.gain.low <= 0


def recall_of(scores: HeadScores) -> Recall | None:
    """Recall over all trials, whether they count or not; None where the file does not say (published scores).

    Chance is how well each answer fits another needle of its kind: what a model gets right without looking.
    """
    trials = scores.trials
    if not {"recall", "output", "answer", "kind", "needle"} <= set(trials.columns):
        return None
    recall, needles = trials["recall"].to_numpy(dtype=float), list(trials["needle"])
    return Recall(mean_ci(recall, needles), mean_ci(recall - chance_recall(trials), needles, lowest=-1))


def universal(scores: HeadScores, curve: AblationCurve | None = None) -> Claim:
    """The universal property on one model.

    A model that retrieves (recall above .5) must have heads that score 0.1 or more, and lose more recall without all
    that were ablated than without as many others. A model that cannot (recall below .5, and not surely above chance)
    is a control: it must have no heads that do both. One that retrieves a little is neither, and fails.

    Args:
        curve: ablation of the retrieval heads; None where there are none, or no model to ablate (published scores:
            that the heads are needed is then not tested, and the claim says so).
    """
    recall, heads = recall_of(scores), scores.retrieval_heads()
    best = scores.score_ci(scores.top(1)[0])
    if recall is None:
        tested = "published scores: neither recall nor ablation is known, so that the heads are needed is not tested"
        return judged("universal, by scores alone", scores.model, best, {_has(heads, best): best.low >= _LEAST}, tested)
    needed = curve.contrast(max(curve.ks)) if curve is not None else None
    about = f"recall {recall.level}, {recall.gain.value:+.2f} [{recall.gain.low:+.2f}, {recall.gain.high:+.2f}] above "
    about += f"chance (other needles of the kind); {_effect(curve)}"
    if recall.cannot:
        both = bool(heads) and (needed is None or needed.low > 0)
        clause = f"it cannot retrieve, and none of its {len(heads)} heads of 0.1 or more is surely needed"
        return judged(CONTROL, scores.model, best, {clause: not both}, about)
    clauses = {
        f"it retrieves: recall above {RETRIEVES:g}, low end {recall.level.low:.2f}": recall.retrieves,
        _has(heads, best): best.low >= _LEAST,
        "it needs them more than others: " + (f"low end {needed.low:.2f}" if needed else "not measured"): (
            needed is not None and needed.low > 0
        ),
    }
    return judged("universal", scores.model, needed or best, clauses, about)


def universal_overall(claims: Sequence[Claim]) -> Claim:
    """The property of all models together: it holds on each; some of them retrieve, and some, as controls, cannot.

    Raises:
        ValueError: there are no claims.
    """
    if not claims:
        raise ValueError("there is no model to judge: name one or more")
    holds = np.array([claim.holds for claim in claims])
    against = ", ".join(claim.model for claim in claims if not claim.holds) or "none"
    controls = [claim.model for claim in claims if claim.property == CONTROL]
    clauses = {
        f"it holds on {holds.sum()} of {len(holds)} models (against it: {against})": bool(holds.all()),
        f"some retrieve: {len(holds) - len(controls)}": len(controls) < len(holds),
        f"some, as controls, cannot: {len(controls)}": len(controls) > 0,
    }
    about = f"models that cannot retrieve: {', '.join(controls) or 'none'}"
    return judged("universal, overall", f"{len(holds)} models", mean_ci(holds.astype(float)), clauses, about)


def _has(heads: Sequence[Head], best: Interval) -> str:
    return f"{len(heads)} heads score 0.1 or more, the first surely: {best.value:.2f}, low end {best.low:.2f}"


def _effect(curve: AblationCurve | None) -> str:
    """What was left without the heads and without others, for people."""
    if curve is None:
        return "nothing was ablated"
    k = max(curve.ks)
    return (
        f"recall {curve.level(TOP, k).value:.2f} without the top {k}, "
        f"{curve.level(curve.controls[0], k).value:.2f} without {k} others ({curve.controls[0]}, {curve.draws} draws)"
    )
