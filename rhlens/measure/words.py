"""Words of any script, as ROUGE counts them."""

from __future__ import annotations

import re
import string
import unicodedata
from functools import cache, lru_cache
from typing import Any

_WORD = re.compile(r"[^\W_]+")
# Scripts written without spaces: every character is a word.
_UNSPACED = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0eff])")


def words(text: str) -> list[str]:
    """The words of a text: as rouge-score splits and stems ASCII text, and letters beyond ASCII kept.

    rouge-score's own tokenizer keeps a-z and 0-9 only, so that a Russian needle scores 0 against itself.
    """
    found = _WORD.findall(_UNSPACED.sub(r" \1 ", text.lower()))
    return [part for word in found for part in (_stemmed(word) if word.isascii() else (word,))]


def squad_words(text: str) -> list[str]:
    """The words of a text as SQuAD's script counts them: unstemmed, without punctuation and articles, in any script.

    Marks are taken out before the text is split: 1,234 and 1234 are the same word.
    """
    bare = "".join(c for c in text.lower() if not _is_mark(c))
    return [word for word in _UNSPACED.sub(r" \1 ", bare).split() if word not in {"a", "an", "the"}]


def _is_mark(char: str) -> bool:
    return char in string.punctuation or unicodedata.category(char).startswith("P")


@lru_cache(maxsize=100_000)
def _stemmed(word: str) -> tuple[str, ...]:
    return tuple(_ascii().tokenize(word))


@cache
def _ascii() -> Any:
    from rouge_score.tokenizers import DefaultTokenizer

    return DefaultTokenizer(use_stemmer=True)
