"""When to stop asking: in which order trials say most soonest, and how sure the top heads are."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
import pandas as pd

from rhlens.results.scores import RETRIEVAL_THRESHOLD, HeadScores
from rhlens.tasks.trials import Trial

FEWEST_NEEDLES = 5
"""Fewer say nothing about how needles differ."""
RESAMPLES = 1000


def check_early_stop(confidence: float, trials: Sequence[Trial]) -> None:
    """Raise ValueError unless a run over `trials` can be stopped at `confidence`."""
    if not 0.5 <= confidence < 1:
        raise ValueError(f"stop_when_stable must be at least 0.5 and below 1, not {confidence}: take 0.95")
    if (n := len({trial.needle.statement for trial in trials})) < FEWEST_NEEDLES:
        raise ValueError(f"stop_when_stable compares at least {FEWEST_NEEDLES} needles, not {n}: ask about more")


def rounds(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Trials in rounds that ask about each needle once, each time at a length and depth of its own.

    Scores differ between needles more than between depths (Pearson .86 to .96 in the paper's released scores, where
    one depth more changes little), so needles come first.
    """
    of_needle: dict[str, list[Trial]] = defaultdict(list)
    for trial in sorted(trials, key=lambda t: (t.length, t.depth, t.tokens)):
        of_needle[trial.needle.statement].append(trial)
    for statement, own in of_needle.items():
        random.Random(f"rounds:{statement}").shuffle(own)
    return [[trial for trial in found if trial] for found in zip_longest(*of_needle.values())]


def stability(scores: HeadScores, k: int | None = None, seed: int = 0) -> float:
    """The least share of resamples in which a head of the top set is among as many top heads again.

    Needles are resampled, with all their trials. Heads that tie with one outside the set are not in it.

    Args:
        k: how many heads the set has; None takes all retrieval heads (mean score >= 0.1). If there are none: the share
            of resamples without any.
    """
    if len(set(scores.needles)) < FEWEST_NEEDLES:
        return 0.0
    codes = pd.factorize(np.array(scores.needles, dtype=object))[0]
    values = scores.values.reshape(len(codes), -1)
    sums = np.stack([np.bincount(codes, column) for column in values.T], axis=1)  # [needle, head]
    n = len(sums)
    picked = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES)
    means = (picked @ sums) / (picked @ np.bincount(codes))[:, None]
    top = scores.retrieval_heads() if k is None else scores.top(k)
    if not top:
        return float((means.max(1) < RETRIEVAL_THRESHOLD - 1e-9).mean())
    if len(top) == means.shape[1]:
        return 1.0
    first_outside = -np.partition(-means, len(top), axis=1)[:, len(top)]
    places = [head.layer * scores.n_heads + head.head for head in top]
    return float((means[:, places] > first_outside[:, None]).mean(0).min())
