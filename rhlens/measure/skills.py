"""What a model of the zoo can do: recall needles, know facts by heart, solve problems, and predict its English."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from rhlens.measure.detect import answer_limit, answers_of, detect
from rhlens.measure.ngram import NGram
from rhlens.measure.recall import judge
from rhlens.model.engine import Engine
from rhlens.results.scores import HeadScores
from rhlens.results.stats import Interval, mean_ci
from rhlens.tasks.ask import Ask
from rhlens.tasks.haystack import GeneratedHaystack
from rhlens.tasks.prompts import CHAIN, CLOSED_BOOK, DIRECT, closed_book_prompts, problem_prompts
from rhlens.tasks.trials import niah

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

RESTATED, QUESTION, BUNDLED = "needle, restated", "needle, question alone", "needle, hand-written"
SKILLS = (RESTATED, QUESTION, BUNDLED, CLOSED_BOOK, DIRECT, CHAIN)
HAYSTACK_TOKENS = 256
"""Length of the documents that losses are measured on."""


@dataclass(frozen=True, eq=False)
class Skills:
    """Every answer of a model, its losses, and its heads' scores on the restated needles.

    Attributes:
        answers: one row an ask: `skill`, the labels of the trial or prompt, `output`, `recall`, `exact`.
        losses: one row a document of held-out filler: `model` and `ngram`, in nats per token.
        ngram_tokens: what the n-gram model was counted on.
    """

    answers: pd.DataFrame = field(repr=False)
    losses: pd.DataFrame = field(repr=False)
    scores: HeadScores
    ngram_tokens: int

    def level(self, skill: str, **where: Any) -> Interval:
        """Share of exactly right answers with its 95 % interval over needles, where all columns are as given.

        Raises:
            ValueError: nothing of the kind was asked.
        """
        rows = self.asked(skill)
        for column, value in where.items():
            rows = rows.loc[rows[column] == value]
        if len(rows) == 0:
            raise ValueError(f"no answers of skill {skill!r} with {where}: there are {', '.join(SKILLS)}")
        return mean_ci(rows["exact"].to_numpy(dtype=float), list(rows["needle"]))

    def asked(self, skill: str) -> pd.DataFrame:
        """The answers of one skill."""
        return self.answers.loc[self.answers["skill"] == skill]

    def loss(self, predictor: str) -> Interval:
        """Mean loss in nats per token of the `model` or the `ngram` model, with its 95 % interval over documents."""
        return mean_ci(self.losses[predictor].to_numpy(dtype=float))

    @property
    def gain(self) -> Interval:
        """Loss of the n-gram model minus that of the model, paired by document; above 0 the model predicts better."""
        return mean_ci((self.losses["ngram"] - self.losses["model"]).to_numpy(dtype=float), lowest=-np.inf)

    def frame(self) -> pd.DataFrame:
        """One row a skill and `by` (all | length | kind | depth): share exactly right, its interval, n."""
        rows = []
        for skill in dict.fromkeys(self.answers["skill"]):
            rows.append({"skill": skill, "by": "all", "group": "", **self.level(skill)._asdict()})
            for by in ("length", "kind", "depth"):
                groups = sorted(set(self.asked(skill)[by].dropna()))
                rows += [
                    {"skill": skill, "by": by, "group": str(group), **self.level(skill, **{by: group})._asdict()}
                    for group in groups
                    if len(groups) > 1
                ]
        return pd.DataFrame(rows)


def skills(
    model: TransformerBridge,
    lengths: Sequence[int] = (256, 512),
    needles: int = 28,
    depths: int = 5,
    problems: int = 100,
    facts: int | None = None,
    documents: int = 60,
    ngram_chars: int = 4_000_000,
    chat: bool = False,
    seed: int = 0,
    progress: bool | None = None,
) -> Skills:
    """Ask a model of the zoo everything it was trained for, on what it was not trained on.

    Needles stand beside a distractor of the same kind, but for the hand-written ones.

    Args:
        lengths: of needle prompts, in tokens; all else is asked at the first of them.
        facts: closed-book facts to ask about; None asks about all.
        documents: of held-out filler, for the losses.
        ngram_chars: of generated filler that the 5-gram model is counted on.
        chat: ask through the tokenizer's chat template.

    Raises:
        ValueError: there is nothing to ask, or a prompt does not fit.
    """
    first = min(lengths)
    grid: dict[str, Any] = {"needles": needles, "distractors": 1, "seed": seed, "chat": chat}
    restated = niah(model, lengths, depths, **grid)
    scores = detect(model, restated, progress=progress)
    asks: dict[str, Sequence[Ask]] = {
        QUESTION: niah(model, lengths, depths, **grid, restate=False),
        BUNDLED: niah(model, [first], depths, chat=chat, seed=seed),
        CLOSED_BOOK: closed_book_prompts(model, facts, first, seed, chat=chat),
        DIRECT: problem_prompts(model, problems, first, False, seed, chat),
        CHAIN: problem_prompts(model, problems, first, True, seed, chat),
    }
    tables = [scores.trials.assign(skill=RESTATED)]
    tables += [answers(model, asked).assign(skill=skill) for skill, asked in asks.items()]
    losses, n = haystack_losses(model, documents, ngram_chars, seed)
    return Skills(pd.concat(tables, ignore_index=True), losses, scores, n)


def answers(model: TransformerBridge, asks: Sequence[Ask]) -> pd.DataFrame:
    """Greedy answers, one row an ask: its labels, `output`, `recall` and `exact`."""
    engine, rows = Engine(model), {}
    for ask, trace in answers_of(engine, asks, answer_limit(asks)):
        rows[id(ask)] = ask.labels | judge(ask, trace.output)
    return pd.DataFrame([rows[id(ask)] for ask in asks])  # batches come in an order of their own


@torch.inference_mode()
def haystack_losses(
    model: TransformerBridge, documents: int = 60, ngram_chars: int = 4_000_000, seed: int = 0
) -> tuple[pd.DataFrame, int]:
    """Loss (nats per token) on held-out generated filler of the model and of a 5-gram model, one row a document.

    Also returns the number of tokens that the 5-gram model was counted on: other filler of the same making.
    """
    engine = Engine(model)
    tokenizer, bos = engine.tokenizer, engine.tokenizer.bos_token_id

    def document(name: str, chars: int) -> list[int]:
        return [bos, *tokenizer(GeneratedHaystack(name).text(chars), add_special_tokens=False)["input_ids"]]

    counted = (document(f"counted:{seed}:{i}", 100_000) for i in range(max(1, ngram_chars // 100_000)))
    ngram = NGram(counted, len(tokenizer))
    held_out = [document(f"held out:{seed}:{i}", 8 * HAYSTACK_TOKENS)[:HAYSTACK_TOKENS] for i in range(documents)]
    rows = []
    for batch in (held_out[i : i + 16] for i in range(0, documents, 16)):
        tokens = torch.tensor(batch, device=engine.device)
        logits = engine.model(tokens)[:, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        for ids, loss in zip(batch, losses.view(len(batch), -1).mean(1).tolist(), strict=True):
            rows.append({"model": loss, "ngram": float(ngram.losses(ids).mean())})
    return pd.DataFrame(rows), ngram.n_tokens
