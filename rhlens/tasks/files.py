"""The user's own files of questions: read, checked, and refused in one sentence that says what is wrong where."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rhlens.results import files
from rhlens.results.files import MIB

T = TypeVar("T")
LARGEST = 1024 * MIB
"""Bytes of a file of questions that are read; MuSiQue's training questions have a quarter of it."""


def read_text(path: str | Path) -> str:
    """The text of a file of questions; see `rhlens.results.files.read_text`.

    Raises:
        ValueError: the file is missing, no plain file, too large, not UTF-8, or empty.
    """
    return files.read_text(path, LARGEST, "a file of questions")


def parse_json(text: str, where: str) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: it is not JSON, has a key twice, or is nested too deeply; or a text in it is none that can be
            written, since it holds half of a character.
    """
    try:
        found = files.parse_json(text)
        if "\\ud" in text.lower():  # how JSON spells halves: two make a character, one is no text at all
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where} holds half of a character (a lone surrogate): write it whole") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON ({files.brief(error)})") from None
    return found


def records(path: str | Path) -> Iterator[tuple[str, Any]]:
    """The entries of a JSON list, or of a file with one of them a line, each after the words that say where it stands.

    Raises:
        ValueError: the file cannot be read, or some of it is not JSON.
    """
    text = read_text(path)
    if text.lstrip().startswith("["):
        yield from ((f"{path}, entry {i}", entry) for i, entry in enumerate(parse_json(text, str(path)), 1))
        return
    # Lines end at line feeds alone: JSON may hold the other characters that `splitlines` splits at.
    for i, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{path}, line {i}", parse_json(line, f"{path}, line {i}")


def text_in(entry: Any, field: str, where: str) -> str:
    """The text that a field of an entry holds, without space around it.

    Raises:
        ValueError: there is no such field, or no text in it.
    """
    value = entry.get(field) if isinstance(entry, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where} needs a field {field!r} with text in it")
    return value.strip()


def each_in(entry: Any, field: str, where: str) -> Iterator[tuple[str, Any]]:
    """The entries of the list that a field of an entry holds, each after the words that say where it stands.

    Raises:
        ValueError: there is no such field, or no list in it.
    """
    found = entry.get(field) if isinstance(entry, dict) else None
    if not isinstance(found, list):
        raise ValueError(f"{where} needs a field {field!r} with a list in it")
    yield from ((f"{where}, {field}[{i}]", value) for i, value in enumerate(found))


def flag_in(entry: dict[str, Any], field: str, where: str, otherwise: bool) -> bool:
    """Whether a field of an entry says true, or `otherwise` where there is no such field.

    Raises:
        ValueError: it says neither true nor false.
    """
    value = entry.get(field, otherwise)
    if not isinstance(value, bool):
        raise ValueError(f"{where}: its field {field!r} must be true or false")
    return value


def texts_in(entry: Any, field: str, where: str) -> tuple[str, ...]:
    """The texts in the list that a field of an entry holds, each on one line.

    Raises:
        ValueError: there is no such field, no list in it, or not a text in each of its places.
    """
    found = tuple(value for _, value in each_in(entry, field, where))
    if not found or not all(isinstance(value, str) and value.strip() for value in found):
        raise ValueError(f"{where}: the list in its field {field!r} must hold one or more texts and nothing else")
    return tuple(map(one_line, found))


def one_line(text: str) -> str:
    """The text with single spaces: a model's answer ends where its line does."""
    return " ".join(text.split())


def answerable(path: str | Path, found: Sequence[T | None]) -> list[T]:
    """What can be answered of what a file held; how many questions cannot (None) is said on stderr.

    Raises:
        ValueError: none can.
    """
    kept = [one for one in found if one is not None]
    if not kept:
        raise ValueError(f"{path} holds no question that has an answer: put at least one there")
    if missing := len(found) - len(kept):
        print(f"{path}: {missing} of {len(found)} questions left out, since they have no answer", file=sys.stderr)
    return kept
