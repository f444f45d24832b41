"""What every question put to a model has in common, whether the context answers it or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from rhlens.tasks.turns import Turn


class Ask(Protocol):
    """A prompt with its right answer.

    Attributes:
        tokens: the prompt, special tokens included; `length` of them.
        text: the prompt as it was written.
        answer: what a right answer says.
        answers: all that counts as right, `answer` first.
        stated: what was said beside the answer (statement and question of the needle), whose words say nothing new.
        reply: the tokens that a model should go on with.
        draft: what a model that is right may say, for one pass to verify: the reply, and more.
        turn: how what follows the prompt is read.
        tokenizer: the fingerprint of the tokenizer that wrote it, empty if unknown.
        labels: one row of a table; `needle` is what makes asks alike.
    """

    @property
    def index(self) -> int: ...
    @property
    def tokens(self) -> tuple[int, ...]: ...
    @property
    def length(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def answer(self) -> str: ...
    @property
    def answers(self) -> tuple[str, ...]: ...
    @property
    def stated(self) -> str: ...
    @property
    def reply(self) -> tuple[int, ...]: ...
    @property
    def draft(self) -> tuple[int, ...]: ...
    @property
    def turn(self) -> Turn: ...
    @property
    def tokenizer(self) -> str: ...
    @property
    def labels(self) -> dict[str, Any]: ...

    def said(self, output: str) -> str:
        """The part of an output that answers."""
        ...


Asked = TypeVar("Asked", bound=Ask)


def told_apart(asks: Sequence[Asked]) -> list[Asked]:
    """`asks`, numbered by place if their own numbers do not tell them apart, as when two grids are put together."""
    if len({ask.index for ask in asks}) == len(asks):
        return list(asks)
    return [replace(ask, index=i) for i, ask in enumerate(asks)]  # pyright: ignore[reportArgumentType] (dataclasses)


def check_answers(question: str, answers: Sequence[str]) -> None:
    """Raise unless `answers` holds texts, one or more: a text alone would be taken for its letters."""
    if isinstance(answers, str) or not answers or not all(answer.strip() for answer in answers):
        raise ValueError(f"the question {question!r} needs a tuple of one or more answers, none of them empty")
