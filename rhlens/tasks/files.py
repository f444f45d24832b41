"""The user's own files of questions: read, checked, and refused in one sentence that says what is wrong where."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def read_text(path: str | Path) -> str:
    """The text of a file.

    Raises:
        ValueError: the file is missing, not UTF-8, or empty.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): give a UTF-8 file") from None
    if not text.strip():
        raise ValueError(f"{path} is empty: put at least one question there")
    return text


def parse_json(text: str, where: str) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({error})") from None


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
