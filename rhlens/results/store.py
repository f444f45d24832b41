"""A run folder: what was asked for in `config.json`, and what was found in append-only `records.jsonl`."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

SCORE_VERSION = 1
"""Raised when the same unit of work would be measured otherwise: what older versions kept is then not taken up."""


def content_key(*parts: Any) -> str:
    """A name for a unit of work that depends on everything that can change its result."""
    return hashlib.sha256(json.dumps([SCORE_VERSION, *parts], sort_keys=True, default=str).encode()).hexdigest()[:24]


class RunFolder:
    """Finished units of work on disk, by content key; a killed run loses at most the unit in flight.

    Raises:
        ValueError: the folder cannot be written to.
    """

    def __init__(self, path: str | Path, verb: str, settings: dict[str, Any]) -> None:
        self.path = Path(path)
        self.records: dict[str, dict[str, Any]] = {}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._note(verb, settings)
            self._load()
        except OSError as error:
            raise ValueError(f"cannot write to the run folder {path} ({error.strerror}): choose another") from None

    @property
    def _file(self) -> Path:
        return self.path / "records.jsonl"

    def _note(self, verb: str, settings: dict[str, Any]) -> None:
        """Say in `config.json` what was asked for, beside what other verbs asked for in this folder."""
        path = self.path / "config.json"
        try:
            config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except ValueError:
            raise ValueError(f"{path} is damaged: delete it") from None
        path.write_text(json.dumps(config | {verb: settings}, indent=2, default=str) + "\n", encoding="utf-8")

    def _load(self) -> None:
        """Read what is there; a last line that was being written when the run died is cut off."""
        if not self._file.exists():
            return
        data = self._file.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            with self._file.open("r+b") as file:
                file.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                entry = json.loads(line)
                self.records[entry.pop("key")] = entry
            except (ValueError, KeyError, AttributeError):
                raise ValueError(f"{self._file}, line {number}, is damaged: delete that line or the folder") from None

    def append(self, key: str, record: dict[str, Any]) -> None:
        """Keep one finished unit, on disk when this returns."""
        with self._file.open("ab") as file:
            file.write(json.dumps({"key": key, **record}, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.records[key] = record
