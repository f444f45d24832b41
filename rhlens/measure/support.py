"""What stands behind a model's answers, and the watch that says so while anybody generates."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rhlens.measure.ablate import DRAWS
from rhlens.measure.detect import answer_limit, answers_of
from rhlens.measure.recall import judge
from rhlens.model.engine import Engine
from rhlens.model.watching import Monitor, watching
from rhlens.results.controls import control_sets
from rhlens.results.detection import Detection
from rhlens.results.heads import Head
from rhlens.results.scores import HeadScores
from rhlens.results.support import Support
from rhlens.tasks.ask import Ask, told_apart
from rhlens.tasks.pairs import without_needle
from rhlens.tasks.spelling import exact_decoder, pieces
from rhlens.tasks.trials import Trial

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
    asks: Sequence[Ask],
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
        texts = pieces(exact_decoder(engine.tokenizer), tokens)
        looks = (of_all[:, layers, numbers] for of_all in (trace.position, trace.weight))
        found[id(ask)] = Support(tokens, texts, ask.length, chosen, *looks)
    return [found[id(ask)] for ask in asks]


def detect_made_up(
    model: TransformerBridge,
    trials: Sequence[Trial],
    heads: HeadScores | Sequence[tuple[int, int]],
    draws: int = DRAWS,
    seed: int = 0,
) -> Detection:
    """Ask every trial with and without its needle, and tell by the support of `heads` which answers are made up.

    Take the heads from other trials, and trials without distractors: without its needle, a question about one of two
    like things is answered with the other one, which is wrong but not made up.

    Args:
        draws: sets of as many random heads, to compare with.

    Raises:
        ValueError: no trials, no head retrieves, or a head does not exist.
    """
    engine, trials = Engine(model), told_apart(trials)
    chosen = engine.check(_watched(heads))
    every = [(layer, head) for layer in range(engine.n_layers) for head in range(engine.n_heads)]
    sets = control_sets("random", chosen, chosen, engine.shape, draws, seed)
    rows, control = [], []
    for absent, asks in ((False, trials), (True, without_needle(model, trials))):
        for trial, ask, support in zip(trials, asks, supports(model, asks, every), strict=True):
            said = judge(ask, engine.text_of(support.tokens[ask.length :], ask.turn))
            rows.append(trial.labels | {"absent": absent} | said | {"support": _score(support.by(chosen))})
            control.append([_score(support.by(others)) for others in sets])
    return Detection(pd.DataFrame(rows), np.array(control).T, chosen, engine.name, run=engine.about)


def _score(support: Support) -> float:
    """No support where nothing was said."""
    return float(np.nan_to_num(support.score()))


def _watched(heads: HeadScores | Sequence[tuple[int, int]]) -> list[Head]:
    chosen = heads.retrieval_heads() if isinstance(heads, HeadScores) else [Head(*h) for h in heads]
    if not chosen:
        raise ValueError("there is no head to watch: no head scores 0.1 or more, or none was named")
    return chosen
