"""Trials beside their twins: with another answer of as many tokens in the needle, or without the needle."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rhlens.tasks.needles import KINDS, Needle, sample_needle
from rhlens.tasks.prompts import Prompt
from rhlens.tasks.trials import Trial

UNANSWERABLE = "unanswerable"
ATTEMPTS = 2000


@dataclass(frozen=True)
class Pair:
    """Two prompts that differ in the tokens of the needle's answer alone.

    Attributes:
        differs: the reply's positions at which the right token differs between the two.
    """

    clean: Trial
    corrupt: Trial

    def __post_init__(self) -> None:
        if len(self.clean.reply) != len(self.corrupt.reply) or not self.differs:
            raise ValueError("a pair needs two different answers of the same number of tokens")

    @property
    def differs(self) -> list[int]:
        both = zip(self.clean.reply, self.corrupt.reply, strict=True)
        return [i for i, (right, wrong) in enumerate(both) if right != wrong]


def pairs(model: Any, trials: Sequence[Trial], seed: int = 0) -> list[Pair]:
    """Each trial with a corrupt twin, whose answer is that of another needle of the same kind.

    Generated kinds draw a new answer; other needles take theirs from the other trials' needles.

    Raises:
        ValueError: no other answer has as many tokens, or the tokenizer cannot put one in its place.
    """
    tokenizer = getattr(model, "tokenizer", model)
    known = list(dict.fromkeys(trial.needle for trial in trials))
    return [Pair(trial, _corrupt(tokenizer, trial, known, seed)) for trial in trials]


def without_needle(model: Any, trials: Sequence[Trial]) -> list[Prompt]:
    """The prompt of each trial without its needle: it asks for what nobody said.

    Raises:
        ValueError: a prompt does not hold its needle's statement word for word.
    """
    tokenizer = getattr(model, "tokenizer", model)
    return [_without_needle(tokenizer, trial) for trial in trials]


def _without_needle(tokenizer: Any, trial: Trial) -> Prompt:
    before, stated, after = trial.text.partition(trial.needle.statement)
    if not stated:
        raise ValueError(f"the prompt does not hold its needle {trial.needle.statement!r}: take trials of `niah`")
    text = before + after.removeprefix(" ")
    # Whether special tokens stand before the text, as they do but for chat templates, shows in the trial itself.
    with_special = tuple(tokenizer(trial.text)["input_ids"])[: trial.length] == trial.tokens
    tokens = tokenizer(text, add_special_tokens=with_special)["input_ids"]
    while tokens[-1] == tokenizer.eos_token_id:  # the model is to go on
        tokens.pop()
    needle = trial.needle
    return Prompt(UNANSWERABLE, needle.question, needle.answer, tuple(tokens), trial.reply, trial.index, text)


def _corrupt(tokenizer: Any, trial: Trial, known: Sequence[Needle], seed: int) -> Trial:
    needle = trial.needle
    if _reply(tokenizer, needle, needle.answer) != trial.reply:
        raise ValueError(
            f"this tokenizer writes the answer {needle.answer!r} otherwise alone than in the haystack, so no other can "
            "take its place: use another needle"
        )
    for answer in _answers(needle, known, random.Random(f"corrupt:{seed}:{needle.statement}")):
        reply, lead = _reply(tokenizer, needle, answer), len(trial.reply) - len(trial.answer_tokens)
        fits = len(reply) == len(trial.reply) and reply[:lead] == trial.reply[:lead]
        if fits and reply != trial.reply and answer not in needle.cue:
            start, end = trial.reply_span
            tokens = (*trial.tokens[:start], *reply, *trial.tokens[end:])
            statement = needle.statement.replace(needle.answer, answer)
            return replace(trial, tokens=tokens, needle=replace(needle, statement=statement, answer=answer))
    raise ValueError(
        f"no other answer has as many tokens as {needle.answer!r}: give more needles of kind {needle.kind!r}, or "
        "needles with answers of equal length"
    )


def _answers(needle: Needle, known: Sequence[Needle], rng: random.Random) -> Iterator[str]:
    if needle.kind in KINDS:
        yield from (sample_needle(needle.kind, rng).answer for _ in range(ATTEMPTS))
    others = [other.answer for other in known if other != needle]
    yield from rng.sample(others, len(others))


def _reply(tokenizer: Any, needle: Needle, answer: str) -> tuple[int, ...]:
    """The tokens of an answer after the needle's cue."""
    cue = tokenizer(needle.cue, add_special_tokens=False)["input_ids"]
    whole = tokenizer(f"{needle.cue} {answer}", add_special_tokens=False)["input_ids"]
    return tuple(whole[len(cue) :]) if whole[: len(cue)] == cue else ()
