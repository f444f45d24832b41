"""Caches cut down to the retrieval heads: does a model still answer that keeps everything for these only?"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
from tqdm import tqdm

from rhlens.measure.ablate import DRAWS, Answers, Condition, Units, check_dose, doubling
from rhlens.measure.asker import Asker
from rhlens.measure.detect import answer_limit, asked, bar_disabled
from rhlens.measure.workers import divisible
from rhlens.model.ablation import Phase
from rhlens.model.engine import Engine
from rhlens.results.cache import RANDOM, RETRIEVAL, CacheCurve, CacheSize, Window
from rhlens.results.heads import Head
from rhlens.results.scores import HeadScores
from rhlens.results.share import Out
from rhlens.results.store import RunFolder
from rhlens.tasks.ask import Ask, told_apart

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@divisible
def cut_cache(
    model: TransformerBridge,
    asks: Sequence[Ask],
    scores: HeadScores,
    full: int | Sequence[int] | None = None,
    window: Window | None = None,
    phase: Phase = "decode",
    draws: int = DRAWS,
    seed: int = 0,
    max_new_tokens: int | None = None,
    out: Out | None = None,
    progress: bool | None = None,
) -> CacheCurve:
    """Answer everything asked while all but `full` key-value heads attend to a window only, as if the rest were gone.

    The retrieval heads are compared with as many random ones (the paper's section 5 suggests to keep the former). What
    a cut cache would hold is hidden from attention: answers are those of a real implementation, memory is computed.

    Args:
        scores: by which key-value heads are ranked, a group by its best query head.
        full: how many key-value heads keep everything, a number or several; None takes 0, powers of two, all, and as
            many as serve a retrieval head. The whole cache is always tried.
        window: what the others keep.
        phase: `decode` cuts once the prompt is read; `both` also while it is read, as heads trained for it could.
        draws: sets of random key-value heads, drawn from all.

    Raises:
        ValueError: nothing to ask, a number of heads that there are not, no draw, or a window that holds whole prompts.
        InterventionError: attention to what is gone was not taken away.
    """
    if phase not in ("decode", "both"):
        raise ValueError(f"phase must be decode or both, not {phase!r}: what a cache has dropped does not come back")
    check_dose([], draws)
    engine, window = Engine(model), window or Window()
    if not asks:
        raise ValueError("there are no trials to run")
    if min(window) < 0 or window.recent < 1:
        raise ValueError(f"a window keeps 0 or more first and 1 or more latest positions, not {tuple(window)}")
    if window.kept(longest := max(ask.length for ask in asks)) == longest:
        raise ValueError(
            f"a window of {sum(window)} positions holds prompts of {longest} tokens whole: choose a smaller one"
        )
    units = Units(engine, scores, "kv_group")
    size = CacheSize(*units.shape, int(engine.model.cfg.d_head), next(model.parameters()).element_size())
    chosen = (
        [*doubling(size.groups), len(units.retrieving)] if full is None else [full] if isinstance(full, int) else full
    )
    fulls = sorted({*chosen, size.groups})
    if fulls[0] < 0 or fulls[-1] > size.groups:
        raise ValueError(f"full must lie between 0 and the model's {size.groups} key-value heads, not {fulls}")
    asks = told_apart(asks)
    limit = max_new_tokens or answer_limit(asks)
    settings = asked(asks) | {"model": engine.name, "full": fulls, "window": window, "phase": phase, "draws": draws}
    store = RunFolder(out, "cut_cache", settings | {"seed": seed} | engine.about) if out is not None else None
    answers = Answers(Asker(engine, asks, "window", phase, seed, window=window), limit, store)
    conditions = _caches(units, fulls, draws, seed)
    with tqdm(
        total=len(conditions) * len(asks), desc="cut cache", unit="answer", disable=bar_disabled(progress)
    ) as bar:
        rows = pd.DataFrame(answers.rows(asks, conditions, bar.update)).rename(columns={"k": "full"})
    return CacheCurve(rows, size, window, units.ranked, len(units.retrieving), engine.name, phase, engine.about)


def _caches(units: Units, fulls: Sequence[int], draws: int, seed: int) -> list[Condition]:
    """Which query heads attend to a window only; `k` counts the key-value heads that do not."""

    def cut(name: str, order: Sequence[Head], draw: int) -> list[Condition]:
        return [Condition(name, n, draw, tuple(sorted(units.heads_of(order[n:])))) for n in fulls]

    rngs = [random.Random(f"cache:{seed}:{draw}") for draw in range(draws)]
    shuffled = [rng.sample(units.ranked, len(units.ranked)) for rng in rngs]
    return [
        *cut(RETRIEVAL, units.ranked, 0),
        *(c for draw, order in enumerate(shuffled) for c in cut(RANDOM, order, draw)),
    ]
