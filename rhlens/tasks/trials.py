"""Trials: prompts of an exact token length with a needle at a known place.

A prompt is written once as text and tokenised once; every span comes from the tokenizer's offsets into that text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rhlens.tasks.ask import in_chat
from rhlens.tasks.haystack import Haystack, as_haystack, sentence_starts, tokenised
from rhlens.tasks.needles import Needle, bundled_needles, distractor_of, draw_needles

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
"""Half-open range of token positions."""


MISPLACED = 0.1
"""Share of the haystack that the nearest sentence boundary may be off before a boundary of words is taken."""
REACH = 60
"""Characters by which a cut of the filler may move before a prompt length is given up."""


MOST = 100_000
"""Trials of a grid at most; more are a mistyped number."""


class Encoded(NamedTuple):
    """A text, its token ids, and the characters each of them covers."""

    text: str
    ids: list[int]
    offsets: list[Span]


@dataclass(frozen=True)
class Trial:
    """One prompt, with where everything is in it. Positions are token positions of the whole prompt.

    Attributes:
        tokens: the prompt, special tokens included; exactly `length` of them.
        answer_span: the answer inside the needle, in the haystack.
        needle_span: the whole needle statement.
        question_span: everything after the haystack.
        reply_span: what follows the cue in the needle: the answer, and the space before it if that is a token.
        depth: the depth asked for, 0 (start) to 1 (end of the haystack).
        index: the trial's place in its grid.
        text: the prompt as it was written.
    """

    needle: Needle
    length: int
    depth: float
    tokens: tuple[int, ...] = field(repr=False)
    answer_span: Span
    needle_span: Span
    question_span: Span
    reply_span: Span
    index: int = 0
    text: str = field(default="", repr=False)

    @property
    def answer(self) -> str:
        return self.needle.answer

    @property
    def answers(self) -> tuple[str, ...]:
        return (self.answer,)

    @property
    def stated(self) -> str:
        return f"{self.needle.statement} {self.needle.question}"

    @property
    def reply(self) -> tuple[int, ...]:
        return self.tokens[slice(*self.reply_span)]

    def said(self, output: str) -> str:
        return output

    @property
    def answer_tokens(self) -> tuple[int, ...]:
        return self.tokens[slice(*self.answer_span)]

    @property
    def labels(self) -> dict[str, Any]:
        """What the trial was, as one row of a table; `placed` is the depth that the sentence boundary gave."""
        needle = self.needle
        return {
            "trial": self.index,
            "kind": needle.kind,
            "needle": needle.statement,
            "answer": needle.answer,
            "length": self.length,
            "depth": self.depth,
            "placed": round(self.needle_span[0] / self.question_span[0], 4),
        }


@dataclass(frozen=True)
class Grid:
    """Which trials to ask: every length x depth x needle.

    Args:
        lengths: prompt lengths in tokens.
        depths: relative positions of the needle in 0..1, or how many to space evenly from 0 to 1.
        needles: the needles, or how many to draw (`draw_needles`); None takes the bundled, hand-written ones.
        seed: of the haystack, the drawn needles and the distractors.
        haystack: None for generated English, or a text file or folder.
        distractors: how many other needles of the same kind stand in the haystack too.
        restate: end the prompt with the needle's own words before the answer, as published needle tests do.
        chat: wrap the prompt in the tokenizer's chat template.

    Raises:
        ValueError: nothing to ask, a depth outside 0..1, a length below 1 or a negative number of distractors.
    """

    lengths: Sequence[int]
    depths: int | Sequence[float] = 5
    needles: int | Sequence[Needle] | None = None
    seed: int = 0
    haystack: str | Path | Haystack | None = None
    distractors: int = 0
    restate: bool = True
    chat: bool = False

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 1:
            raise ValueError(f"lengths must be one or more positive token counts, not {list(self.lengths)}")
        counts = [x if isinstance(x, int) else len(x) for x in (self.depths, self.needles or ())]
        if (n := len(self.lengths) * max(1, counts[0]) * max(1, counts[1])) > MOST:
            raise ValueError(
                f"{n} trials are more than the {MOST} that a grid may have: ask for fewer depths or needles"
            )
        if not self.depth_values or not all(0 <= d <= 1 for d in self.depth_values):
            raise ValueError(f"depths must be a positive count, or a list of depths between 0 and 1, not {self.depths}")
        if not self.needle_list:
            raise ValueError("needles must hold at least one needle")
        if not 0 <= self.distractors <= min(self.lengths):
            raise ValueError(
                f"distractors must be 0 or more, and fit into {min(self.lengths)} tokens, not {self.distractors}"
            )

    @cached_property
    def depth_values(self) -> list[float]:
        if isinstance(self.depths, int):
            return [0.5] if self.depths == 1 else [i / (self.depths - 1) for i in range(self.depths)]
        return [float(d) for d in self.depths]

    @cached_property
    def needle_list(self) -> list[Needle]:
        if self.needles is None:
            return list(bundled_needles())
        return draw_needles(self.needles, self.seed) if isinstance(self.needles, int) else list(self.needles)

    def trials(self, tokenizer: PreTrainedTokenizerBase, context: int | None = None) -> list[Trial]:
        """The grid's trials under `tokenizer`, lengths outermost, needles innermost.

        Args:
            context: the most tokens the model can read, if known: prompt and answer must fit.

        Raises:
            ValueError: the tokenizer cannot place a needle exactly, or a trial cannot be built at its length.
        """
        if context is not None and max(self.lengths) > context:
            raise ValueError(
                f"length {max(self.lengths)} exceeds the model's context of {context} tokens: ask for less"
            )
        writer = _Writer(self, tokenizer)
        cells = [(n, d, x) for n in self.lengths for d in self.depth_values for x in self.needle_list]
        trials = [writer.trial(needle, length, depth, i) for i, (length, depth, needle) in enumerate(cells)]
        for t in trials:
            if context is not None and t.length + len(t.answer_tokens) > context:
                raise ValueError(
                    f"length {t.length} plus an answer of {len(t.answer_tokens)} tokens exceeds the model's context of "
                    f"{context} tokens: choose a length of at most {context - len(t.answer_tokens)}"
                )
        return trials


def niah(model: Any, lengths: Sequence[int], depths: int | Sequence[float] = 5, **grid: Any) -> list[Trial]:
    """Needle-in-a-haystack trials for a model (anything with a `.tokenizer`) or a tokenizer: see `Grid`."""
    tokenizer = getattr(model, "tokenizer", model)
    context = getattr(getattr(model, "cfg", None), "n_ctx", None)
    return Grid(lengths, depths, **grid).trials(tokenizer, context)


class _Writer:
    """Writes the prompts of one grid; one haystack serves them all, so trials share prefixes."""

    def __init__(self, grid: Grid, tokenizer: PreTrainedTokenizerBase) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(
                f"{type(tokenizer).__name__} gives no character offsets, so needles cannot be placed exactly: "
                "load the fast version (a tokenizer.json) of this tokenizer"
            )
        self.grid, self.tokenizer = grid, tokenizer
        self.haystack = as_haystack(grid.haystack, grid.seed)
        self._fillers: dict[int, tuple[str, list[Span]]] = {}

    def trial(self, needle: Needle, length: int, depth: float, index: int) -> Trial:
        # Seeded by the trial itself, not its place: it is the same trial in every grid that holds it.
        seeds = (f"{self.grid.seed}:{length}:{depth}:{i}" for i in range(self.grid.distractors))
        encoded, spans = self._fit(needle, [distractor_of(needle, seed) for seed in seeds], length, depth)
        answer, statement, question = (_token_span(encoded.offsets, span) for span in spans)
        found = self.tokenizer.decode(encoded.ids[slice(*answer)])
        if _canonical(str(found)) != _canonical(needle.answer):
            raise ValueError(
                f"this tokenizer cannot place the needle {needle.statement!r} exactly: the tokens of its answer "
                f"read {found!r}; end the answer at a word boundary or use characters the tokenizer knows"
            )
        gap = spans[0][0] - 1  # the space before the answer is a token of its own before a digit
        reply = answer[0] - (encoded.offsets[answer[0] - 1] == (gap, gap + 1)), answer[1]
        return Trial(needle, length, depth, tuple(encoded.ids), answer, statement, question, reply, index, encoded.text)

    def _fit(self, needle: Needle, others: list[Needle], length: int, depth: float) -> tuple[Encoded, list[Span]]:
        """The prompt of exactly `length` tokens, and its character spans: the filler is cut until it fits."""
        head, tail = self._frame(needle)
        filler, offsets = self._filler(length)
        fixed = " ".join([head, *(n.statement for n in [needle, *others]), tail])
        cut = length - len(self._encode(fixed).ids)
        if cut < 1:
            raise ValueError(
                f"length {length} is too short for the needle {needle.statement!r}: "
                f"needle, question and special tokens alone take {length - cut} tokens"
            )
        places = _places(filler[: offsets[cut - 1][1]], depth, len(others))
        tried: dict[int, int] = {}

        def attempt(end: int) -> tuple[Encoded, list[Span]] | None:
            text, spans = _assemble(head, filler[:end], tail, [needle, *others], places)
            _check_unique(needle, text[: spans[2][0]])
            encoded = self._encode(text)
            tried[end] = len(encoded.ids)
            return (encoded, spans) if len(encoded.ids) == length else None

        # A token more of filler is nearly always a token more of prompt: two jumps find most cuts.
        while 1 <= cut <= len(offsets) and offsets[cut - 1][1] not in tried:
            if found := attempt(offsets[cut - 1][1]):
                return found
            cut += length - tried[offsets[cut - 1][1]]
        # Merges at the seam can skip a length; a cut inside a word reaches it.
        near = min(tried, key=lambda end: abs(tried[end] - length))
        for end in sorted(range(max(places) + 1, near + REACH), key=lambda end: abs(end - near))[: 2 * REACH]:
            if found := attempt(end):
                return found
        raise ValueError(
            f"no cut of the haystack {self.haystack.name} gives a prompt of exactly {length} tokens for the needle "
            f"{needle.statement!r}: try another length or seed"
        )

    def _frame(self, needle: Needle) -> tuple[str, str]:
        """The text before the haystack and the text after it."""
        question = f"\n\nQuestion: {needle.question}"
        cue = f" {needle.cue}" if self.grid.restate and needle.cue else ""
        if not self.grid.chat:
            return "", f"{question}\nAnswer:{cue}"
        marker = "\u0000haystack\u0000"
        rendered = in_chat(self.tokenizer, marker + question)
        if rendered.count(marker) != 1:
            raise ValueError("this chat template does not pass a message's text on as it is: drop chat=True")
        head, tail = rendered.split(marker)
        return head, tail + cue.lstrip()

    def _encode(self, text: str) -> Encoded:
        """Ids and offsets of the final text; a chat template has written its special tokens itself."""
        encoding = self.tokenizer(
            text, add_special_tokens=not self.grid.chat, return_offsets_mapping=True, truncation=False, verbose=False
        )
        ids, offsets = list(encoding["input_ids"]), list(encoding["offset_mapping"])
        # The model must go on from the prompt's last word: a tokenizer that closes with EOS must not close here.
        while ids and offsets[-1][0] == offsets[-1][1] and ids[-1] in self.tokenizer.all_special_ids:
            ids, offsets = ids[:-1], offsets[:-1]
        return Encoded(text, ids, offsets)

    def _filler(self, n_tokens: int) -> tuple[str, list[Span]]:
        """Haystack text of at least `n_tokens` tokens, and its offsets."""
        if n_tokens not in self._fillers:
            self._fillers[n_tokens] = tokenised(self.haystack, self.tokenizer, n_tokens)
        return self._fillers[n_tokens]


def _token_span(offsets: list[Span], chars: Span) -> Span:
    """The tokens that hold any of the characters `chars`; an empty span where none does."""
    inside = [i for i, (a, b) in enumerate(offsets) if a < chars[1] and b > chars[0] and b > a]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def _canonical(text: str) -> str:
    """Text up to the liberties tokenizers take: spacing, case and compatibility forms."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def _check_unique(needle: Needle, haystack: str) -> None:
    """Raise unless the answer stands in the haystack once, in the needle: recall would measure something else."""
    if len(re.findall(rf"(?<!\w){re.escape(needle.answer)}(?!\w)", haystack)) > 1:
        raise ValueError(
            f"the answer {needle.answer!r} stands in the haystack even without the needle {needle.statement!r}: "
            "use another needle or another haystack"
        )


def _places(filler: str, depth: float, n_others: int) -> list[int]:
    """Where the needle and its distractors go: at the sentence starts nearest their depths.

    Distractors stand apart from the needle and from each other, counted on from its depth. The last characters are
    left free: the filler may still lose them when it is cut to length.
    """
    depths = [depth, *((depth + (i + 1) / (n_others + 1)) % 1.0 for i in range(n_others))]
    free = [s for s in sentence_starts(filler) if s == 0 or s < len(filler) - REACH]
    places = [min(free, key=lambda s: abs(s - d * len(filler))) for d in depths]
    # Verse and lists may have no sentence ends for pages: better between two words than at another depth.
    words = [m.end() for m in re.finditer(r"\s+", filler) if m.end() < len(filler) - REACH] or [0]
    far = MISPLACED * len(filler) + REACH
    return [
        place if abs(place - d * len(filler)) <= far else min(words, key=lambda s: abs(s - d * len(filler)))
        for place, d in zip(places, depths, strict=True)
    ]


def _assemble(head: str, filler: str, tail: str, needles: list[Needle], places: list[int]) -> tuple[str, list[Span]]:
    """The prompt's text, and the character spans of answer, needle (the first of `needles`) and question in it."""
    text, last, needle_at = head, 0, 0
    for place, i in sorted(zip(places, range(len(needles)), strict=True)):
        text += filler[last:place]
        needle_at = len(text) if i == 0 else needle_at
        text, last = f"{text}{needles[i].statement} ", place
    text += filler[last:]
    answer_at = needle_at + needles[0].statement.index(needles[0].answer)
    spans = [
        (answer_at, answer_at + len(needles[0].answer)),
        (needle_at, needle_at + len(needles[0].statement)),
        (len(text), len(text) + len(tail)),
    ]
    return text + tail, spans
