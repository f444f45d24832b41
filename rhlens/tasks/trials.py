"""Trials: prompts of an exact token length with a needle at a known place.

A prompt is written once as text and tokenised once; every span comes from the tokenizer's offsets into that text.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rhlens.tasks.canonical import canonical
from rhlens.tasks.fitting import Fitted, Fitter
from rhlens.tasks.forms import DAY, RESTATED, PromptForm
from rhlens.tasks.haystack import Haystack, as_haystack
from rhlens.tasks.needles import Needle, bundled_needles, distractor_of, draw_needles
from rhlens.tasks.script import continues_word, occurrences
from rhlens.tasks.spelling import Span, continuation, exact_decoder, fingerprint, tokens_holding
from rhlens.tasks.turns import FIRST_LINE, MAX_REASONING_TOKENS, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST = 100_000
"""Trials of a grid at most; more are a mistyped number."""


@dataclass(frozen=True)
class Trial:
    """One prompt, with where everything is in it. Positions are token positions of the whole prompt.

    Attributes:
        tokens: the prompt, special tokens included; exactly `length` of them.
        answer_span: the answer inside the needle, in the haystack: all tokens that hold any of it.
        needle_span: the whole needle statement.
        question_span: everything after the haystack.
        reply_span: the answer inside the needle, and the space before it if that is a token.
        depth: the depth asked for, 0 (start) to 1 (end of the haystack).
        index: the trial's place in its grid.
        text: the prompt as it was written.
        reply: what the model would have to say after the prompt: the answer, after a space or none; by default, what
            stands in the needle. Appended to `tokens` it gives what the tokenizer makes of the whole text, unless that
            merges the prompt's last token with the answer's first.
        draft: the reply and what ends the needle's sentence, as the model would say it; by default, as the needle does.
        needle_chars: of each token of the needle, the characters of the statement that it holds.
        surplus: what the tokens of `answer_span` read before and after the answer, where a tokenizer merges it with
            its neighbours.
        form: how the prompt was written, and how its answer is read.
        turn: what the prompt begins of the model's turn, and how the rest of it is read.
        tokenizer: the fingerprint of the tokenizer, empty if unknown.
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
    reply: tuple[int, ...] = field(default=(), repr=False)
    draft: tuple[int, ...] = field(default=(), repr=False)
    needle_chars: tuple[Span, ...] = field(default=(), repr=False)
    surplus: tuple[str, str] = field(default=("", ""), repr=False)
    form: PromptForm = field(default=RESTATED, repr=False)
    turn: Turn = field(default=FIRST_LINE, repr=False)
    tokenizer: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        stated = self.tokens[self.reply_span[0] : self.needle_span[1]]
        object.__setattr__(self, "reply", self.reply or self.tokens[slice(*self.reply_span)])
        object.__setattr__(self, "draft", self.draft or stated)

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
    def is_spelled_alike(self) -> bool:
        """Whether a restated answer has the very tokens of the needle, so that ids alone tell what is copied."""
        restated = self.form.restate and self.needle.cue != "" and self.text.endswith(self.needle.cue)
        return restated and self.reply == self.tokens[slice(*self.reply_span)]

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
            "placed": round(self.needle_span[0] / (self.question_span[0] or self.length), 4),
        }


@dataclass(frozen=True)
class Grid:
    """Which trials to ask: every length x depth x needle.

    Args:
        lengths: prompt lengths in tokens.
        depths: relative positions of the needle in 0..1, or how many to space evenly from 0 to 1.
        needles: the needles, or how many to draw (`draw_needles`); None takes the bundled, hand-written ones.
        seed: of the haystack, the drawn needles and the distractors.
        haystack: None for generated English, a text file or folder, or "python-docs": real prose that every Python
            brings.
        distractors: how many other needles of the same kind stand in the haystack too.
        restate: end the prompt with the needle's own words before the answer, as published needle tests do.
        chat: wrap the prompt in the tokenizer's chat template.
        template, system, chat_template_kwargs, date, reasoning, stop, max_reasoning_tokens: see `PromptForm`.

    Raises:
        ValueError: nothing to ask, a depth outside 0..1, a length below 1, a negative number of distractors, or what
            `PromptForm` refuses.
    """

    lengths: Sequence[int]
    depths: int | Sequence[float] = 5
    needles: int | Sequence[Needle] | None = None
    seed: int = 0
    haystack: str | Path | Haystack | None = None
    distractors: int = 0
    restate: bool = True
    chat: bool = False
    template: str | None = None
    system: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    date: str = DAY
    reasoning: str | None = None
    stop: Sequence[str] = ()
    max_reasoning_tokens: int = MAX_REASONING_TOKENS

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
        _ = self.form

    @cached_property
    def form(self) -> PromptForm:
        """How its prompts are written."""
        names = ("template", "restate", "chat", "system", "chat_template_kwargs", "date", "reasoning", "stop")
        return PromptForm(**{name: getattr(self, name) for name in (*names, "max_reasoning_tokens")})

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
            longest = (context or t.length + len(t.reply)) - len(t.reply) + 1  # the last token said is not read
            if t.length > longest:
                raise ValueError(
                    f"length {t.length} plus an answer of {len(t.reply)} tokens exceeds the model's context of "
                    f"{context} tokens: choose a length of at most {longest}"
                )
        if wide := list({t.needle: t for t in trials if any(t.surplus)}.values()):
            reads = wide[0].answer.join(wide[0].surplus)
            print(
                f"{len(wide)} of {len(self.needle_list)} answers share a token with the text beside them, and these "
                f"tokens count as the answer: those of {wide[0].answer!r} read {reads!r}",
                file=sys.stderr,
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
        self.grid, self.tokenizer, self._name = grid, tokenizer, fingerprint(tokenizer)
        self._fitter = Fitter(tokenizer, as_haystack(grid.haystack, grid.seed), grid.chat)

    def trial(self, needle: Needle, length: int, depth: float, index: int) -> Trial:
        # Seeded by the trial itself, not its place: it is the same trial in every grid that holds it.
        seeds = (f"{self.grid.seed}:{length}:{depth}:{i}" for i in range(self.grid.distractors))
        frame = self.grid.form.frame(self.tokenizer, needle)
        fitted = self._fitter.fit(frame, needle, [distractor_of(needle, seed) for seed in seeds], length, depth)
        prompt = fitted.encoded
        _check_unique(needle, prompt.text[len(frame.head) : fitted.question[0]])
        answer, statement, question = (
            tokens_holding(prompt.offsets, chars) for chars in (fitted.answer, fitted.needle, fitted.question)
        )
        # The space before an answer is a token of its own before a digit, in some tokenizers.
        spaced = answer[0] > 0 and prompt.text[slice(*prompt.offsets[answer[0] - 1])].isspace()
        said, rest = frame.gap + needle.answer, prompt.text[fitted.answer[1] : fitted.needle[1]]
        reply, draft = (continuation(self.tokenizer, prompt, text) for text in (said, said + rest))
        return Trial(
            needle, length, depth, tuple(prompt.ids), answer, statement,
            question if question[1] else (length, length), (answer[0] - spaced, answer[1]), index, prompt.text, reply,
            draft if draft[: len(reply)] == reply else reply,
            tuple((a - fitted.needle[0], b - fitted.needle[0]) for a, b in prompt.offsets[slice(*statement)]),
            self._surplus(fitted, answer, needle), self.grid.form, self.grid.form.turn(frame.tail), self._name,
        )  # fmt: skip

    def _surplus(self, fitted: Fitted, answer: Span, needle: Needle) -> tuple[str, str]:
        """What the tokens of the answer read besides it, before it and after it.

        Raises:
            ValueError: they do not read as the answer, or cut into another word.
        """
        prompt = fitted.encoded
        found = exact_decoder(self.tokenizer)(prompt.ids[slice(*answer)])
        first, last = prompt.offsets[answer[0]][0], prompt.offsets[answer[1] - 1][1]
        before, after = prompt.text[first : fitted.answer[0]].lstrip(), prompt.text[fitted.answer[1] : last].rstrip()
        if _bare(needle.answer) not in _bare(found):
            advice = "use characters that the tokenizer knows"
        elif (before and continues_word(before[-1], needle.answer[0])) or (
            after and continues_word(needle.answer[-1], after[0])
        ):
            advice = "end the answer at a word boundary"
        else:
            return before, after
        raise ValueError(
            f"this tokenizer cannot place the needle {needle.statement!r} exactly: the tokens of its answer read "
            f"{found!r}; {advice}"
        )


def _bare(text: str) -> str:
    """Text up to the liberties that tokenizers take, its spaces among them."""
    return "".join(canonical(text).split())


def _check_unique(needle: Needle, haystack: str) -> None:
    """Raise unless the answer stands in the haystack once, in the needle: recall would measure something else."""
    if occurrences(needle.answer, haystack) > 1:
        raise ValueError(
            f"the answer {needle.answer!r} stands in the haystack even without the needle {needle.statement!r}: "
            "use another needle or another haystack"
        )
