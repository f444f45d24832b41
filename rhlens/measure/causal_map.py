"""The causal map: the effect on the right answer of ablating each head of a model alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from rhlens.measure.asker import Asker
from rhlens.measure.detect import asked, bar_disabled
from rhlens.measure.workers import divisible
from rhlens.model.ablation import Method, Phase, check_ablation
from rhlens.model.engine import Engine
from rhlens.results.heads import Head
from rhlens.results.maps import CausalMap
from rhlens.results.share import Out
from rhlens.results.store import RunFolder, content_key
from rhlens.tasks.ask import Ask, told_apart

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@divisible
def causal_map(
    model: TransformerBridge,
    asks: Sequence[Ask],
    method: Method = "zero",
    phase: Phase = "both",
    seed: int = 0,
    out: Out | None = None,
    progress: bool | None = None,
) -> CausalMap:
    """Ablate every head alone, and measure what log-probability the right answer loses (nats per token).

    With `phase="decode"` all heads go on from one reading of the prompt; `prefill` and `both` read it anew for every
    head.

    Args:
        method, phase, seed: as in `ablate`.
        out: a run folder: finished effects are kept there, and are not measured again; or a share of it.

    Raises:
        ValueError: nothing to ask.
        InterventionError: an ablation did not act as it should; a head without any output is no error here.
        Unfinished: `out` is a share, and others are not done.
    """
    if not asks:
        raise ValueError("there are no trials to run")
    check_ablation(method, phase)
    engine, asks = Engine(model), told_apart(asks)
    asker = Asker(engine, asks, method, phase, seed)
    settings = asked(asks) | {"model": engine.name, "phase": phase, "method": method, "seed": seed} | engine.about
    store = RunFolder(out, "causal_map", settings) if out is not None else None
    conditions = [(), *((Head(layer, head),) for layer in range(engine.n_layers) for head in range(engine.n_heads))]
    todo = {(ask.index, heads): (heads, ask) for ask in asks for heads in conditions}
    with tqdm(total=len(conditions) * len(asks), desc="causal map", unit="pass", disable=bar_disabled(progress)) as bar:
        found = _log_probs(asker, todo, store, bar)
    shape = (len(asks), engine.n_layers, engine.n_heads)
    after = np.array([[found[ask.index, heads] for heads in conditions[1:]] for ask in asks]).reshape(shape)
    before = np.array([found[ask.index, ()] for ask in asks])
    trials = pd.DataFrame([ask.labels for ask in asks]).assign(logprob=before)
    return CausalMap(before[:, None, None] - after, trials, engine.name, method, phase, engine.about)


def _log_probs(
    asker: Asker,
    todo: dict[Any, tuple[tuple[Head, ...], Ask]],
    store: RunFolder | None,
    bar: tqdm[Any],
) -> dict[Any, float]:
    """Mean log-probability per token of the right reply, for every ask under every set of heads."""
    content: dict[Any, str] = {}
    found: dict[Any, float] = {}
    if store is not None:
        about = asker.key
        for key, (heads, ask) in todo.items():
            content[key] = content_key("effect", *about, heads, ask.tokens, ask.reply, asker.donor_key(ask))
        found = {key: store.records[c]["logprob"] for key, c in content.items() if c in store.records}
    bar.update(len(found))
    missing = [one for one in asker.mine(todo, store) if one[0] not in found]
    for keys, prefix in asker.prefixes(asker.asks, missing):
        for key, of_reply in zip(keys, asker.log_probs(prefix, [todo[key][1] for key in keys]), strict=True):
            record = {"logprob": round(float(of_reply.mean()), 6)}
            kept = store.append(content[key], record) if store is not None else record
            found[key] = kept["logprob"]
        bar.update(len(keys))
    if store is not None:
        records = store.finished(content.values())
        found = {key: records[c]["logprob"] for key, c in content.items()}
    return found
