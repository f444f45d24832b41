"""Property 5, causal: without its retrieval heads a model cannot recall the needle; without as many others it can."""

from __future__ import annotations

from rhlens.claims.claim import Claim, judged
from rhlens.results.curves import TOP, AblationCurve

RETRIEVES, DESTROYED, KEPT = 0.5, 0.5, 0.85


def causal(curve: AblationCurve, k: int | None = None) -> Claim:
    """The causal property at `k` ablated heads (the curve's largest by default).

    The paper finds recall below .5 with the top heads masked and about .8 or more with random heads. Here each is
    taken relative to the unablated model, which must itself recall more than half, and the paired difference must
    exclude 0: a model that hardly retrieves, or one that any damage breaks, must not pass.

    Raises:
        ValueError: the curve has no such k, or only k = 0.
    """
    k = max(curve.ks) if k is None else k
    if k < 1 or k not in curve.ks:
        raise ValueError(f"the curve has no k = {k}: measured were {curve.ks}, of which one above 0 is needed")
    unablated = curve.level(TOP, 0)
    clean = unablated.value
    top, control, effect = curve.level(TOP, k), curve.level(curve.controls[0], k), curve.contrast(k)
    clauses = {
        f"unablated recall is above {RETRIEVES:g}: low end {unablated.low:.2f}": unablated.low > RETRIEVES,
        f"the top {k} leave less than {DESTROYED:.0%} of it ({DESTROYED * clean:.2f}): high end {top.high:.2f}": (
            top.high < DESTROYED * clean
        ),
        f"{k} {curve.controls[0]} others leave at least {KEPT:.0%} ({KEPT * clean:.2f}): {control.value:.2f}": (
            control.value >= KEPT * clean
        ),
        f"control minus top is above 0: low end {effect.low:.2f}": effect.low > 0,
    }
    return judged(
        "causal",
        curve.model,
        effect,
        clauses,
        f"recall {top.value:.2f} [{top.low:.2f}, {top.high:.2f}] without the top {k}, {control.value:.2f} "
        f"[{control.low:.2f}, {control.high:.2f}] without {k} others ({curve.controls[0]}, {curve.draws} draws), "
        f"permutation p = {curve.p_value(k):.2g} over needles, {curve.draw_p(k):.2g} over sets of heads",
    )
