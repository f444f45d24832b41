"""Files that others wrote, opened with care: nothing is read before it is known to be a file of a bearable size."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

MIB = 2**20
LONGEST = 200
_WRONG_PATH = {"ENOENT", "ENOTDIR", "EISDIR", "EEXIST", "EACCES", "EPERM", "ELOOP", "ENAMETOOLONG", "EROFS", "EINVAL"}


def names_wrong_path(error: OSError) -> bool:
    """Whether another path would mend it: unlike a full disk, which is no fault of what was asked for."""
    return errno.errorcode.get(error.errno or 0) in _WRONG_PATH


def check_file(path: str | Path, limit: int, wanted: str = "a score file") -> Path:
    """The path of a plain file of at most `limit` bytes.

    Args:
        wanted: what to give instead, as the sentence of an error says.

    Raises:
        ValueError: it is missing, a folder, a pipe or the like, or too large.
    """
    path = Path(path)
    try:
        what = "is a folder" if path.is_dir() else "is no plain file" if path.exists() else "does not exist"
        size = path.stat().st_size if path.is_file() else None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({brief(error)}): give {wanted}") from None
    if size is None:
        raise ValueError(f"{path} {what}: give {wanted}")
    if size > limit:
        raise ValueError(
            f"{path} has {size / MIB:,.1f} MiB, more than the {limit / MIB:,.0f} MiB that are read: give {wanted}"
        )
    return path


def read_text(path: str | Path, limit: int, wanted: str = "a score file", empty: bool = False) -> str:
    """The text of a file of at most `limit` bytes, its lines ended by line feeds.

    Args:
        wanted: see `check_file`.
        empty: whether it may be empty.

    Raises:
        ValueError: see `check_file`; or it cannot be read, is not UTF-8, or is empty.
    """
    path = check_file(path, limit, wanted)
    try:
        with path.open("rb") as file:
            text = file.read(limit).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({brief(error)}): give a UTF-8 file") from None
    if not empty and not text.strip():
        raise ValueError(f"{path} is empty: give {wanted}")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_json(text: str) -> Any:
    """What a JSON text says, where no object has a key twice.

    Raises:
        ValueError: it is not JSON, nested too deeply, or has a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it has a key twice")
    return found


def brief(error: object) -> str:
    """What an error or a value says, on one line and no longer than a person reads: parsers quote what they read."""
    text = " ".join(str(error).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
