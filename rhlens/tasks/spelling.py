"""How a tokenizer spells: a text with its tokens and their characters, what it goes on with, and tokens as text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
"""Half-open range of token positions, or of characters."""

TAIL = 48
"""Tokens before a place in a text that are read again to see how it goes on there: merges reach over far fewer."""
UNFINISHED = "\ufffd"
"""What a decoder shows for the first bytes of a character whose last are missing."""
WINDOW, KEPT = 24, 8
"""Tokens that are decoded together, and how many of them stay as context when there are more."""
# Between these and what follows no tokenizer merges, or hardly any: after one, a text is spelled as inside of a line.
_ANCHORS = ("\n", ">", ")", "=", " x", "0", "、")
_PROBE = "The code is 12345, naïve—Привет 你好 สวัสดี नमस्ते 🙂\n\n\tif x == 0:  'ok'"


class Encoded(NamedTuple):
    """A text, its token ids, and the characters each of them covers."""

    text: str
    ids: list[int]
    offsets: list[Span]


def encode(tokenizer: PreTrainedTokenizerBase, text: str, special: bool = False) -> Encoded:
    """Ids and offsets of a text that a model is to go on with.

    Args:
        special: put the tokenizer's special tokens around it; what closes the text is left out again, since a model
            must go on from the text's last word.
    """
    encoding: Any = tokenizer(
        text, add_special_tokens=special, return_offsets_mapping=True, truncation=False, verbose=False
    )
    ids, offsets = list(encoding["input_ids"]), list(encoding["offset_mapping"])
    while special and ids and offsets[-1][0] == offsets[-1][1] and ids[-1] in tokenizer.all_special_ids:
        ids, offsets = ids[:-1], offsets[:-1]
    return Encoded(text, ids, offsets)


def tokens_holding(offsets: Sequence[Span], chars: Span) -> Span:
    """The tokens that hold any of the characters `chars`; an empty span where none does."""
    inside = [i for i, (a, b) in enumerate(offsets) if a < chars[1] and b > chars[0] and b > a]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def continuation(tokenizer: PreTrainedTokenizerBase, prompt: Encoded, said: str) -> tuple[int, ...]:
    """The tokens with which a prompt goes on when `said` follows it.

    Prompt and tokens together are what the tokenizer makes of the whole text; where it would merge the prompt's last
    token with what follows, they are `said` as it is spelled inside of a line.

    Raises:
        ValueError: this tokenizer spells `said` nowhere on its own.
    """
    text, first = prompt.text, max(0, len(prompt.ids) - TAIL)
    for start in dict.fromkeys((first, 0)):
        tail = text[prompt.offsets[start][0] :] if start else text
        before, whole = _ids(tokenizer, [tail, tail + said])
        # At its beginning a piece of text may be spelled in another way than in the middle of the whole.
        n = min(TAIL // 2, len(before))
        if before[len(before) - n :] == prompt.ids[len(prompt.ids) - n :]:
            if whole[: len(before)] == before:
                return tuple(whole[len(before) :])
            break
    return _inside_a_line(tokenizer, said)


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    encoding: Any = tokenizer(texts, add_special_tokens=False, verbose=False)
    return encoding["input_ids"]


def _inside_a_line(tokenizer: PreTrainedTokenizerBase, said: str) -> tuple[int, ...]:
    for anchor in _ANCHORS:
        before, whole = _ids(tokenizer, [anchor, anchor + said])
        if len(whole) > len(before) and whole[: len(before)] == before:
            return tuple(whole[len(before) :])
    raise ValueError(f"this tokenizer spells {said!r} together with whatever stands before it: use another answer")


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A short name for how a tokenizer spells: equal for equal vocabularies, whatever special tokens it puts around."""
    spelled = [len(tokenizer), *tokenizer(_PROBE, add_special_tokens=False, verbose=False)["input_ids"]]
    return hashlib.sha256(repr(spelled).encode()).hexdigest()[:16]


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """All tokens that are no text, whether or not the tokenizer has a name for them."""
    added: Any = getattr(tokenizer, "added_tokens_decoder", {})
    return {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}


class Pieces:
    """Tokens as text, cut by token: joined, the pieces are the decoded text.

    Decoded one at a time, tokens that hold parts of a character read as nothing, and SentencePiece loses its spaces.
    A character of several tokens is the piece of the last of them, and the others' pieces are empty.

    Args:
        decode: from token ids to text, special tokens included.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._shown = ""
        self.pieces: list[str] = []

    def add(self, token: int) -> None:
        """One token more."""
        self._window.append(token)
        text = self._decode(self._window)
        if text.endswith(UNFINISHED):
            self.pieces.append("")
            return
        self._show(text)

    def finish(self) -> list[str]:
        """All pieces; what was never finished is shown as the decoder shows it."""
        if self._window and self.pieces and not self.pieces[-1]:
            text = self._decode(self._window)
            self.pieces[-1], self._shown = text[len(self._shown) :], text
        return self.pieces

    def _show(self, text: str) -> None:
        self.pieces.append(text[len(self._shown) :])
        if len(self._window) > WINDOW:
            self._window = self._window[-KEPT:]
            text = self._decode(self._window)
        self._shown = text


def pieces(decode: Callable[[list[int]], str], tokens: Iterable[int]) -> list[str]:
    """The text of each token: see `Pieces`."""
    found = Pieces(decode)
    for token in tokens:
        found.add(int(token))
    return found.finish()


def exact_decoder(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[int]], str]:
    """Decodes to the very text: special tokens stay, and no space is tidied away."""

    def decode(tokens: list[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    return decode


def char_spans(pieces: Sequence[str]) -> list[Span]:
    """The characters of each piece in the whole text; a piece that is empty has a part of the next character."""
    spans: list[Span] = []
    at, empty = 0, 0
    for piece in pieces:
        if piece:
            spans += [(at, at + 1)] * empty + [(at, at + len(piece))]
            at, empty = at + len(piece), 0
        else:
            empty += 1
    return spans + [(at, at)] * empty
