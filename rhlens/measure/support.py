"""What stands behind a model's answers, and the watch that says so while anybody generates."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np

from rhlens.measure.detect import answer_limit, answers_of
from rhlens.model.engine import Engine
from rhlens.model.watching import Monitor, watching
from rhlens.results.heads import Head
from rhlens.results.scores import HeadScores
from rhlens.results.support import Support
from rhlens.tasks.ask import Asked

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def watch(model: TransformerBridge, heads: HeadScores | Sequence[tuple[int, int]]) -> AbstractContextManager[Monitor]:
    """Watch retrieval heads while anybody generates with `model`, one text at a time.

        with rh.watch(model, scores) as monitor:
            model.generate(prompt, max_new_tokens=20)
        monitor.report          # in a notebook: the answer, coloured, each token linked to where it was copied from

    Args:
        heads: scores, whose retrieval heads (mean score >= 0.1) are watched, or the heads themselves.

    Raises:
        ValueError: no head retrieves, a head does not exist, or (while generating) several texts side by side.
    """
    return watching(model, _watched(heads))


def supports(
    model: TransformerBridge,
    asks: Sequence[Asked],
    heads: HeadScores | Sequence[tuple[int, int]],
    max_new_tokens: int | None = None,
) -> list[Support]:
    """What stands behind the greedy answer to each of `asks`, in their order; arguments as in `watch` and `detect`.

    Raises:
        ValueError: nothing to ask, no head retrieves, or a head does not exist.
    """
    if not asks:
        raise ValueError("there is nothing to ask")
    engine = Engine(model)
    chosen = engine.check(_watched(heads))
    layers, numbers = [h.layer for h in chosen], [h.head for h in chosen]
    found: dict[int, Support] = {}
    for ask, trace in answers_of(engine, asks, max_new_tokens or answer_limit(asks)):
        tokens = np.array([*ask.tokens, *trace.tokens.tolist()])
        texts = [engine.tokenizer.decode([int(token)]) for token in tokens]
        looks = (of_all[:, layers, numbers] for of_all in (trace.position, trace.weight))
        found[id(ask)] = Support(tokens, texts, ask.length, chosen, *looks)
    return [found[id(ask)] for ask in asks]


def _watched(heads: HeadScores | Sequence[tuple[int, int]]) -> list[Head]:
    chosen = heads.retrieval_heads() if isinstance(heads, HeadScores) else [Head(*h) for h in heads]
    if not chosen:
        raise ValueError("there is no head to watch: no head scores 0.1 or more, or none was named")
    return chosen
