"""What rounding does to retrieval scores: one model answers the same trials in two number types, or on two paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from rhlens.measure.copying import retrieval_score
from rhlens.measure.detect import answer_limit, answers_of
from rhlens.model.engine import Engine
from rhlens.model.trace import Trace
from rhlens.results.heads import Head
from rhlens.results.scores import RETRIEVAL_THRESHOLD
from rhlens.tasks.ask import told_apart
from rhlens.tasks.spelling import exact_decoder
from rhlens.tasks.trials import Trial

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True, eq=False)
class Reading:
    """What a model answered to every trial, where each head looked meanwhile, and each head's mean retrieval score."""

    traces: list[Trace]
    scores: Float[np.ndarray, "layer head"]
    run: dict[str, str]

    @property
    def retrieving(self) -> Bool[np.ndarray, "layer head"]:
        return self.scores >= RETRIEVAL_THRESHOLD


def reading(model: TransformerBridge, trials: Sequence[Trial]) -> Reading:
    """Answer every trial greedily.

    Raises:
        ValueError: there are no trials.
    """
    if not trials:
        raise ValueError("there are no trials to run")
    engine, trials = Engine(model), told_apart(trials)
    found = {trial.index: trace for trial, trace in answers_of(engine, trials, answer_limit(trials))}
    traces = [found[trial.index] for trial in trials]
    decode = exact_decoder(engine.tokenizer)
    scores = [retrieval_score(trace, trial, decode) for trace, trial in zip(traces, trials, strict=True)]
    return Reading(traces, np.mean(scores, axis=0), engine.about)


def differences(exact: Reading, other: Reading) -> dict[str, Any]:
    """How far a reading of the same trials is from an exact one.

    Returns:
        heads, lost, gained: how many retrieve in the other one, and which do so in one of the two only;
        pearson: correlation of the score maps (nan where one is constant); largest: the largest difference of a score;
        moved, moved_retrieval: share of strongest positions that are others, of all heads and of the exact one's
            retrieval heads, while both had said the same; answers: share of answers that are others.
    """
    moved, parted = [], []
    for a, b in zip(exact.traces, other.traces, strict=True):
        n = min(len(a.tokens), len(b.tokens))
        same = [*(a.tokens[:n] == b.tokens[:n]).tolist(), False].index(False)
        parted.append(not np.array_equal(a.tokens, b.tokens))
        n_steps = min(same + 1, n)  # the step that parts them was still made of the same text
        moved.append(a.position[:n_steps] != b.position[:n_steps])
    steps = np.concatenate(moved)
    constant = min(np.ptp(exact.scores), np.ptp(other.scores)) == 0
    return {
        "heads": int(other.retrieving.sum()),
        "lost": _names(exact.retrieving & ~other.retrieving),
        "gained": _names(other.retrieving & ~exact.retrieving),
        "pearson": np.nan if constant else np.corrcoef(exact.scores.ravel(), other.scores.ravel())[0, 1],
        "largest": np.abs(exact.scores - other.scores).max(),
        "moved": steps.mean() if steps.size else np.nan,
        "moved_retrieval": steps[:, exact.retrieving].mean() if steps[:, exact.retrieving].size else np.nan,
        "answers": np.mean(parted),
    }


def _names(heads: Bool[np.ndarray, "layer head"]) -> str:
    return " ".join(str(Head(int(layer), int(head))) for layer, head in np.argwhere(heads))
