"""One canonical form of a text, in which answers are placed and judged: two texts that read alike are equal in it."""

from __future__ import annotations

import unicodedata

import regex

_UNSEEN = regex.compile(r"[\p{Cf}\u034f\u180b-\u180f\ufe00-\ufe0f]")  # soft hyphens, joiners, directions, variations
_QUOTES = {ord(c): "'" for c in "‘’‚‛ʼ`´′"} | {ord(c): '"' for c in "“”„‟″«»"}
_HYPHENS = {ord(c): "-" for c in "‐‑‒–—―−﹣－"}


def canonical(text: str) -> str:
    """`text` without what tokenizers and models take liberties with, spaces kept.

    Compatibility forms (full width, ligatures, ideographic spaces) are composed and resolved (NFKC), letters folded
    (ß is ss), quotation marks and hyphens are of one kind each, and what is not seen (soft hyphens, zero-width
    characters) is left out. Letters keep their marks. ASCII text is only put in lower case.
    """
    if text.isascii():
        return text.casefold()
    plain = _UNSEEN.sub("", text.translate(_QUOTES).translate(_HYPHENS))
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", plain).casefold())
