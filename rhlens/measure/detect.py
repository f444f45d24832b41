"""Retrieval scores: which heads copy the answer from the needle while the model answers (Eq. 1)."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64
from tqdm import tqdm

from rhlens.measure.recall import judge
from rhlens.model.engine import Engine, Trace
from rhlens.results.scores import HeadScores, Protocol, check_protocol
from rhlens.results.store import RunFolder, content_key
from rhlens.tasks.ask import Ask, Asked, told_apart
from rhlens.tasks.trials import Trial

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

MAX_NEW_TOKENS = 50
"""The paper's limit on an answer, in tokens."""
BATCH_TOKENS = 8192
"""Prompt tokens decoded side by side: enough to fill two cores, little enough for a laptop's memory."""


def detect(
    model: TransformerBridge,
    trials: Sequence[Trial],
    protocol: Protocol = "paper",
    max_new_tokens: int | None = None,
    out: str | Path | None = None,
    progress: bool | None = None,
) -> HeadScores:
    """Answer every trial greedily and score every head on what it copied from the needle.

    Failed trials stay, labelled; the result can be read under the other protocol with `.under`.

    Args:
        max_new_tokens: of an answer; None takes the paper's 50, or more where a needle's answer is longer.
        out: a run folder: finished trials are kept there, and are not run again.
        progress: show a progress bar; None shows it on a terminal only.

    Raises:
        ValueError: no trials, an unknown protocol, or `out` cannot be written to.
    """
    check_protocol(protocol)
    if not trials:
        raise ValueError("there are no trials to run")
    engine = Engine(model)
    trials, name = told_apart(trials), engine.name
    limit = max_new_tokens or answer_limit(trials)
    settings = asked(trials) | {"model": name, "protocol": protocol, "max_new_tokens": limit} | engine.about
    store = RunFolder(out, "detect", settings) if out is not None else None
    model_key = engine.fingerprint if store else ""
    keys = {t: content_key("trace", model_key, limit, t.tokens, t.answer_span, t.needle.answer) for t in trials}
    records = dict(store.records) if store else {}
    pending = [trial for trial in trials if keys[trial] not in records]
    if len(pending) < len(trials):
        print(f"{out}: {len(trials) - len(pending)} of {len(trials)} trials are there already", file=sys.stderr)
    with tqdm(total=len(pending), desc="detect", unit="trial", disable=bar_disabled(progress)) as bar:
        for batch in batches(pending):
            prefix = engine.prefill(torch.tensor([trial.tokens for trial in batch]))
            for trial, trace in zip(batch, engine.decode(prefix, limit), strict=True):
                records[keys[trial]] = record = _record(engine, trial, trace)
                if store:
                    store.append(keys[trial], record)
                bar.update()
    return _scores([records[keys[trial]] for trial in trials], trials, engine, name, protocol)


def asked(asks: Sequence[Ask]) -> dict[str, Any]:
    """What a run was asked, for its config file."""
    labels = [ask.labels for ask in asks]
    found = {"lengths": "length", "depths": "depth", "needles": "needle"}
    lists = {name: list(dict.fromkeys(row[key] for row in labels if key in row)) for name, key in found.items()}
    return {"trials": len(asks), **lists}


def answer_limit(asks: Sequence[Ask]) -> int:
    """Tokens an answer may have: the paper's 50, or as many as the longest right answer and a few more."""
    return max(MAX_NEW_TOKENS, 10 + max(len(ask.reply) for ask in asks))


def batches(asks: Iterable[Asked]) -> Iterator[list[Asked]]:
    """Prompts of equal length side by side, in order, about `BATCH_TOKENS` prompt tokens at a time."""
    for length, group in groupby(sorted(asks, key=lambda t: t.length), key=lambda t: t.length):
        same = list(group)
        size = max(1, BATCH_TOKENS // length)
        yield from (same[i : i + size] for i in range(0, len(same), size))


def copy_events(trace: Trace, trial: Trial) -> Bool[np.ndarray, "step layer head"]:
    """Where each head copied: the generated token is in the answer, and the head's argmax key holds it, in the needle.

    FACTS: token w generated; j = argmax of the head's attention row; j inside the needle's answer; x_j = w.
    """
    start, end = trial.answer_span
    prompt = np.asarray(trial.tokens)
    inside = (trace.position >= start) & (trace.position < end)
    looked_at = prompt[np.clip(trace.position, 0, len(prompt) - 1)]
    return inside & (looked_at == trace.tokens[:, None, None])


def set_score(
    events: Bool[np.ndarray, "step layer head"], tokens: Int64[np.ndarray, " step"], trial: Trial
) -> Float[np.ndarray, "layer head"]:
    """Share of the answer's set of tokens that each head copied at least once (Eq. 1): at most 1."""
    wanted = sorted(set(trial.answer_tokens))
    copied = [events[tokens == token].any(axis=0) for token in wanted]
    return np.mean(copied, axis=0)


def sum_score(events: Bool[np.ndarray, "step layer head"], trial: Trial) -> Float[np.ndarray, "layer head"]:
    """Copy steps per answer token, repeats counted (the reference code): can exceed 1."""
    return events.sum(axis=0) / len(trial.answer_tokens)


def _record(engine: Engine, trial: Trial, trace: Trace) -> dict[str, Any]:
    """What is kept of a trial: its output, and every copy event as [step, layer, head, position, weight]."""
    events = copy_events(trace, trial)
    return {
        "tokens": trace.tokens.tolist(),
        "copies": [
            [int(s), int(layer), int(h), int(trace.position[s, layer, h]), round(float(trace.weight[s, layer, h]), 6)]
            for s, layer, h in np.argwhere(events)
        ],
    } | judge(trial, engine.text_of(trace.tokens))


def _scores(
    records: list[dict[str, Any]], trials: Sequence[Trial], engine: Engine, name: str, protocol: Protocol
) -> HeadScores:
    """Both scores of every trial, rebuilt from the copy events."""
    sets, sums, rows = [], [], []
    for record, trial in zip(records, trials, strict=True):
        tokens = np.asarray(record["tokens"], dtype=np.int64)
        events = np.zeros((len(tokens), engine.n_layers, engine.n_heads), dtype=bool)
        for step, layer, head, *_ in record["copies"]:
            events[step, layer, head] = True
        sets.append(set_score(events, tokens, trial))
        sums.append(sum_score(events, trial))
        rows.append(trial.labels | {column: record[column] for column in ("output", "recall", "exact")})
    return HeadScores(np.stack(sets), np.stack(sums), pd.DataFrame(rows), name, protocol, run=engine.about)


def bar_disabled(progress: bool | None) -> bool | None:
    """tqdm's `disable`: None hides the bar where stderr is no terminal."""
    return None if progress is None else not progress
