"""What retrieval heads are for: claims on trials that were answered, without heads, with less cache, and made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from rhlens.claims.claim import Claim, judged
from rhlens.results.cache import RANDOM, RETRIEVAL, CacheCurve
from rhlens.results.curves import AblationCurve, Measure
from rhlens.results.detection import Detection
from rhlens.results.hits import Hits, Sign
from rhlens.results.stats import difference

KEPT = 0.9
"""Share of the recall with the whole cache that one for some heads must keep."""


def predicts(hits: Hits, heads: Sequence[tuple[int, int]], sign: Sign = "aimed") -> Claim:
    """Whether what retrieval heads do in a trial foretells that it will be answered right (the paper's section 4.1).

    `aimed` looks before the answer begins. `copied` is what the paper plots, and no prediction: tokens that were not
    said were not copied.
    """
    area, better, confidence = hits.area(sign, heads), hits.advantage(sign, heads), hits.area("confidence", heads)
    clauses = {
        f"AUROC is above .5: low end {area.low:.2f}": area.low > 0.5,
        f"it is above that of as many random heads: low end of the difference {better.low:+.2f}": better.low > 0,
    }
    return judged(
        f"activation predicts correctness ({sign})",
        hits.model,
        area,
        clauses,
        f"{len(heads)} random heads {area.value - better.value:.2f}; the model's own confidence {confidence.value:.2f} "
        f"[{confidence.low:.2f}, {confidence.high:.2f}]; {hits.right.sum()} of {len(hits.right)} answers right",
    )


def ordering(curves: Mapping[str, AblationCurve], k: int, measure: Measure = "recall") -> Claim:
    """Whether tasks lose the less without the top k heads the further down they stand (the paper's sections 4.2, 4.3).

    Args:
        curves: of each task, in the order that is claimed; the paper's: needle, extractive QA, chain of thought,
            direct, closed-book.

    Raises:
        ValueError: fewer than two tasks, or no such k.
    """
    if len(curves) < 2:
        raise ValueError("an order needs two tasks or more")
    drop = {task: curve.contrast(k, measure) for task, curve in curves.items()}
    clauses = {}
    for more, less in pairwise(drop):
        gap = difference(drop[more], drop[less])
        clauses[f"{more} loses more than {less}: {gap.value:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]"] = gap.low > 0
    first, *_, last = drop
    curve = curves[first]
    return judged(
        f"order of what {k} heads are needed for",
        curve.model,
        difference(drop[first], drop[last]),
        clauses,
        f"drops beyond those without {k} {curve.controls[0]} others ({curve.draws} draws): "
        + ", ".join(f"{task} {x.value:.2f} [{x.low:.2f}, {x.high:.2f}]" for task, x in drop.items()),
    )


def suffices(curve: CacheCurve, full: int) -> Claim:
    """Whether a cache that keeps everything for `full` key-value heads only is enough (the paper's section 5).

    Raises:
        ValueError: this cache, or the whole one, was not tried.
    """
    whole = curve.level(RETRIEVAL, curve.size.groups).value
    kept, control, gain = curve.level(RETRIEVAL, full), curve.level(RANDOM, full), curve.gain(full)
    clauses = {
        f"recall stays above {KEPT:.0%} of {whole:.2f}: low end {kept.low:.2f}": kept.low > KEPT * whole,
        f"more is left than with random ones: low end of the difference {gain.low:+.2f}": gain.low > 0,
    }
    return judged(
        f"a cache for {full} of {curve.size.groups} key-value heads suffices",
        curve.model,
        kept,
        clauses,
        f"{full} random ones in full {control.value:.2f} [{control.low:.2f}, {control.high:.2f}], {curve.draws} draws; "
        f"{curve.share(full):.0%} of the bytes",
    )


def detects(found: Detection) -> Claim:
    """Whether answers that nothing in the prompt supports are told by their lack of copying."""
    area, better, random = found.area(), found.advantage(), found.control_area()
    precision, recall = found.precision(), found.recall()
    clauses = {
        f"AUROC is above .8: low end {area.low:.2f}": area.low > 0.8,
        f"it is above that of as many random heads: low end of the difference {better.low:+.2f}": better.low > 0,
    }
    return judged(
        "made-up answers lack support",
        found.model,
        area,
        clauses,
        f"{len(found.heads)} random heads {random.value:.2f} [{random.low:.2f}, {random.high:.2f}]; at support below "
        f"{found.threshold:g}, precision {precision.value:.2f} [{precision.low:.2f}, {precision.high:.2f}], recall "
        f"{recall.value:.2f} [{recall.low:.2f}, {recall.high:.2f}]",
    )
