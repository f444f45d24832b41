"""What is odd about scores, with the reason: what to know before two files are compared."""

from __future__ import annotations

import numpy as np

from rhlens.results.head_tables import HeadList, KVHeadScores, Ranking
from rhlens.results.heads import Head
from rhlens.results.scores import HeadScores

_MADE_OF = ("needle", "length", "depth")


def anomalies(found: Ranking) -> list[str]:
    """What is odd about scores or published heads: one sentence each, the fact and then its reason or consequence."""
    if isinstance(found, HeadList):
        return [f"a list of {len(found)} heads without scores: only their order is known, and nothing of other heads"]
    said = _of_gates(found) if isinstance(found, KVHeadScores) else _of_trials(found)
    return [sentence for sentence in said if sentence]


def differences(a: Ranking, b: Ranking) -> list[str]:
    """Why two results may differ though the heads do not: one sentence each."""
    if isinstance(a, HeadList) or isinstance(b, HeadList):
        return ["at least one has no scores: only the heads at the top can be compared"]
    if isinstance(a, HeadScores) and isinstance(b, HeadScores):
        return _between_trials(a, b)
    if isinstance(a, KVHeadScores) and isinstance(b, KVHeadScores):
        return ["neither has trials: the correlation has no interval"]
    query, kv = (a, b) if isinstance(a, HeadScores) else (b, a)
    assert isinstance(query, HeadScores)
    assert isinstance(kv, KVHeadScores)
    return [
        f"{query.n_heads} query heads a layer against {kv.n_kv_heads} key-value heads: the best of the "
        f"{query.n_heads // kv.n_kv_heads} that share keys and values stands for them"
        if query.n_heads > kv.n_kv_heads
        else f"query heads against key-value heads: there are {kv.n_kv_heads} a layer of both, one for each",
        "retrieval scores against values that need not measure the same (DuoAttention's are gates that it trained)",
        "only one has trials: the interval is that of its trials alone",
    ]


def _of_trials(scores: HeadScores) -> list[str]:
    values, n = scores.values, scores.n_trials
    sentences = [_gate(scores)]
    if n == 0:
        return [*sentences, "no trial counts: no head has a score"]
    sentences += [_beyond_one(values), _silent(values, scores.gated)]
    if "needle" not in scores.trials:
        sentences += [
            _repeated(values),
            "trials carry no labels: those of one needle, which are alike, count as independent, so intervals are too "
            "narrow",
        ]
    return sentences


def _gate(scores: HeadScores) -> str:
    if scores.gated:
        return (
            f"only trials that passed the recall gate are there ({scores.n_trials}): failed ones do not lower the "
            "scores, and how many failed is not known"
        )
    if left_out := len(scores.trials) - scores.n_trials:
        return (
            f"{left_out} of {len(scores.trials)} trials do not count: under 'wu2024' failed ones (ROUGE-1 recall up "
            "to .5) do not lower the scores"
        )
    return ""


def _beyond_one(values: np.ndarray) -> str:
    above = values > 1 + 1e-9
    if not above.any():
        return ""
    sentence = (
        f"scores in {above.any((1, 2)).sum()} of {len(values)} trials exceed 1 (up to {values.max():.2f}): sums count "
        "every copy of a token, repeats too"
    )
    means = values.mean(0)
    heads = ", ".join(f"{Head(*map(int, h))} {means[tuple(h)]:.3f}" for h in np.argwhere(means > 1 + 1e-9)[:5])
    return sentence + (f"; so do means ({heads})" if heads else "")


def _silent(values: np.ndarray, gated: bool) -> str:
    silent = int((values == 0).all((1, 2)).sum())
    if not silent:
        return ""
    why = "answered, but with a needle that was not found in the prompt" if gated else "no head copied anything"
    return f"{silent} of {len(values)} trials score 0 in every head ({why}): no head can be active in all trials"


def _repeated(values: np.ndarray) -> str:
    """Unlabelled trials in which every one of many heads scores what it does in another cannot be told from copies."""
    active = values[values.any((1, 2))].reshape(-1, values[0].size)
    distinct = len(np.unique(active, axis=0))
    if distinct == len(active):
        return ""
    return (
        f"{len(active) - distinct} of {len(values)} trials equal another one in every head ({distinct} are distinct): "
        "if they are one trial counted again, intervals are too narrow"
    )


def _of_gates(table: KVHeadScores) -> list[str]:
    values = table.values
    highest, below = int((values == values.max()).sum()), int((values < 0).sum())
    return [
        f"{table.n_kv_heads} key-value heads a layer: which of the query heads that share one matters is not known",
        f"{below} of {values.size} values are below 0 (down to {values.min():.4f}): gates as they were trained, before "
        "they are cut off at 0"
        if below
        else "",
        f"{highest} of {values.size} values are the highest ({values.max():g}): "
        "which of them are at the top is unknown, and overlaps are means over all orders"
        if highest > 1
        else "",
    ]


def _between_trials(a: HeadScores, b: HeadScores) -> list[str]:
    sentences = []
    if a.protocol != b.protocol:
        sentences.append(
            f"protocols differ ({a.protocol}, {b.protocol}): a share of the answer's tokens in all trials, against "
            "copies per token, repeats too, in answered ones"
        )
    if a.protocol == b.protocol and a.gated != b.gated:
        sentences.append("only one is cut to answered trials by its file: of the other all trials are known")
    labels = [column for column in _MADE_OF if column in a.trials and column in b.trials]
    if a.n_trials != b.n_trials:
        sentences.append(f"trials differ: {a.n_trials} in the first, {b.n_trials} in the second")
    elif not labels:
        sentences.append(f"{a.n_trials} trials in each, but without labels it is unknown whether they are the same")
    elif a.trials.loc[a.counted, labels].to_dict("list") != b.trials.loc[b.counted, labels].to_dict("list"):
        sentences.append(f"trials differ: {a.n_trials} in each, but with other needles, lengths or depths")
    return sentences
