"""A run that is divided: each process measures one share of the units, and the run folder is where they meet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Unit = TypeVar("Unit")


@dataclass(frozen=True)
class Share:
    """A run folder of which this process measures one share: given as `out` in place of the folder.

    Which units belong to a share depends on what is asked alone, so processes need not know of each other. A call ends
    with the result if the folder then holds all units, and else with `Unfinished`.

    Raises:
        ValueError: there is no such share.
    """

    folder: str | Path
    number: int
    n: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.n:
            raise ValueError(f"share {self.number} of {self.n} is none: shares are numbered from 1 to {self.n}")

    def __str__(self) -> str:
        return f"{self.folder}, share {self.number} of {self.n}"

    @classmethod
    def parse(cls, folder: str | Path, text: str) -> Share:
        """A share of `folder` that is written like 2/8."""
        if (match := re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)) and 1 <= int(match[1]) <= int(match[2]):
            return cls(folder, int(match[1]), int(match[2]))
        from rhlens.results.files import brief

        raise ValueError(f"--shard must be which shard and of how many, from 1/8 to 8/8, not {brief(repr(text))}")

    def of(self, units: Sequence[Unit]) -> list[Unit]:
        """Its part of `units`; neighbours stay together."""
        start, end = (len(units) * i // self.n for i in (self.number - 1, self.number))
        return list(units[start:end])


class Unfinished(Exception):
    """A share is done, and its folder lacks units of other shares.

    Attributes:
        n_left: how many, of `n_units`.
    """

    def __init__(self, share: Share, n_left: int, n_units: int) -> None:
        super().__init__(share, n_left, n_units)
        self.share, self.n_left, self.n_units = share, n_left, n_units

    def __str__(self) -> str:
        return (
            f"{self.share}, is done; {self.n_left} of {self.n_units} units are left to other shares: once they are "
            "done, the same without a share gives the result"
        )


Out = str | Path | Share
"""A run folder, or this process's share of it."""
