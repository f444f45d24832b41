"""Dose curves: what recall is left when the top retrieval heads, or as many random other heads, are taken away."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import torch
from tqdm import tqdm

from rhlens.measure.detect import answer_limit, asked, bar_disabled, batches
from rhlens.measure.recall import judge
from rhlens.model.engine import Engine, Prefix
from rhlens.model.hooks import Ablation, Phase
from rhlens.results.curves import RANDOM, TOP, AblationCurve
from rhlens.results.heads import Head, random_control_sets
from rhlens.results.scores import HeadScores
from rhlens.results.store import RunFolder, content_key
from rhlens.tasks.trials import Trial, told_apart

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


class Condition(NamedTuple):
    """A set of heads to ablate: the top or a random one, its size, and which draw it is."""

    name: str
    k: int
    draw: int
    heads: tuple[Head, ...]


def ablate(
    model: TransformerBridge,
    trials: Sequence[Trial],
    heads: HeadScores | Sequence[tuple[int, int]],
    k: Sequence[int] | None = None,
    phase: Phase = "decode",
    controls: int = 5,
    seed: int = 0,
    max_new_tokens: int | None = None,
    out: str | Path | None = None,
    progress: bool | None = None,
) -> AblationCurve:
    """Answer every trial with the top-k heads' output set to zero, and with `controls` random sets of k other heads.

    Controls are seeded and disjoint from every top-k head; and, where scores are given, from all retrieval heads (mean
    score >= 0.1).

    Args:
        heads: scores, whose top heads are ablated, or the heads themselves, most important first: controls are then
            disjoint from these only, since nothing says which others retrieve.
        k: how many heads to ablate (`doses` if None); 0, the unablated model, is always measured.
        phase: `decode` ablates from the last prompt token on; `both` also while the prompt is read.
        max_new_tokens: of an answer; None takes the paper's 50, or more where a needle's answer is longer.
        out: a run folder: finished conditions are kept there, and are not run again.

    Raises:
        ValueError: a negative k, more heads than there are, no control, or scores of a model of another shape.
        InterventionError: an ablation changed nothing.
    """
    k = doses(heads) if k is None else k
    check_dose(k, controls)
    engine = Engine(model)
    conditions = _conditions(engine, heads, sorted({0, *k}), controls, seed)
    if not trials:
        raise ValueError("there are no trials to run")
    trials, name = told_apart(trials), engine.name
    max_new_tokens = max_new_tokens or answer_limit(trials)
    settings = asked(trials) | {"model": name, "k": list(k), "phase": phase, "method": "zero",
                "controls": controls, "seed": seed, "max_new_tokens": max_new_tokens} | engine.about  # fmt: skip
    store = RunFolder(out, "ablate", settings) if out is not None else None
    rows: list[dict[str, Any]] = []
    with tqdm(total=len(conditions) * len(trials), desc="ablate", unit="answer", disable=bar_disabled(progress)) as bar:
        for group in batches(trials):
            batch = _Batch(engine, group, phase, max_new_tokens, store)
            for condition in conditions:
                rows += batch.rows(condition)
                bar.update(len(group))
    return AblationCurve(pd.DataFrame(rows), name, "zero", phase, engine.about)


def doses(heads: HeadScores | Sequence[tuple[int, int]]) -> list[int]:
    """Numbers of heads to ablate: none, then doubling up to all retrieval heads (or all given heads)."""
    most = max(1, len(heads.retrieval_heads() if isinstance(heads, HeadScores) else heads))
    return sorted({0, most, *(2**i for i in range(most.bit_length()))})


def check_dose(k: Sequence[int], controls: int) -> None:
    """Raise ValueError for a negative number of heads, or no control."""
    if min(k, default=0) < 0:
        raise ValueError(f"k must be 0 or more, not {min(k)}")
    if controls < 1:
        raise ValueError(f"controls must be at least 1, not {controls}: an effect without a control shows nothing")


def _conditions(
    engine: Engine, heads: HeadScores | Sequence[tuple[int, int]], ks: list[int], controls: int, seed: int
) -> list[Condition]:
    if isinstance(heads, HeadScores) and (heads.n_layers, heads.n_heads) != (engine.n_layers, engine.n_heads):
        raise ValueError(
            f"these scores are of {heads.n_layers} x {heads.n_heads} heads, the model has {engine.n_layers} x "
            f"{engine.n_heads}: take scores of this model"
        )
    ranked = engine.check(heads.top(ks[-1]) if isinstance(heads, HeadScores) else heads)
    if ks[-1] > len(ranked):
        raise ValueError(f"k = {ks[-1]} asks for more heads than the {len(ranked)} there are: lower k")
    barred = {*ranked[: ks[-1]], *(heads.retrieval_heads() if isinstance(heads, HeadScores) else ranked)}
    sets = random_control_sets(barred, engine.n_layers, engine.n_heads, ks[-1], controls, seed)
    top = [Condition(TOP, k, 0, tuple(ranked[:k])) for k in ks]
    return top + [Condition(RANDOM, k, draw, tuple(s[:k])) for k in ks if k > 0 for draw, s in enumerate(sets)]


class _Batch:
    """Equally long trials, answered under one condition after another; one prefill serves all that leave it alone."""

    def __init__(
        self, engine: Engine, trials: list[Trial], phase: Phase, max_new_tokens: int, store: RunFolder | None
    ) -> None:
        self.engine, self.trials, self.store = engine, trials, store
        self.phase: Phase = phase
        self.max_new_tokens = max_new_tokens
        self.tokens = torch.tensor([trial.tokens for trial in trials])

    @cached_property
    def _clean(self) -> Prefix:
        return self.engine.prefill(self.tokens)

    def rows(self, condition: Condition) -> list[dict[str, Any]]:
        """One row a trial: the condition, the trial's labels, and its answer."""
        names = " ".join(map(str, condition.heads))
        about = {"heads": condition.name, "k": condition.k, "draw": condition.draw, "names": names}
        return [
            about | trial.labels | judge(trial, output)
            for trial, output in zip(self.trials, self._outputs(condition.heads), strict=True)
        ]

    def _outputs(self, heads: tuple[Head, ...]) -> list[str]:
        if self.store is None:
            return self._answer(heads)
        model, settings = self.engine.fingerprint, (self.phase, self.max_new_tokens)
        keys = [content_key("answer", model, settings, sorted(heads), trial.tokens) for trial in self.trials]
        if any(key not in self.store.records for key in keys):
            for key, output in zip(keys, self._answer(heads), strict=True):
                self.store.append(key, {"output": output})
        return [self.store.records[key]["output"] for key in keys]

    def _answer(self, heads: tuple[Head, ...]) -> list[str]:
        ablation = Ablation(heads, self.phase)
        prefix = self.engine.prefill(self.tokens, ablation) if ablation.heads_in("prefill") else self._clean
        return [self.engine.text_of(t.tokens) for t in self.engine.decode(prefix, self.max_new_tokens, ablation)]
