"""Everything a model card reports: skills, retrieval heads, and what is lost without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from rhlens.measure.ablate import DRAWS, ablate, possible_controls
from rhlens.measure.skills import Skills, skills
from rhlens.results.controls import Control
from rhlens.results.curves import AblationCurve
from rhlens.results.heads import Head
from rhlens.results.scores import HeadScores
from rhlens.tasks.ask import Ask
from rhlens.tasks.prompts import CHAIN, CLOSED_BOOK, DIRECT, closed_book_prompts, problem_prompts
from rhlens.tasks.trials import niah

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

NEEDLES = "needle"
MATCHED: Control = "layer-matched"


@dataclass(frozen=True)
class Effort:
    """How much is asked; the defaults take some minutes a model on one core."""

    needles: int = 28
    depths: int = 5
    problems: int = 100
    facts: int | None = None  # all
    ablated_needles: int = 21  # needles before depths: what one more depth adds to a needle is little
    ablated_depths: int = 1
    ablated_prompts: int = 40
    draws: int = DRAWS
    prompt_draws: int = 10
    ngram_chars: int = 4_000_000
    documents: int = 60


@dataclass(frozen=True, eq=False)
class Profile:
    """What a model can do, which heads retrieve, and what is lost without them.

    Attributes:
        curves: dose curves by task: needle, closed-book, direct, chain of thought; empty without retrieval heads.
        unmatched: why there is no layer-matched control, of some task; empty where there is one.
    """

    skills: Skills
    heads: list[Head]
    curves: dict[str, AblationCurve] = field(repr=False)
    unmatched: str = ""

    @property
    def frequencies(self) -> pd.DataFrame:
        """Share of trials in which each retrieval head copied something: one row a head, one column a needle kind."""
        return activation_by_kind(self.skills.scores, self.heads)


def profile(
    model: TransformerBridge,
    lengths: Sequence[int] = (256, 512),
    chat: bool = False,
    effort: Effort | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Profile:
    """Measure a model of the zoo.

    Needles are asked at all `lengths`, everything else at the shortest. Ablation sets a head's output to zero, in the
    prompt and in the answer; controls are random heads, and heads of the same layers where there are enough.

    Raises:
        ValueError: a prompt does not fit the model.
    """
    effort = effort or Effort()
    able = skills(
        model,
        lengths,
        effort.needles,
        effort.depths,
        effort.problems,
        effort.facts,
        effort.documents,
        effort.ngram_chars,
        chat,
        seed,
        progress,
    )
    found, first = able.scores.retrieval_heads(), min(lengths)
    if not found:
        return Profile(able, found, {})
    trials = niah(
        model, [first], effort.ablated_depths, needles=effort.ablated_needles, distractors=1, seed=seed + 1, chat=chat
    )
    n = effort.ablated_prompts
    tasks: dict[str, Sequence[Ask]] = {
        NEEDLES: trials,
        CLOSED_BOOK: closed_book_prompts(model, n, first, seed, chat=chat),
        DIRECT: problem_prompts(model, n, first, False, seed, chat),
        CHAIN: problem_prompts(model, n, first, True, seed, chat),
    }
    curves, unmatched = {}, ""
    for task, asks in tasks.items():
        doses = [k for k in (1, 2, 4, 8) if k < len(found)] if task == NEEDLES else []
        draws = effort.draws if task == NEEDLES else effort.prompt_draws
        controls, why = possible_controls(model, able.scores, [*doses, len(found)])
        curves[task] = ablate(model, asks, able.scores, [*doses, len(found)], phase="both", control=controls,
                              draws=draws, seed=seed, progress=progress)  # fmt: skip
        unmatched = unmatched or why
    return Profile(able, found, curves, unmatched)


def activation_by_kind(scores: HeadScores, heads: Sequence[tuple[int, int]]) -> pd.DataFrame:
    """Share of trials (0..1) in which each of `heads` copied at least one token: one row a head, one column a kind."""
    active, kinds = scores.values > 0, scores.trials["kind"].to_numpy()[scores.counted]
    columns = {str(kind): active[kinds == kind].mean(axis=0) for kind in sorted(set(kinds))}
    return pd.DataFrame(
        {kind: [share[h] for h in heads] for kind, share in columns.items()}, index=list(map(str, heads))
    )
