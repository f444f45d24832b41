"""What the zoo set out to show of each model, held against what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rhlens.measure.profile import NEEDLES, Profile
from rhlens.measure.skills import CHAIN, CLOSED_BOOK, DIRECT, QUESTION, RESTATED
from rhlens.results.curves import TOP

if TYPE_CHECKING:
    from rhlens.zoo.specs import NanoSpec

RANDOM = "random"


class Aim(NamedTuple):
    """What the zoo set out to show of a model, what was found, and whether that is it."""

    aim: str
    found: str
    met: bool


def aims_of(spec: NanoSpec, profile: Profile, total: int) -> list[Aim]:
    """Every aim of the zoo that concerns a model of this spec; `total` is its number of heads."""
    found = len(profile.heads)
    if spec.control:
        return [Aim("no retrieval head", f"{found} of {total}", found == 0)]
    sparse = Aim("retrieval heads are fewer than 10 % of heads", f"{found / total:.1%}", 0 < found < 0.1 * total)
    without = [*_causal_aims(profile), _dynamic_aim(profile)] if profile.heads else []
    return [*_skill_aims(profile), sparse, *without]


def _skill_aims(profile: Profile) -> list[Aim]:
    able, aims = profile.skills, []
    for skill, least in ((RESTATED, 0.95), (QUESTION, 0.85)):
        cells = [(by, group) for by in ("depth", "length") for group in set(able.asked(skill)[by])]
        worst, by, group = min((able.level(skill, **{by: group}).value, by, group) for by, group in cells)
        found = f"{able.level(skill)}; {worst:.2f} at {by} {group:g}"
        aims.append(Aim(f"{skill}: at least {least:.0%} at every depth and length", found, worst >= least))
    for skill, least in ((CLOSED_BOOK, 0.95), (CHAIN, 0.8), (DIRECT, 0.8)):
        level = able.level(skill)
        aims.append(Aim(f"{skill}: at least {least:.0%}", str(level), level.value >= least))
    found = f"{able.loss('model').value:.3f} against {able.loss('ngram').value:.3f} nats a token"
    aims.append(Aim("lower loss on its haystack English than a 5-gram model", found, able.gain.low > 0))
    return aims


def _causal_aims(profile: Profile) -> list[Aim]:
    needle, k = profile.curves[NEEDLES], len(profile.heads)
    whole, without = needle.level(TOP, 0, "exact"), needle.level(TOP, k, "exact")
    median = float(np.median(needle.matrix(RANDOM, k, "exact").mean(axis=1)))
    aims = [
        Aim(f"at most 20 % recall without the {k} retrieval heads", str(without), without.value <= 0.2),
        Aim(
            f"at least 85 % of it is left without {k} random heads (median draw)",
            f"{median:.2f} of {whole.value:.2f}",
            median >= 0.85 * whole.value > 0,
        ),
    ]
    for task in (CLOSED_BOOK, DIRECT):
        before, after = (profile.curves[task].level(TOP, n, "exact") for n in (0, k))
        found = f"{after.value:.2f} of {before.value:.2f}"
        aims.append(Aim(f"{task}: at least 90 % is left without them", found, after.value >= 0.9 * before.value > 0))
    chain = profile.curves[CHAIN]
    before, after, contrast = (
        chain.level(TOP, 0, "exact"),
        chain.level(TOP, k, "exact"),
        chain.contrast(k, "exact", RANDOM),
    )
    found = f"{after.value:.2f} of {before.value:.2f}; {contrast.value:.2f} below random heads"
    return [*aims, Aim(f"{CHAIN}: falls without them, more than without random heads", found, contrast.low > 0)]


def _dynamic_aim(profile: Profile) -> Aim:
    shares = profile.frequencies
    moving = shares[(shares.min(axis=1) < 0.5) & (shares.max(axis=1) > 0.9)]
    aim = "heads that fire in under 50 % of the trials of one kind and over 90 % of another"
    return Aim(aim, ", ".join(moving.index) or "none", len(moving) > 0)
