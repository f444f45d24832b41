"""How much of the right answer an answer holds."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from rhlens.measure.errors import error_type
from rhlens.measure.words import numbered, squad_words, words
from rhlens.tasks.canonical import canonical

if TYPE_CHECKING:
    from rhlens.tasks.ask import Ask


_LEAD_IN = re.compile(
    r"^\W*(?:(?:the|my)\s+)?(?:(?:final|correct|right)\s+)?answer(?:\s+is\b\s*:?|\s*:)", re.IGNORECASE
)


class _Words:
    """`words`, as rouge-score wants it."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1"], tokenizer=_Words())


def rouge1_recall(answer: str, output: str) -> float:
    """Share (0..1) of the answer's words that the output holds: ROUGE-1 recall, stemmed, as the paper measures it."""
    return float(_scorer().score(answer, output)["rouge1"].recall)


def exact_match(answer: str, output: str) -> bool:
    """Whether the output is the answer, but for case, spacing and the punctuation around it.

    "The answer is: X" holds X.
    """
    return _plain(answer) in (_plain(output), _plain(_LEAD_IN.sub("", output)))


def f1(answer: str, output: str) -> float:
    """Overlap (0..1) of the words of both, repeats counted, as SQuAD's script measures it; 1 where neither has any."""
    return _overlap(squad_words(answer), squad_words(output))


def f1_of(answer: str, output: str) -> float:
    """`f1`, but for an answer that is one letter (a choice) or a number: these are compared as such.

    SQuAD's script leaves articles, signs and points out: an empty answer would be A, and 75 would be .75.
    """
    number = numbered(answer)
    if len(answer.strip()) == 1 or number != canonical(answer) or number.isdecimal():
        return _overlap(squad_words(number, True), squad_words(numbered(output), True))
    return f1(answer, output)


def _overlap(answer: list[str], output: list[str]) -> float:
    wanted, found = Counter(answer), Counter(output)
    if not wanted or not found:
        return float(wanted == found)
    return 2 * (wanted & found).total() / (wanted.total() + found.total())


def judge(ask: Ask, output: str) -> dict[str, Any]:
    """The columns every table of answers has: `output`, `recall` (ROUGE-1, 0..1), `exact`, `f1` (0..1) and `error`.

    Each number is the best over all right answers; the `error` type is that of the answer that fits best. An answer
    without any word, like a plus sign, is recalled (1) if it is there exactly.
    """
    said = ask.said(output)
    fits = {
        answer: (
            rouge1_recall(answer, said) if words(answer) else float(exact_match(answer, said)),
            f1_of(answer, said),
        )
        for answer in ask.answers
    }
    nearest = max(fits, key=fits.__getitem__)
    return {
        "output": output,
        "recall": fits[nearest][0],
        "exact": any(exact_match(answer, said) for answer in ask.answers),
        "f1": max(overlap for _, overlap in fits.values()),
        "error": error_type(nearest, said, ask.text, ask.stated),
    }


def chance_recall(trials: pd.DataFrame) -> Float[np.ndarray, " trial"]:
    """ROUGE-1 recall (0..1) of each answer against another needle of its kind: what is right without looking.

    A kind with a single needle is held against another kind's.

    Args:
        trials: with `needle`, `kind`, `answer` and `output`; two needles at least, else all is nan.
    """
    known = trials.drop_duplicates("needle").sort_values(["kind", "needle"])
    other: dict[str, str] = {}
    for group in (*(group for _, group in known.groupby("kind") if len(group) > 1), known):
        if len(group) > 1:
            for needle, answer in zip(group["needle"], np.roll(group["answer"].to_numpy(), -1), strict=True):
                other.setdefault(needle, answer)
    pairs = zip(trials["needle"], trials["output"], strict=True)
    return np.array([rouge1_recall(other[needle], said) if other else np.nan for needle, said in pairs])


def _plain(text: str) -> str:
    spaced = " ".join(numbered(text).split())
    return spaced.strip(" .,;:!?\"'。、！？") or spaced  # what is all punctuation is not nothing
