"""Fitting a prompt to an exact number of tokens: the filler is cut, begun later or ended with a mark until it fits."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from rhlens.tasks.forms import Frame
from rhlens.tasks.haystack import Haystack, sentence_starts, tokenised
from rhlens.tasks.needles import Needle
from rhlens.tasks.script import word_starts
from rhlens.tasks.spelling import TAIL, Encoded, Span, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MISPLACED = 0.1
"""Share of the haystack that the nearest sentence boundary may be off before a boundary of words is taken."""
REACH = 60
"""Characters by which a cut of the filler may move before the filler is begun later."""
FEW, STARTS = 6, 24
"""Places at which the filler may begin before it is ended otherwise, and before a prompt length is given up."""
ENDINGS = (" ", ".", "\n", " .", ". .", "\n\n")
"""What may end a filler all of whose characters have two or three tokens, so that most lengths lie between."""
SPARE = 400
"""Tokens of filler beyond the prompt's length, to begin later with."""


class Fitted(NamedTuple):
    """A prompt of the length asked for, and the characters that answer, needle and question have in it."""

    encoded: Encoded
    answer: Span
    needle: Span
    question: Span


class _Cut(NamedTuple):
    """A prompt whose filler ends after so many of its characters, and where in the text that is."""

    end: int
    seam: int
    fitted: Fitted


class Fitter:
    """Fits prompts around one haystack, which serves all of a grid: they begin alike as far as they can."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, haystack: Haystack, chat: bool) -> None:
        self.tokenizer, self.haystack, self._chat = tokenizer, haystack, chat
        self._fillers: dict[int, tuple[str, list[Span]]] = {}

    def fit(self, frame: Frame, needle: Needle, others: list[Needle], length: int, depth: float) -> Fitted:
        """The prompt of exactly `length` tokens with the needle at the sentence boundary nearest to `depth`.

        Raises:
            ValueError: `length` leaves no room for filler, or no part of the haystack gives that length.
        """
        fixed = " ".join([frame.head, *(n.statement for n in [needle, *others]), frame.tail])
        taken = len(self._encode(fixed).ids)
        if length <= taken:
            raise ValueError(_too_short(length, needle, taken))
        filler, offsets = self._filler(length)
        starts = _starts(filler)
        ways = [*((start, "") for start in starts[:FEW]), *((0, end) for end in ENDINGS)]
        for start, end in [*ways, *((start, "") for start in starts[FEW:])]:
            first = bisect_right(offsets, start, key=lambda chars: chars[1])
            shifted = [(a - start, b - start) for a, b in offsets[first : first + length + TAIL]]
            cut, ended = filler[start : start + shifted[-1][1]], frame._replace(tail=end + frame.tail)
            search = _Search(self, ended, [needle, *others], cut, shifted, length)
            if found := search.cut(length - taken, depth):
                return found
        if length <= taken + 2:
            raise ValueError(_too_short(length, needle, taken))
        raise ValueError(
            f"no part of the haystack {self.haystack.name} gives a prompt of exactly {length} tokens for the needle "
            f"{needle.statement!r}: try another length or seed"
        )

    def _encode(self, text: str) -> Encoded:
        """The final text; a chat template, or a template of the user's, has written its special tokens itself."""
        bos = str(self.tokenizer.bos_token or "")
        return encode(self.tokenizer, text, not self._chat and not (bos and text.startswith(bos)))

    def _filler(self, n_tokens: int) -> tuple[str, list[Span]]:
        """Haystack text of more than `n_tokens` tokens, and its offsets."""
        if n_tokens not in self._fillers:
            self._fillers[n_tokens] = tokenised(self.haystack, self.tokenizer, n_tokens + SPARE)
        return self._fillers[n_tokens]


class _Search:
    """Cuts one filler so that the prompt has `length` tokens."""

    def __init__(
        self, fitter: Fitter, frame: Frame, needles: list[Needle], filler: str, offsets: list[Span], length: int
    ) -> None:
        self._fitter, self._frame, self._needles = fitter, frame, needles
        self._filler, self._offsets, self._length = filler, offsets, length
        self._ends = [end for _, end in offsets]

    def cut(self, n_tokens: int, depth: float) -> Fitted | None:
        """The prompt, if some cut gives its length; the first that is tried leaves `n_tokens` tokens of filler."""
        self._places = places(self._filler[: self._ends[n_tokens - 1]], depth, len(self._needles) - 1)
        end, tried = self._ends[n_tokens - 1], set[int]()
        while end is not None and end not in tried:
            tried.add(end)
            found = self._attempt(end)
            if len(found.fitted.encoded.ids) == self._length:
                return found.fitted
            end = self._better_end(found, tried)
        return None

    def _attempt(self, end: int) -> _Cut:
        text, answer, needle, question = assemble(self._frame, self._filler[:end], self._needles, self._places)
        return _Cut(end, question[0], Fitted(self._fitter._encode(text), answer, needle, question))

    def _better_end(self, found: _Cut, tried: set[int]) -> int | None:
        """Where to cut for the length to be right, told by the last tokens alone: those before stay as they are."""
        encoded, tail = found.fitted.encoded, self._frame.tail
        starts = [a for a, _ in encoded.offsets]
        missing = self._length - len(encoded.ids)
        # All before this token is left alone, at the least up to the last needle.
        lowest = bisect_right(starts, found.seam - (found.end - max(self._places)))
        kept = max(lowest, bisect_left(starts, found.seam) - TAIL - max(0, -missing))
        if kept >= len(starts) or starts[kept] >= found.seam:
            kept = lowest - 1
        at = max(0, found.end - (found.seam - starts[kept]))  # the same place in the filler
        n_before = len(encoded.ids) - self._counts([self._filler[at : found.end] + tail])[0]

        def lengths(ends: Sequence[int]) -> list[int]:
            return [n_before + n for n in self._counts([self._filler[at:end] + tail for end in ends])]

        least, index = max(at, max(self._places)) + 1, bisect_left(self._ends, found.end) + missing
        known = {found.end: len(encoded.ids)}
        # A token more of filler is nearly always a token more of prompt: two jumps find most cuts.
        while 0 <= index < len(self._ends) and (end := self._ends[index]) not in known and end >= least:
            [known[end]] = lengths([end])
            if known[end] == self._length and end not in tried:
                return end
            index += self._length - known[end]
        # Merges at the seam can skip a length; a cut inside a word may reach it.
        near = min(known, key=lambda end: abs(known[end] - self._length))
        around = sorted(range(least, min(near + REACH, len(self._filler))), key=lambda end: abs(end - near))
        around = [end for end in around[: 2 * REACH] if end not in tried]
        right = (end for end, n in zip(around, lengths(around), strict=True) if n == self._length)
        return next(right, None)

    def _counts(self, texts: list[str]) -> list[int]:
        """How many tokens each of these texts has."""
        if not texts:
            return []
        tokenizer = self._fitter.tokenizer
        return [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]


def places(filler: str, depth: float, n_others: int) -> list[int]:
    """Where the needle and its distractors go: at the sentence starts nearest their depths.

    Distractors stand apart from the needle and from each other, counted on from its depth. The last characters are
    left free: the filler may still lose them when it is cut to length.
    """
    depths = [depth, *((depth + (i + 1) / (n_others + 1)) % 1.0 for i in range(n_others))]
    free = [s for s in sentence_starts(filler) if s == 0 or s < len(filler) - REACH]
    chosen = [min(free, key=lambda s: abs(s - d * len(filler))) for d in depths]
    # Verse and lists may have no sentence ends for pages: better between two words than at another depth.
    far = MISPLACED * len(filler) + REACH
    if all(abs(place - d * len(filler)) <= far for place, d in zip(chosen, depths, strict=True)):
        return chosen
    words = [s for s in word_starts(filler) if s < len(filler) - REACH] or [0]
    return [
        place if abs(place - d * len(filler)) <= far else min(words, key=lambda s: abs(s - d * len(filler)))
        for place, d in zip(chosen, depths, strict=True)
    ]


def assemble(frame: Frame, filler: str, needles: list[Needle], at: list[int]) -> tuple[str, Span, Span, Span]:
    """The prompt's text, and the characters of answer, needle (the first of `needles`) and question in it."""
    text, last, needle_at = frame.head, 0, 0
    for place, i in sorted(zip(at, range(len(needles)), strict=True)):
        text += filler[last:place]
        needle_at = len(text) if i == 0 else needle_at
        text, last = f"{text}{needles[i].statement} ", place
    text += filler[last:]
    answer_at = needle_at + needles[0].statement.index(needles[0].answer)
    answer = answer_at, answer_at + len(needles[0].answer)
    needle = needle_at, needle_at + len(needles[0].statement)
    return text + frame.tail, answer, needle, (len(text), len(text) + len(frame.tail))


def _starts(filler: str) -> list[int]:
    """Where a filler may begin: at the beginning, or the earliest sentence, word or character after it that will do."""
    ways = (sentence_starts(filler[:6000]), word_starts(filler[:1000]), range(1, min(STARTS, len(filler) // 2)))
    found = dict.fromkeys([0, *(start for way in ways for start in list(way)[: STARTS // 2])])
    return list(found)[:STARTS]


def _too_short(length: int, needle: Needle, taken: int) -> str:
    return (
        f"length {length} is too short for the needle {needle.statement!r}: "
        f"needle, question and special tokens alone take {taken} tokens"
    )
