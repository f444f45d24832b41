"""How much of the needle an answer holds."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rhlens.tasks.ask import Ask

_WORD = re.compile(r"[^\W_]+")
# Scripts written without spaces: every character is a word.
_UNSPACED = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0eff])")


class _Words:
    """ROUGE words of any script: as rouge-score splits and stems ASCII text, and letters beyond ASCII kept.

    rouge-score's own tokenizer keeps a-z and 0-9 only, so that a Russian needle scores 0 against itself.
    """

    def __init__(self) -> None:
        from rouge_score.tokenizers import DefaultTokenizer

        self._ascii = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        words = _WORD.findall(_UNSPACED.sub(r" \1 ", text.lower()))
        return [stem for word in words for stem in (self._ascii.tokenize(word) if word.isascii() else [word])]


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1"], tokenizer=_Words())


def rouge1_recall(answer: str, output: str) -> float:
    """Share (0..1) of the answer's words that the output holds: ROUGE-1 recall, stemmed, as the paper measures it."""
    return float(_scorer().score(answer, output)["rouge1"].recall)


def exact_match(answer: str, output: str) -> bool:
    """Whether the output is the answer, but for case, spacing and the punctuation around it."""
    return _plain(output) == _plain(answer)


def judge(ask: Ask, output: str) -> dict[str, Any]:
    """The columns every table of answers has: `output`, `recall` (ROUGE-1, 0..1) and `exact`."""
    said = ask.said(output)
    return {"output": output, "recall": rouge1_recall(ask.answer, said), "exact": exact_match(ask.answer, said)}


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .,;:!?\"'«»“”")
