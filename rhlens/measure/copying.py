"""Copy events: which heads look at what the model is saying, in the needle's answer, and the scores made of them.

An event is a step whose token a head's strongest key holds (FACTS: token w generated; j = argmax of the head's
attention row; j inside the needle's answer; x_j = w). Where an answer is not spelled as the needle spells it (` feed`
in the text, `feed` after a chat header), equal ids would miss what is plainly the same: there the tokens that are said
are aligned with the needle's by their characters, and an event means that the text just said is the text looked at.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64

from rhlens.model.trace import Trace
from rhlens.tasks.canonical import canonical
from rhlens.tasks.spelling import Span, char_spans, pieces
from rhlens.tasks.trials import Trial

Alignment = dict[int, list[Span]]
"""Of each step, the ranges of prompt positions that hold the text said there."""


class Spelled(NamedTuple):
    """A text without what spelling is free in (space, case, compatibility forms), and whose each character is.

    Attributes:
        tokens: of each character, the tokens that hold it.
        edges: where one token ends and another begins, and what lies beyond punctuation from there.
    """

    chars: str
    tokens: list[list[int]]
    edges: set[int]


def spelled(text: str, spans: Sequence[Span]) -> Spelled:
    """`text`, of which each token has the characters `spans`."""
    holders: list[list[int]] = [[] for _ in text]
    for token, (start, end) in enumerate(spans):
        for at in range(start, end):
            holders[at].append(token)
    chars, tokens, waiting = "", [], set[int]()
    for char, held in zip(text, holders, strict=True):
        plain = _letters(char)
        if not plain:  # a token that is all space belongs to what follows it
            waiting |= {token for token in held if text[slice(*spans[token])].isspace()}
            continue
        chars += plain
        tokens += [sorted({*held, *waiting})] * len(plain)
        waiting = set()
    edges = {0, len(chars)} | {i for i in range(1, len(chars)) if not set(tokens[i - 1]) & set(tokens[i])}
    for step, order in ((1, range(len(chars))), (-1, range(len(chars), 0, -1))):
        for i in order:  # `owl!` ends where `owl` does
            mark = unicodedata.category(chars[i if step == 1 else i - 1]).startswith("P")
            if i in edges and mark:
                edges.add(i + step)
    return Spelled(chars, tokens, edges)


def _letters(char: str) -> str:
    """What spelling is not free in: nothing of a space, a letter and its marks one after the other."""
    return unicodedata.normalize("NFKD", canonical(char)).strip()


def alignment(trial: Trial, tokens: Sequence[int], decode: Callable[[list[int]], str]) -> Alignment:
    """Which of the needle's tokens hold the text that each step says.

    The texts are compared between edges of tokens on both sides, however many tokens either has in between; so `fe` of
    `fence` is not `feed`. Nothing is aligned where a restated answer has the needle's own tokens: ids tell it all.

    Args:
        tokens: what the model said.
        decode: from ids to the very text (`exact_decoder`).
    """
    if trial.is_spelled_alike or not trial.needle_chars:
        return {}
    parts = pieces(decode, tokens)
    said = spelled("".join(parts), char_spans(parts))
    statement, answer_at = trial.needle.statement, trial.needle.statement.index(trial.answer)
    needle = spelled(statement, [_inside(chars, len(statement)) for chars in trial.needle_chars])
    for at in (answer_at, answer_at + len(trial.answer)):  # a token may reach over the answer's edge
        needle.edges.add(sum(len(_letters(char)) for char in statement[:at]))
    found: defaultdict[int, set[Span]] = defaultdict(set)
    for start in said.edges - {len(said.chars)}:
        for at in needle.edges - {len(needle.chars)}:
            for n in range(min(len(said.chars) - start, len(needle.chars) - at)):
                if said.chars[start + n] != needle.chars[at + n]:
                    break
                if start + n + 1 in said.edges and at + n + 1 in needle.edges:
                    _pair(said, needle, start, at, n + 1, trial.needle_span[0], found)
                    break
    return {step: sorted(spans) for step, spans in found.items()}


def _pair(said: Spelled, needle: Spelled, start: int, at: int, n: int, first: int, found: defaultdict[int, set[Span]]):
    """Note, for each token of a text that both hold, the needle's tokens with which it shares a character."""
    held: defaultdict[int, set[int]] = defaultdict(set)
    for i in range(n):
        for token in said.tokens[start + i]:
            held[token].update(needle.tokens[at + i])
    for token, others in held.items():
        found[token].add((first + min(others), first + max(others) + 1))


def _inside(chars: Span, n: int) -> Span:
    return max(0, chars[0]), max(0, min(chars[1], n))


def copy_events(trace: Trace, trial: Trial, aligned: Alignment | None = None) -> Bool[np.ndarray, "step layer head"]:
    """Where each head copied: its strongest key, in the needle's answer, holds what is said at that step.

    Reasoning copies nothing: events are of the answer.

    Args:
        aligned: what `alignment` found; without it, equal ids alone are events.
    """
    events = _id_events(trace.tokens, trace.position, trial)
    start, end = trial.answer_span
    for step, spans in (aligned or {}).items():
        for first, last in spans:
            seen = trace.position[step]
            events[step] |= (seen >= max(first, start)) & (seen < min(last, end))
    return events if trace.answering is None else events & trace.answering[:, None, None]


def _id_events(tokens: np.ndarray, position: np.ndarray, trial: Trial) -> Bool[np.ndarray, "step layer head"]:
    prompt = np.asarray(trial.tokens)
    inside = (position >= trial.answer_span[0]) & (position < trial.answer_span[1])
    return inside & (prompt[np.clip(position, 0, len(prompt) - 1)] == tokens[:, None, None])


def set_score(
    events: Bool[np.ndarray, "step layer head"],
    tokens: Int64[np.ndarray, " step"],
    trial: Trial,
    aligned: Alignment | None = None,
    position: np.ndarray | None = None,
) -> Float[np.ndarray, "layer head"]:
    """Share of the answer's set of tokens that each head copied at least once (Eq. 1): at most 1.

    Args:
        aligned: what `alignment` found: a step copies all of the answer's tokens that hold what it says.
        position: where each head looked; only asked for with `aligned`.
    """
    wanted = sorted(set(trial.answer_tokens))
    copied = np.stack([events[tokens == token].any(axis=0) for token in wanted])
    if aligned and position is not None:
        copied &= False
        place = {token: i for i, token in enumerate(wanted)}
        start, end = trial.answer_span
        for step, layer, head in np.argwhere(events):
            at, own = int(position[step, layer, head]), int(tokens[step])
            spans = [(max(a, start), min(b, end)) for a, b in aligned.get(int(step), []) if a <= at < b]
            held = {token for span in spans for token in trial.tokens[slice(*span)]}
            held |= {own} if trial.tokens[at] == own else set()
            copied[[place[token] for token in held], layer, head] = True
    return copied.mean(axis=0)


def sum_score(events: Bool[np.ndarray, "step layer head"], trial: Trial) -> Float[np.ndarray, "layer head"]:
    """Copy steps per answer token, repeats counted (the reference code): can exceed 1."""
    return events.sum(axis=0) / len(trial.answer_tokens)


def retrieval_score(trace: Trace, trial: Trial, decode: Callable[[list[int]], str]) -> Float[np.ndarray, "layer head"]:
    """The set score of every head in one trial.

    Args:
        decode: see `alignment`.
    """
    aligned = alignment(trial, trace.tokens.tolist(), decode)
    return set_score(copy_events(trace, trial, aligned), trace.tokens, trial, aligned, trace.position)
