"""Words of any script, as ROUGE counts them."""

from __future__ import annotations

import string
import unicodedata
from functools import cache, lru_cache
from typing import Any

import regex

from rhlens.tasks.canonical import canonical
from rhlens.tasks.script import UNSPACED

# Letters and digits with their marks; in scripts without spaces every character with its marks is a word.
_CHARACTER, _LETTER = rf"[{UNSPACED}]\p{{M}}*", rf"[[\p{{L}}\p{{N}}]--[{UNSPACED}]]"
_WORD = regex.compile(rf"(?V1){_CHARACTER}|{_LETTER}(?:{_LETTER}|\p{{M}})*")
_UNSPACED = regex.compile(f"({_CHARACTER})")
# A sign stands at the beginning of a number, not between two things; a point has digits after it.
_NUMBER = regex.compile(
    r"(?<![\p{L}\p{N}.,)\]-])([+-]?)(\p{Nd}{1,3}(?:,\p{Nd}{3})+(?!\p{Nd})|\p{Nd}+)?(?:\.(\p{Nd}+))?(?![\p{L}\p{N}])"
)


def words(text: str) -> list[str]:
    """The words of a text: as rouge-score splits and stems ASCII text, and letters beyond ASCII kept, with their marks.

    rouge-score's own tokenizer keeps a-z and 0-9 only, so that a Russian needle scores 0 against itself. Texts are
    compared in their canonical form. In scripts without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan)
    a word is a character with its marks.
    """
    found = _WORD.findall(canonical(text))
    return [part for word in found for part in (_stemmed(word) if word.isascii() else (word,))]


def squad_words(text: str, articles: bool = False) -> list[str]:
    """The words of a text as SQuAD's script counts them: unstemmed, without punctuation and articles, in any script.

    Marks are taken out before the text is split: 1,234 and 1234 are the same word.

    Args:
        articles: keep them: the answer to a question may be A.
    """
    bare = "".join(c for c in canonical(text) if not _is_mark(c))
    return [word for word in _UNSPACED.sub(r" \1 ", bare).split() if articles or word not in {"a", "an", "the"}]


def numbered(text: str) -> str:
    """A text in its canonical form whose numbers are words: -5 is not 5, .75 is 0.75 and not 75, 1,234 is 1234."""
    return _NUMBER.sub(_as_word, canonical(text))


def _as_word(number: regex.Match[str]) -> str:
    sign, whole, part = number.groups()
    if not whole and not part:
        return number[0]
    value = (whole or "0").replace(",", "") + (f"point{part.rstrip('0')}" if part and part.rstrip("0") else "")
    return f"minus{value}" if sign == "-" else value


def _is_mark(char: str) -> bool:
    return char in string.punctuation or unicodedata.category(char).startswith("P")


@lru_cache(maxsize=100_000)
def _stemmed(word: str) -> tuple[str, ...]:
    return tuple(_ascii().tokenize(word))


@cache
def _ascii() -> Any:
    from rouge_score.tokenizers import DefaultTokenizer

    return DefaultTokenizer(use_stemmer=True)
