"""A run folder: what was asked for in `config.json`, and what was found in append-only `records.jsonl`.

Any number of processes may work in one folder. A line of `records.jsonl` is one finished unit, written whole under a
lock and sealed with a checksum: one that was never finished is cut off, and one that was changed is an error.
"""

from __future__ import annotations

import hashlib
import json
import operator
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from rhlens.results.files import MIB, names_wrong_path, parse_json, read_text
from rhlens.results.share import Out, Share, Unfinished, Unit

SCORE_VERSION = 2
"""Raised when the same unit of work would be measured otherwise: what older versions kept is then not taken up."""
PATIENCE = 60
"""Seconds to wait for a process that is writing: one that takes longer hangs."""
LONGEST_LINE, LONGEST_CONFIG = 256 * MIB, 16 * MIB
_START, _SEAL = b'{"key": "', b', "sha": "'


def content_key(*parts: Any) -> str:
    """A name for a unit of work that depends on everything that can change its result.

    Raises:
        TypeError: a part is neither what JSON knows nor an integer, so no text stands for its value.
    """
    text = json.dumps([SCORE_VERSION, *parts], sort_keys=True, default=operator.index)  # NumPy's integers are no ints
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class RunFolder:
    """Finished units of work on disk, by content key; a killed run loses at most what it was measuring side by side.

    Args:
        out: the folder, or a share of what is to be measured in it.

    Attributes:
        records: those that were there when the folder was last read or written.

    Raises:
        ValueError: the folder is none that can be written to, or holds files that are damaged.
        OSError: the disk is full or broken, or another process keeps the folder locked.
    """

    def __init__(self, out: Out, verb: str, settings: dict[str, Any]) -> None:
        self.share = out if isinstance(out, Share) else None
        self.path = Path(out.folder if isinstance(out, Share) else out)
        self.records: dict[str, dict[str, Any]] = {}
        self._lock = FileLock(self.path / ".lock", timeout=PATIENCE)
        self._n_read = self._n_lines = 0
        with self._alone():
            self._note(verb, settings)
            if self._file.exists():
                with self._open() as file:
                    self._catch_up(file)

    def append(self, key: str, record: dict[str, Any]) -> dict[str, Any]:
        """Keep one finished unit, on disk when this returns, unless another process kept it before.

        Returns:
            The record that is kept, as it reads from the disk.

        Raises:
            OSError: see above (ValueError where it is the folder); the records before are kept.
        """
        with self._alone(), self._open() as file:
            self._catch_up(file)
            if key not in self.records:
                self._write(file, _sealed(json.dumps({"key": key, **record}, ensure_ascii=False).encode()[:-1]))
                self._catch_up(file)
        return self.records[key]

    def mine(self, units: Sequence[Unit]) -> list[Unit]:
        """Which of all units are to be measured here: those of the share, or all.

        Args:
            units: the same ones in the same order in every process; neighbours that read the same.
        """
        return self.share.of(units) if self.share else list(units)

    def finished(self, keys: Collection[str]) -> dict[str, dict[str, Any]]:
        """The records, which hold all of `keys`.

        Raises:
            Unfinished: other shares are not done.
        """
        if self.share is not None:
            with self._alone(), self._open() as file:
                self._catch_up(file)
            if missing := set(keys) - self.records.keys():
                raise Unfinished(self.share, len(missing), len(set(keys)))
        return self.records

    @property
    def _file(self) -> Path:
        return self.path / "records.jsonl"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else reads or writes while inside."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with self._lock.acquire(poll_interval=0.01):
                yield
        except Timeout:
            raise TimeoutError(
                f"another process has kept the run folder {self.path} locked for {PATIENCE} s: "
                "end it if it hangs, or choose another folder"
            ) from None
        except OSError as error:
            kind = ValueError if names_wrong_path(error) else OSError
            raise kind(
                f"cannot write to the run folder {self.path} ({error.strerror or error}): mend that or choose another "
                "folder; what was finished is kept"
            ) from None

    def _note(self, verb: str, settings: dict[str, Any]) -> None:
        """Say in `config.json` what was asked for, beside what other verbs asked for in this folder."""
        path = self.path / "config.json"
        try:
            config = parse_json(read_text(path, LONGEST_CONFIG)) if os.path.lexists(path) else {}
            text = json.dumps(config | {verb: settings}, indent=2, default=str)
        except (ValueError, TypeError, RecursionError):
            raise ValueError(f"{path} is damaged: delete it") from None
        whole = self.path / ".config.json"
        whole.unlink(missing_ok=True)  # a link would have another file written, and a pipe waited for
        whole.write_text(text + "\n", encoding="utf-8")
        os.replace(whole, path)

    def _open(self) -> BinaryIO:
        if self._file.exists() and not self._file.is_file():
            raise ValueError(f"{self._file} is no plain file: choose another folder")
        return self._file.open("a+b")

    def _catch_up(self, file: BinaryIO) -> None:
        """Take in what anybody wrote since the last time; of equal keys the first record counts.

        A last line without an end is cut off: whoever writes holds the lock, so its writer is gone.
        """
        if file.seek(0, os.SEEK_END) < self._n_read:
            raise ValueError(f"{self._file} was cut or deleted by somebody else: start the same command again")
        file.seek(self._n_read)
        for line in iter(lambda: file.readline(LONGEST_LINE), b""):
            if not line.endswith(b"\n") and line.startswith(_START[: len(line)]) and len(line) < LONGEST_LINE:
                file.truncate(self._n_read)
                return
            try:
                key, record = _opened(line)
                self.records.setdefault(key, record)
            except (ValueError, KeyError, TypeError, RecursionError):
                raise ValueError(
                    f"{self._file}, line {self._n_lines + 1}, is damaged or of another version of rhlens: "
                    "delete that line or the folder"
                ) from None
            self._n_read, self._n_lines = self._n_read + len(line), self._n_lines + 1

    def _write(self, file: BinaryIO, line: bytes) -> None:
        """Append a line in one write; what a full disk takes of it is taken back."""
        try:
            while line:
                line = line[os.write(file.fileno(), line) :]
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), self._n_read)
            raise


def _sealed(body: bytes) -> bytes:
    """A line: an object without its closing brace, and its checksum."""
    return b'%s%s%s"}\n' % (body, _SEAL, hashlib.sha256(body).hexdigest()[:16].encode())


def _opened(line: bytes) -> tuple[str, dict[str, Any]]:
    """Key and record of a line; raises what `json` does, and ValueError unless the seal is whole."""
    body = line.rpartition(_SEAL)[0]
    if _sealed(body) != line:
        raise ValueError("the checksum does not fit")
    record = json.loads(body + b"}")
    return record.pop("key"), record
