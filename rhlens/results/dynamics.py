"""When heads fire: in which share of the trials, and for which needles, depths, lengths and parts of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from rhlens.results.association import PERMUTATIONS, association, holm, variance_shares
from rhlens.results.heads import Head
from rhlens.results.scores import RETRIEVAL_THRESHOLD, HeadScores

ALWAYS = 0.9
"""A head that surely fires in more than this share of trials is always on."""
ALWAYS_ON, DEPENDENT, UNDECIDED = "always on", "context-dependent", "undecided"
FACTORS = ("needle", "depth", "length")
POSITION = "position"
PLACES = ("first", "inner", "last")
"""Tokens of an answer: with the first it must be found, the others go on from there."""
_Z2 = 1.96**2


@dataclass(frozen=True, eq=False)
class Dynamics:
    """When the heads of a model fire. Without labels (published files) or retrieval heads all but the first are empty.

    Attributes:
        frequencies: of `frequencies`, all heads.
        rates, variance: of `rates` and `head_variance`, the retrieval heads.
        tests: of `fires_for`, the context-dependent heads.
    """

    frequencies: pd.DataFrame
    rates: pd.DataFrame
    tests: pd.DataFrame
    variance: pd.DataFrame
    labelled: bool

    def frame(self) -> pd.DataFrame:
        """One row a head: frequency, shares of variance, rates by level, and adjusted p-values by label."""
        found = self.frequencies
        if self.variance.empty:
            return found
        rates = self.rates.assign(column=self.rates["by"] + " " + self.rates["level"].astype(str))
        wide = [self.variance.add_prefix("variance ").rename(columns={"variance head": "head"})]
        wide.append(rates.pivot(index="head", columns="column", values="rate").reset_index())
        wide.append(self.tests.pivot(index="head", columns="by", values="adjusted").add_prefix("p ").reset_index())
        for table in wide:
            found = found.merge(table, on="head", how="left")
        return found


def dynamics_of(scores: HeadScores, permutations: int = PERMUTATIONS, seed: int = 0) -> Dynamics:
    """Everything that is known of when a model's heads fire.

    Raises:
        ValueError: not every needle was asked at every depth and length, or at one of each only.
    """
    table, heads = frequencies(scores), scores.retrieval_heads()
    labelled = {"kind", *FACTORS} <= set(scores.trials.columns)
    if not labelled or not heads:
        return Dynamics(table, pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), labelled)
    dependent = [h for h, activity in zip(heads, table["activity"], strict=False) if activity == DEPENDENT]
    tests = fires_for(scores, dependent, permutations, seed)
    return Dynamics(table, rates(scores, heads), tests, head_variance(scores, heads), labelled)


def frequencies(scores: HeadScores) -> pd.DataFrame:
    """One row a head, highest score first: score, activation frequency with its 95 % Wilson interval, and `activity`.

    A retrieval head is always on where the interval is above .9, context-dependent where it is below, else undecided;
    of other heads the column is empty. Trials that share a needle are alike: they count as fewer (`effective_trials`).
    """
    active, mean = (scores.values > 0).reshape(scores.n_trials, -1), scores.mean()
    share = active.mean(0)
    low, high = wilson(share, effective_trials(active, scores.needles, mean.ravel() >= RETRIEVAL_THRESHOLD - 1e-9))
    activity = np.select([low > ALWAYS, high < ALWAYS], [ALWAYS_ON, DEPENDENT], UNDECIDED)
    retrieving, rows = set(scores.retrieval_heads()), []
    for h in scores.ranked():
        i = h.layer * scores.n_heads + h.head
        cells = {"head": str(h), "score": mean[h], "frequency": share[i], "low": low[i], "high": high[i]}
        rows.append(cells | {"n": scores.n_trials, "activity": activity[i] if h in retrieving else ""})
    return pd.DataFrame(rows)


def wilson(share: Float[np.ndarray, " head"], n: Float[np.ndarray, " head"]) -> Float[np.ndarray, "low_high head"]:
    """Ends of Wilson's 95 % interval of shares of `n` independent trials."""
    middle = (share + _Z2 / (2 * n)) / (1 + _Z2 / n)
    half = np.sqrt(_Z2 * (share * (1 - share) / n + _Z2 / (4 * n**2))) / (1 + _Z2 / n)
    return np.stack([np.maximum(0, middle - half), np.minimum(1, middle + half)])


def effective_trials(
    active: Bool[np.ndarray, "trial head"], clusters: Sequence[object], of: Bool[np.ndarray, " head"] | None = None
) -> Float[np.ndarray, " head"]:
    """How many independent trials these are worth, head by head: trials over the design effect of their clusters.

    The design effect is the head's own, but at least that of all heads `of` together: a head that always fires does
    not show how alike its trials are. Where no head shows it, a cluster counts as one trial.
    """
    codes = pd.factorize(np.asarray(clusters, dtype=object))[0]
    n, sizes = len(codes), np.bincount(codes)
    if len(sizes) == n:
        return np.full(active.shape[1], float(n))
    if len(sizes) == 1:
        return np.ones(active.shape[1])
    share = active.mean(0)
    sums = np.stack([np.bincount(codes, column) for column in active.T.astype(float)])
    robust = ((sums - share[:, None] * sizes) ** 2).sum(1) * len(sizes) / (len(sizes) - 1) / n**2
    plain = share * (1 - share) / n
    shows = plain > 0 if of is None else (plain > 0) & of
    pooled = robust[shows].sum() / plain[shows].sum() if shows.any() else n / len(sizes)
    own = robust / np.where(plain > 0, plain, 1)
    return n / np.maximum(max(1.0, float(pooled)), own)


def rates(scores: HeadScores, heads: Sequence[tuple[int, int]]) -> pd.DataFrame:
    """How often each head fires for each kind, depth, length and place in the answer: head, by, level, n, rate.

    Of a place in the answer, the rate is the share of its tokens that the head copied, in answers that were right. `n`
    counts trials; of a place, tokens.

    Raises:
        ValueError: the trials carry no labels (published files).
    """
    _check_labels(scores)
    heads, rows = [Head(*h) for h in heads], []
    labels, active = scores.trials.loc[scores.counted], _columns(scores.values > 0, heads)
    copied, _, places = answer_positions(scores, heads)
    levels = [(by, active, labels[by].to_numpy(), sorted(set(labels[by]))) for by in ("kind", "depth", "length")]
    levels.append((POSITION, copied, np.array(places, dtype=object), [p for p in PLACES if p in places]))
    for by, values, of_row, known in levels:
        for level in known:
            at = of_row == level
            rate = values[at].mean(0)
            about = {"by": by, "level": level, "n": int(at.sum())}
            rows += [{"head": str(h), **about, "rate": rate[i]} for i, h in enumerate(heads)]
    return pd.DataFrame(rows)


def fires_for(
    scores: HeadScores, heads: Sequence[tuple[int, int]], permutations: int = PERMUTATIONS, seed: int = 0
) -> pd.DataFrame:
    """Whether a head's firing goes with what the trial was: one row a head and label, with a permutation test.

    Labels are permuted where they could have been dealt otherwise: needles within depth and length; kinds over needles;
    depths, and lengths, within all else; places in the answer by turning each needle's round. A label of one level has
    no row.

    Returns:
        head, by, share (eta squared, 0..1), p, and `adjusted`, the p-values adjusted for all rows (Holm).

    Raises:
        ValueError: the trials carry no labels (published files).
    """
    _check_labels(scores)
    heads, rows = [Head(*h) for h in heads], []
    labels = scores.trials.loc[scores.counted].reset_index(drop=True)
    active = _columns(scores.values > 0, heads).astype(float)
    firsts = labels.loc[~labels["needle"].duplicated()]
    of_needle = np.stack([active[labels["needle"] == needle].mean(0) for needle in firsts["needle"]])
    copied, needles, places = answer_positions(scores, heads)
    tests = [
        ("needle", active, labels["needle"], _joined(labels, "depth", "length"), False),
        ("kind", of_needle, firsts["kind"], None, False),
        ("depth", active, labels["depth"], _joined(labels, "needle", "length"), False),
        ("length", active, labels["length"], _joined(labels, "needle", "depth"), False),
        (POSITION, copied, places, needles, True),
    ]
    for by, values, levels, blocks, shift in tests:
        if len(set(levels)) > 1:
            share, p = association(values, list(levels), blocks, shift, permutations, seed)
            rows += [{"head": str(h), "by": by, "share": share[i], "p": p[i]} for i, h in enumerate(heads)]
    found = pd.DataFrame(rows, columns=["head", "by", "share", "p"])
    return found.assign(adjusted=holm(found["p"].to_numpy()))


def head_variance(scores: HeadScores, heads: Sequence[tuple[int, int]]) -> pd.DataFrame:
    """Share (0..1) of the variance of each head's trial scores that goes with needle, depth and length: one row a head.

    Raises:
        ValueError: the trials carry no labels, or not every needle was asked at every depth and length.
    """
    _check_labels(scores)
    labels = scores.trials.loc[scores.counted]
    parts = variance_shares(
        _columns(scores.values, [Head(*h) for h in heads]), {factor: list(labels[factor]) for factor in FACTORS}
    )
    return pd.DataFrame(parts.T, columns=[*FACTORS, "residual"]).assign(head=[str(Head(*h)) for h in heads])


def answer_positions(
    scores: HeadScores, heads: Sequence[Head]
) -> tuple[Float[np.ndarray, "token head"], list[object], list[str]]:
    """For every token of every needle's answer: in which share of its right answers each head copied it.

    Also returns the tokens' needles and `PLACES`; nothing where copy events or answers are not known.
    """
    if scores.copies is None or "exact" not in scores.trials:
        return np.zeros((0, len(heads))), [], []
    trials = scores.trials.reset_index(drop=True)
    right = trials.loc[scores.counted & trials["exact"].to_numpy(dtype=bool)]
    by_needle = right.groupby(["needle", "answer_tokens"], sort=False)
    sizes = by_needle.size()
    names, tokens = (sizes.index.get_level_values(i).tolist() for i in (0, 1))
    start = np.cumsum([0, *tokens])
    group, column = np.full(len(trials), -1), np.full((scores.n_layers, scores.n_heads), -1)
    group[right.index] = by_needle.ngroup()
    for i, h in enumerate(heads):
        column[h] = i
    row, _, layer, head, token = scores.copies.T
    found = np.unique(np.stack([row, group[row], token, column[layer, head]]), axis=1)  # a token counts once a trial
    _, of, token, at = found[:, (found[1] >= 0) & (found[3] >= 0)]
    copied = np.zeros((start[-1], len(heads)))
    np.add.at(copied, (start[of] + token, at), 1 / sizes.to_numpy()[of])
    places = [PLACES[0 if i == 0 else 2 if i == n - 1 else 1] for n in tokens for i in range(n)]
    return copied, [name for name, n in zip(names, tokens, strict=True) for _ in range(n)], places


def _columns(values: np.ndarray, heads: Sequence[Head]) -> np.ndarray:
    """[trial, layer, head] -> [trial, one of `heads`]."""
    return values[:, [h.layer for h in heads], [h.head for h in heads]]


def _joined(labels: pd.DataFrame, *columns: str) -> list[object]:
    return list(labels[list(columns)].itertuples(index=False, name=None))


def _check_labels(scores: HeadScores) -> None:
    if not {"kind", *FACTORS} <= set(scores.trials.columns):
        raise ValueError(
            "these trials carry no labels (kind, needle, depth, length), so what heads fire for is unknown"
        )
