"""Needles: short facts hidden in a long text, and the questions that only the text can answer.

A needle is *statement*, *question* and *answer*; the answer stands verbatim, once, in the statement. The part of the
statement before the answer is its *cue*: a prompt that ends with the cue asks the model to go on with the answer.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from rhlens.results.files import MIB, read_text
from rhlens.tasks import words as w
from rhlens.tasks.files import parse_json

LARGEST = 64 * MIB
"""Bytes of a file of needles that are read: a hundred thousand of them are a third of it."""


@dataclass(frozen=True)
class Needle:
    """A fact to hide in a haystack.

    Raises:
        ValueError: the answer does not stand exactly once in the statement and on one line, or has no word in it.
    """

    kind: str
    statement: str
    question: str
    answer: str

    def __post_init__(self) -> None:
        if not self.answer.strip() or self.statement.count(self.answer) != 1:
            raise ValueError(
                f"needle {self.statement!r}: its answer {self.answer!r} must stand in the statement exactly once, "
                "word for word"
            )
        if not any(map(str.isalnum, self.answer)):
            raise ValueError(
                f"needle {self.statement!r}: its answer {self.answer!r} needs a letter or a digit, "
                "since recall counts words"
            )
        if "\n" in self.answer:
            raise ValueError(
                f"needle {self.statement!r}: its answer must stand on one line, since answers end with one"
            )

    @property
    def cue(self) -> str:
        """The statement up to the answer, without the space before it."""
        return self.statement[: self.statement.index(self.answer)].rstrip()

    @property
    def held_out(self) -> bool:
        """Whether the nano zoo is never trained on this cue: one cue in ten, by a checksum of its text."""
        return zlib.crc32(self.cue.encode()) % 10 == 0


def _code(rng: random.Random) -> Needle:
    key = f"the {rng.choice(w.ADJECTIVES)} {rng.choice(w.THINGS)}"
    digits = "".join(rng.choices("0123456789", k=5))
    return Needle("code", f"The code of {key} is {digits}.", f"What is the code of {key}?", digits)


def _activity(rng: random.Random) -> Needle:
    where = f"{rng.choice(w.PLACES)} in {rng.choice(w.MONTHS)}"
    answer = (
        f"{rng.choice(w.VERBS)[0]} a {rng.choice(w.ADJECTIVES)} {rng.choice(w.THINGS)} near the {rng.choice(w.THINGS)}"
    )
    return Needle(
        "activity", f"The best thing to do in {where} is {answer}.", f"What is the best thing to do in {where}?", answer
    )


def _journey(rng: random.Random) -> Needle:
    who, friend = rng.sample(w.PEOPLE, 2)
    when = f"the {rng.choice(w.ADJECTIVES)} {rng.choice(w.SEASONS)}"
    answer = f"{rng.choice(w.PLACES)} with {friend} by {rng.choice(w.VEHICLES)}"
    return Needle("journey", f"{who} spent {when} in {answer}.", f"Where did {who} spend {when}?", answer)


def _reason(rng: random.Random) -> Needle:
    what, state = f"the {rng.choice(w.THINGS)} of {rng.choice(w.PLACES)}", rng.choice(w.STATES)
    answer = (
        f"the {rng.choice(w.TRADES)} {rng.choice(w.VERBS)[2]} the {rng.choice(w.ADJECTIVES)} {rng.choice(w.CONTAINERS)}"
    )
    return Needle("reason", f"T{what[1:]} was {state} because {answer}.", f"Why was {what} {state}?", answer)


def _list(rng: random.Random) -> Needle:
    key = f"the {rng.choice(w.ADJECTIVES)} {rng.choice(w.CONTAINERS)} of {rng.choice(w.PEOPLE)}"
    a, b, c, d = rng.sample(w.ITEMS, 4)
    answer = f"{a}, {b}, {c} and {d}"
    return Needle("list", f"T{key[1:]} holds {answer}.", f"What does {key} hold?", answer)


def _password(rng: random.Random) -> Needle:
    key = f"the {rng.choice(w.ADJECTIVES)} {rng.choice(w.THINGS)}"
    answer = " ".join("".join(rng.choices(w.SYLLABLES, k=2)) for _ in range(3))
    return Needle("password", f"The password of {key} is {answer}.", f"What is the password of {key}?", answer)


def _foreign(rng: random.Random) -> Needle:
    language = rng.choice(("es", "fr", "de"))
    if language == "es":
        key = f"del {rng.choice(w.SPANISH_NOUNS)} {rng.choice(w.SPANISH_ADJECTIVES)}"
        answer = f"en el {rng.choice(w.SPANISH_ROOMS)} de {rng.choice(w.PEOPLE)}"
        return Needle("foreign", f"La llave {key} está {answer}.", f"¿Dónde está la llave {key}?", answer)
    if language == "fr":
        key = f"au {rng.choice(w.FRENCH_NOUNS)} {rng.choice(w.FRENCH_ADJECTIVES)}"
        answer = f"des {' et des '.join(rng.sample(w.FRENCH_FRUITS, 2))}"
        return Needle("foreign", f"On vend {key} {answer}.", f"Que vend-on {key} ?", answer)
    key = f"der {rng.choice(w.GERMAN_NOUNS)} von {rng.choice(w.PLACES)}"
    answer = f"{rng.choice(w.PEOPLE)} einen {' und einen '.join(rng.sample(w.GERMAN_THINGS, 2))}"
    return Needle("foreign", f"D{key[1:]} gab {answer}.", f"Was gab {key} und wem?", answer)


_MAKERS: dict[str, Callable[[random.Random], Needle]] = {
    "code": _code,
    "activity": _activity,
    "journey": _journey,
    "reason": _reason,
    "list": _list,
    "foreign": _foreign,
    "password": _password,
}
KINDS = tuple(_MAKERS)


def sample_needle(kind: str, rng: random.Random, held_out: bool = True) -> Needle:
    """A random needle of one of `KINDS`; held out from (or, if False, open to) the nano zoo's training."""
    if kind not in _MAKERS:
        raise ValueError(f"unknown needle kind {kind!r}: choose from {', '.join(KINDS)}")
    while (needle := _MAKERS[kind](rng)).held_out != held_out:
        pass
    return needle


def draw_needles(n: int, seed: int = 0, kinds: Sequence[str] = KINDS) -> list[Needle]:
    """`n` different held-out needles, dealt evenly over `kinds`: the first m of any n are the same needles.

    More needles buy more than more depths: between needles, published score maps correlate only .86-.96.

    Raises:
        ValueError: `n` is below 1 or a kind is unknown.
    """
    if n < 1:
        raise ValueError(f"needles must be at least 1, not {n}")
    return [sample_needle(kinds[i % len(kinds)], random.Random(f"needle:{seed}:{i}")) for i in range(n)]


def distractor_of(needle: Needle, seed: int | str) -> Needle:
    """Another held-out needle of the same generated kind: its cue and its answer differ from `needle`'s.

    Raises:
        ValueError: the needle's kind has no generator (a needle of the user's own).
    """
    if needle.kind not in _MAKERS:
        raise ValueError(
            f"no distractor can be made for needles of kind {needle.kind!r}: use distractors=0, "
            f"or one of the kinds {', '.join(KINDS)}"
        )
    rng = random.Random(f"distractor:{seed}:{needle.statement}")
    while (other := sample_needle(needle.kind, rng)).cue == needle.cue or other.answer == needle.answer:
        pass
    return other


def read_needles(path: str | Path) -> list[Needle]:
    """Needles from a JSON file: a list of objects with kind, statement, question and answer.

    Raises:
        ValueError: the file is missing or not such a list; the sentence names the entry.
    """
    return _parse(read_text(path, LARGEST, "a JSON file of needles"), str(path))


@cache
def bundled_needles() -> tuple[Needle, ...]:
    """The hand-written needles that ship with rhlens, ordered so that any first few are of different kinds."""
    text = resources.files("rhlens.tasks").joinpath("needles.json").read_text(encoding="utf-8")
    return tuple(_parse(text, "needles.json"))


def _parse(text: str, source: str) -> list[Needle]:
    entries = parse_json(text, source)
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{source} must hold a list of needles, each with kind, statement, question and answer")
    fields = ("kind", "statement", "question", "answer")
    needles = []
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict) or not all(isinstance(entry.get(f), str) for f in fields):
            raise ValueError(f"{source}: needle {i} needs the text fields {', '.join(fields)}")
        needles.append(Needle(*(entry[f] for f in fields)))
    return needles
