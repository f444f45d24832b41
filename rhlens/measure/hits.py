"""What every head does while a trial is answered, well or badly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Bool

from rhlens.measure.copying import retrieval_score
from rhlens.measure.detect import answer_limit, answers_of
from rhlens.measure.recall import judge
from rhlens.model.engine import Engine
from rhlens.model.trace import Trace
from rhlens.results.hits import Hits
from rhlens.tasks.ask import told_apart
from rhlens.tasks.spelling import exact_decoder
from rhlens.tasks.trials import Trial

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def hits(model: TransformerBridge, trials: Sequence[Trial], max_new_tokens: int | None = None) -> Hits:
    """Answer every trial greedily, and keep what each head copied, and where it looked before the first word.

    Give trials of which some are answered wrong, and take the heads to judge from other trials.

    Raises:
        ValueError: there are no trials.
    """
    if not trials:
        raise ValueError("there are no trials to run")
    engine, trials = Engine(model), told_apart(trials)
    found, decode = {}, exact_decoder(engine.tokenizer)
    for trial, trace in answers_of(engine, trials, max_new_tokens or answer_limit(trials)):
        said = judge(trial, trace.output)
        confidence = float(trace.logprob.mean()) if len(trace.logprob) else -np.inf
        row = trial.labels | said | {"confidence": confidence}
        found[trial.index] = row, retrieval_score(trace, trial, decode), _aimed(trace, trial)
    rows, copied, aimed = zip(*(found[trial.index] for trial in trials), strict=True)
    return Hits(pd.DataFrame(rows), np.stack(copied), np.stack(aimed), engine.name, engine.about)


def _aimed(trace: Trace, trial: Trial) -> Bool[np.ndarray, "layer head"]:
    """Which heads looked most at the needle's answer, or the space before it, as the first token was produced."""
    first = trace.position[:1]  # none where nothing was said
    return np.any((first >= trial.reply_span[0]) & (first < trial.answer_span[1]), axis=0)
