"""A model's turn: the reasoning that it may begin with, and where its answer begins and ends."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import regex

Ended = Literal["end of turn", "end of line", "stop", "limit", "reasoning limit"]
"""Why an answer ended. `end of turn`: the model said so; `limit`: it had said as much as it may."""

REASONING = (
    r"\s*(?:"
    r"<think>.*?</think>"  # Qwen 3, DeepSeek R1, and most since
    r"|<thought>.*?</thought>|<seed:think>.*?</seed:think>"
    r"|\[THINK\].*?\[/THINK\]"  # Mistral
    r"|<\|START_THINKING\|>.*?<\|END_THINKING\|>(?:<\|START_RESPONSE\|>)?"  # Cohere
    r"|<\|channel>thought.*?<channel\|>"  # Gemma 4
    r"|(?:<\|start\|>assistant)?(?:<\|channel\|>(?!final).*?)?<\|channel\|>final\s*<\|message\|>"  # gpt-oss
    r")"
)
"""What comes before an answer, of the models whose templates are known: a regular expression (package `regex`)."""
MAX_REASONING_TOKENS = 2048
_ANNOUNCED = regex.compile(r"[^\n\r]*:[\s*_]*[\n\r]\s*")
_LINE_END = regex.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")  # as str.splitlines has them


@dataclass(frozen=True)
class Turn:
    """How what a model says is read.

    Args:
        reasoning: a regular expression for what comes before the answer, matched from the beginning of the turn;
            empty where nothing does.
        opened: what of the turn stands in the prompt already (a template may open the reasoning itself).
        stop: texts that end an answer. Without any, it ends with its first line; leading blank lines do not end it.
        announced: nor does a first line that ends with a colon, as "The code of the bell is:" does.
        max_reasoning_tokens: tokens that the model may reason for; the answer has a limit of its own.

    Raises:
        ValueError: `reasoning` is no regular expression, a stop text is empty, or there is no room to reason.
    """

    reasoning: str = ""
    opened: str = ""
    stop: tuple[str, ...] = ()
    announced: bool = False
    max_reasoning_tokens: int = MAX_REASONING_TOKENS

    def __post_init__(self) -> None:
        _compiled(self.reasoning)
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            raise ValueError(f"stop must hold texts that are not empty, not {self.stop!r}")
        if self.max_reasoning_tokens < 1:
            raise ValueError(f"max_reasoning_tokens must be at least 1, not {self.max_reasoning_tokens}")

    def answer_start(self, said: str) -> int | None:
        """Where in what was said the answer begins; None as long as that may still be reasoning."""
        if not self.reasoning:
            return 0
        found = _compiled(self.reasoning).match(self.opened + said, partial=True)
        if found is None:
            return 0
        return None if found.partial else max(0, found.end() - len(self.opened))

    def answer_end(self, answer: str) -> tuple[int, Ended] | None:
        """Where an answer ends, and why; None if it may go on."""
        if self.stop:
            places = [place for text in self.stop if (place := answer.find(text)) >= 0]
            return (min(places), "stop") if places else None
        start = len(answer) - len(answer.lstrip())
        if self.announced and (first := _ANNOUNCED.match(answer, start)):
            start = first.end()
        line = _LINE_END.search(answer, start)
        return (line.start(), "end of line") if line else None

    def output(self, answer: str) -> str:
        """An answer up to its end, without space around it; on one line, unless texts end it."""
        end = self.answer_end(answer)
        text = answer[: end[0] if end else None].strip()
        return text if self.stop else " ".join(line.strip() for line in text.splitlines() if line.strip())


def opened_turn(reasoning: str, prompt: str) -> str:
    """What of a model's reasoning the end of a prompt has begun already."""
    at = 0
    while reasoning and (found := _compiled(reasoning).search(prompt, at, partial=True)):
        if found.partial:
            return prompt[found.start() :]
        at = max(found.end(), at + 1)
    return ""


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> regex.Pattern[str]:
    try:
        return regex.compile(pattern, regex.DOTALL)
    except regex.error as error:
        raise ValueError(f"reasoning must be a regular expression, and {pattern!r} is none ({error})") from None


FIRST_LINE = Turn()
"""An answer is what is said, up to the end of its first line."""
