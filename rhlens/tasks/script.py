"""Scripts: which are written without spaces between words, and whether a text stands in another as words of its own."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

import regex

UNSPACED = (
    r"\p{Script=Thai}\p{Script=Lao}\p{Script=Tibetan}\p{Script=Myanmar}\p{Script=Khmer}"
    r"\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}ー"
)
"""Scripts without spaces between words, as a set of characters in a regular expression (package `regex`)."""
_IS_UNSPACED = regex.compile(f"[{UNSPACED}]")
_WORD_START = regex.compile(rf"(?<=\s)(?=\S)|(?<=[{UNSPACED}])(?=(?!\p{{M}})[{UNSPACED}])")


def is_unspaced(char: str) -> bool:
    """Whether a character is of a script written without spaces between words."""
    return _IS_UNSPACED.match(char) is not None


def word_starts(text: str) -> Iterator[int]:
    """Where in a text, but at its beginning, a word begins, or may begin in a script without spaces."""
    return (found.start() for found in _WORD_START.finditer(text))


def occurrences(words: str, text: str) -> int:
    """How often `words` stand in `text` as words of their own; in scripts without spaces, how often at all."""
    left = "" if is_unspaced(words[0]) else r"(?<!\w)"
    right = "" if is_unspaced(words[-1]) else r"(?!\w)"
    return len(re.findall(f"{left}{re.escape(words)}{right}", text))


def continues_word(char: str, other: str) -> bool:
    """Whether two characters side by side are of one word, in a script whose words have borders."""
    return all(c.isdecimal() or unicodedata.category(c) in ("Lu", "Ll", "Lt") for c in (char, other))
