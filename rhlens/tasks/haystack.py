"""Haystacks: endless filler text to hide needles in, generated or read from the user's own files."""

from __future__ import annotations

import os
import random
import re
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from rhlens.results.files import MIB, read_text
from rhlens.tasks import words as w

PYTHON_DOCS = "python-docs"
LARGEST = 256 * MIB
"""Bytes of a user's haystack: no model reads the hundredth part of it."""
SAMPLE = 2000
"""Characters of a haystack from which it is told how many a token has."""
SPARSEST = 1000
"""Characters a token of filler at most: text that gives fewer tokens cannot be read by this tokenizer."""


class Haystack(Protocol):
    """A stream of text with a fixed beginning: a longer piece always starts with every shorter one."""

    name: str

    def text(self, n_chars: int) -> str:
        """The first `n_chars` characters or a little more."""
        ...


class GeneratedHaystack:
    """Endless, varied, grammatical English that never repeats a sentence, and states no fact in a needle's form.

    The text is a function of `seed` alone. Paragraphs hold four to eight sentences about a recurring cast, so that
    filler has local structure a language model can learn.
    """

    def __init__(self, seed: int | str = 0) -> None:
        self.name = f"generated:{seed}"
        self._paragraphs = _paragraphs(random.Random(f"haystack:{seed}"))
        self._text = ""

    def text(self, n_chars: int) -> str:
        while len(self._text) < n_chars:
            self._text += ("\n\n" if self._text else "") + "\n\n".join(islice(self._paragraphs, 16))
        return self._text


class FileHaystack:
    """The user's text file, or every `*.txt` and `*.md` of a folder in name order, repeated when it runs out.

    Raises:
        ValueError: nothing is there, it holds no text or too much, or a file of it is no plain file or not UTF-8.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.name = str(path)
        self._unit = "\n\n".join(filter(None, _texts(path)))
        if not self._unit:
            raise ValueError(f"haystack {path} holds no text: put at least one non-empty .txt file there")

    def text(self, n_chars: int) -> str:
        return _repeated(self._unit, n_chars)


class PythonDocs:
    """The prose of Python's own reference, which every Python brings (`pydoc_data.topics`); it differs by version.

    Headings, tables, lists and code are left out. Repeated when it runs out, after some thirty thousand words.
    """

    def __init__(self) -> None:
        self.name = f"{PYTHON_DOCS} {sys.version_info.major}.{sys.version_info.minor}"
        self._unit = "\n\n".join(dict.fromkeys(_prose()))

    def text(self, n_chars: int) -> str:
        return _repeated(self._unit, n_chars)


def _prose() -> Iterator[str]:
    """Paragraphs that say something, each on one line."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        for block in re.split(r"\n\s*\n", topics[name]):
            text = " ".join(block.split())
            if re.match(r"[\"“]?[A-Z]", text) and text.endswith(".") and not re.search(r"[=>*|]{2}| = |::", text):
                yield text


def _repeated(unit: str, n_chars: int) -> str:
    return "\n\n".join([unit] * (n_chars // (len(unit) + 2) + 1))


def _texts(path: Path) -> Iterator[str]:
    """The texts of a file, or of those in a folder, in name order."""
    inside = [p for p in path.rglob("*") if p.suffix in {".txt", ".md"}] if os.path.isdir(path) else [path]
    size = 0
    for file in sorted(inside):
        if file != path and file.is_dir():
            continue
        text = read_text(file, LARGEST, "a text file or a folder of .txt files", empty=True).strip()
        if (size := size + len(text)) > LARGEST:
            raise ValueError(f"haystack {path} holds more than {LARGEST / MIB:.0f} MiB of text: give a part of it")
        yield text


def as_haystack(source: str | Path | Haystack | None, seed: int | str = 0) -> Haystack:
    """The haystack that `source` names: None generates one from `seed`, a path reads it, a haystack is itself.

    `"python-docs"` is `PythonDocs`; give a folder of that name as `./python-docs`.
    """
    if source is None:
        return GeneratedHaystack(seed)
    if source == PYTHON_DOCS:
        return PythonDocs()
    return FileHaystack(source) if isinstance(source, str | Path) else source


def tokenised(haystack: Haystack, tokenizer: Any, n_tokens: int) -> tuple[str, list[tuple[int, int]]]:
    """Haystack text of at least `n_tokens` tokens, and the characters that each of them covers.

    Raises:
        ValueError: there is hardly a token in it.
    """
    # As many characters a token as the beginning has, and some more: of Chinese that is one, of English four or five.
    sample = haystack.text(SAMPLE)[:SAMPLE]
    n_sampled = len(tokenizer(sample, add_special_tokens=False, verbose=False)["input_ids"])
    n_chars = int(1.1 * n_tokens * len(sample) / max(1, n_sampled)) + 200
    while True:
        text = haystack.text(n_chars)[:n_chars]
        encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets = [o for o in encoding["offset_mapping"] if o[1] > o[0]]
        if len(offsets) >= n_tokens:
            return text, offsets
        if n_chars > SPARSEST * (n_tokens + 100):
            raise ValueError(
                f"this tokenizer makes {len(offsets)} tokens of {n_chars} characters of the haystack {haystack.name}: "
                "give text that it can read"
            )
        n_chars *= 2


_SENTENCE_END = re.compile(r"[.!?…]['\"”’)\]]*(?=\s)|[。！？](?!$)|\n\s*\n")


def sentence_starts(text: str) -> list[int]:
    """Character offsets at which a sentence of `text` may be preceded by another: 0 and after each sentence end."""
    starts = {0}
    for match in _SENTENCE_END.finditer(text):
        end = match.end()
        while end < len(text) and text[end].isspace():
            end += 1
        if end < len(text):
            starts.add(end)
    return sorted(starts)


def _paragraphs(rng: random.Random) -> Iterator[str]:
    """Paragraphs without end; a sentence that was said before is drawn again."""
    said: set[str] = set()
    while True:
        cast = rng.sample(w.PEOPLE, 2), rng.choice(w.PLACES)
        paragraph: list[str] = []
        for _ in range(rng.randint(4, 8)):
            while (sentence := sample_sentence(rng, *cast)) in said:
                pass
            said.add(sentence)
            paragraph.append(sentence)
        yield " ".join(paragraph)


def sample_sentence(rng: random.Random, people: list[str], place: str) -> str:
    """One random filler sentence; named people and places are usually `people` and `place`."""
    maker = rng.choices(_MAKERS, weights=_WEIGHTS)[0]
    sentence = maker(rng, rng.choice(people if rng.random() < 0.8 else w.PEOPLE), place)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _thing(rng: random.Random, article: str = "the") -> str:
    adjective = f"{rng.choice(w.ADJECTIVES)} " if rng.random() < 0.5 else ""
    phrase = f"{adjective}{rng.choice(w.THINGS)}"
    if article == "a" and phrase[0] in "aeiou":
        article = "an"
    return f"{article} {phrase}"


def _somebody(rng: random.Random) -> str:
    return (
        f"the {rng.choice(w.ADJECTIVES)} {rng.choice(w.TRADES)}"
        if rng.random() < 0.4
        else f"the {rng.choice(w.TRADES)}"
    )


def _spot(rng: random.Random) -> str:
    return f"{rng.choice(w.PREPOSITIONS)} {_thing(rng)}"


def _habit(rng: random.Random, name: str, place: str) -> str:
    who = rng.choice((name, _somebody(rng)))
    often = rng.choice(("often", "rarely", "always", "sometimes", "seldom", "never"))
    return f"{who} {often} {rng.choice(w.VERBS)[1]} {_thing(rng)} {rng.choice((_spot(rng), f'in {place}', 'at night'))}"


def _event(rng: random.Random, name: str, place: str) -> str:
    day = f"On {rng.choice(w.DAYS)} " if rng.random() < 0.4 else ""
    who = rng.choice((name, _somebody(rng)))
    return f"{day}{who} {rng.choice(w.VERBS)[2]} {_thing(rng, rng.choice(('a', 'the')))} {rng.choice(w.ADVERBS)}"


def _plural(rng: random.Random, name: str, place: str) -> str:
    number = rng.choice(w.NUMBERS)
    return f"{number} {rng.choice(w.TRADES)}s from {place} {rng.choice(w.VERBS)[2]} {_thing(rng)} and {_thing(rng)}"


def _scene(rng: random.Random, name: str, place: str) -> str:
    what = f"there is {_thing(rng, 'a')} {_spot(rng)}"
    return f"{what}, and {_somebody(rng)} {rng.choice(w.VERBS)[1]} it {rng.choice(w.ADVERBS)}"


def _while(rng: random.Random, name: str, place: str) -> str:
    first, second = rng.choice(w.VERBS)[3], rng.choice(w.VERBS)[2]
    return f"while {_somebody(rng)} was {first} {_thing(rng)}, {name} {second} {_thing(rng)}"


def _looks(rng: random.Random, name: str, place: str) -> str:
    adverb = rng.choice(("rather", "very", "quite", "a little", "almost"))
    return f"{_thing(rng)} in {place} looks {adverb} {rng.choice(w.ADJECTIVES)} in the {rng.choice(w.SEASONS)}"


def _wish(rng: random.Random, name: str, place: str) -> str:
    plan = f"{name} wanted to {rng.choice(w.VERBS)[0]} {_thing(rng)}"
    return f"{plan}, but {_somebody(rng)} {rng.choice(w.VERBS)[2]} it first"


def _saying(rng: random.Random, name: str, place: str) -> str:
    return f'"Do not {rng.choice(w.VERBS)[0]} {_thing(rng)}," said {name} to {_somebody(rng)}'


def _items(rng: random.Random, name: str, place: str) -> str:
    a, b = rng.sample(w.ITEMS, 2)
    return f"{_somebody(rng)} sold {rng.choice(w.COLORS)} {a} and {rng.choice(w.NUMBERS)} {b} {_spot(rng)}"


def _travel(rng: random.Random, name: str, place: str) -> str:
    return f"the {rng.choice(w.VEHICLES)} to {place} leaves {rng.choice(w.ADVERBS)} in {rng.choice(w.MONTHS)}"


def _relative(rng: random.Random, name: str, place: str) -> str:
    verb = rng.choice(w.VERBS)
    return (
        f"{_somebody(rng)} who {verb[1]} {_thing(rng)} {rng.choice(w.VERBS)[1]} {_thing(rng)} {rng.choice(w.ADVERBS)}"
    )


_Maker = Callable[[random.Random, str, str], str]
_MAKERS: tuple[_Maker, ...] = (
    _habit, _event, _plural, _scene, _while, _looks, _wish, _saying, _items, _travel, _relative,
)  # fmt: skip
_WEIGHTS = (16, 20, 8, 8, 10, 8, 8, 6, 8, 3, 8)
