"""KV caches that keep everything for some heads only: what is left of the answers, and what memory it takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from rhlens.results.curves import Measure
from rhlens.results.frames import save_csv
from rhlens.results.heads import Head
from rhlens.results.html import dose_map, result_html
from rhlens.results.stats import Interval, mean_ci

RETRIEVAL, RANDOM = "retrieval", "random"


class Window(NamedTuple):
    """Positions that a cache keeps for a head that it does not keep in full: the first (`sink`) and latest (`recent`).

    The first ones keep a model stable that was trained with full attention (StreamingLLM's attention sinks).
    """

    sink: int = 4
    recent: int = 64

    def kept(self, length: int) -> int:
        """Positions kept of `length`."""
        return min(length, self.sink + self.recent)


class CacheSize(NamedTuple):
    """What decides how large a KV cache is."""

    layers: int
    kv_heads: int
    d_head: int
    bytes_per_value: int

    @property
    def groups(self) -> int:
        """Key-value heads of the whole model."""
        return self.layers * self.kv_heads

    def bytes(self, length: int, full: int, window: Window) -> int:
        """Bytes of keys and values of `length` tokens, with everything kept for `full` key-value heads."""
        positions = full * length + (self.groups - full) * window.kept(length)
        return 2 * positions * self.d_head * self.bytes_per_value


@dataclass(frozen=True, eq=False)
class CacheCurve:
    """Every answer under every cache.

    Attributes:
        answers: one row a cache and trial: `heads` (`retrieval` or `random`), `full`, how many key-value heads kept
            everything, `draw`, `names`, the trial's labels, `output`, `recall`, `exact`, `error`.
        ranked: key-value heads as layer and number, highest score first: the first `full` are kept as `retrieval`.
        retrieving: how many of them serve a retrieval head (mean score >= 0.1).
        phase: `decode`, the cache is cut once the prompt is read; `both`, it is cut while the prompt is read too.
        run: device, dtype and version it was measured with.
    """

    answers: pd.DataFrame = field(repr=False)
    size: CacheSize
    window: Window
    ranked: list[Head] = field(repr=False)
    retrieving: int
    model: str = ""
    phase: str = "decode"
    run: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def fulls(self) -> list[int]:
        """How many key-value heads kept everything: the caches that were tried."""
        return sorted(int(n) for n in self.answers["full"].unique())

    @property
    def draws(self) -> int:
        return int(self.answers.loc[self.answers["heads"] == RANDOM, "draw"].nunique())

    def share(self, full: int) -> float:
        """Share of the whole cache's bytes that this one takes, over the prompts that were asked."""
        lengths = self.answers.drop_duplicates("trial")["length"]
        of = [sum(self.size.bytes(int(n), heads, self.window) for n in lengths) for heads in (full, self.size.groups)]
        return of[0] / of[1]

    def matrix(self, heads: str, full: int, measure: Measure = "recall") -> Float[np.ndarray, "draw trial"]:
        """Every draw's result on every trial.

        Raises:
            ValueError: this cache was not tried.
        """
        chosen = self.answers[(self.answers["full"] == full) & (self.answers["heads"] == heads)]
        if chosen.empty:
            raise ValueError(f"no cache kept {full} {heads!r} key-value heads in full: tried were {self.fulls}")
        return chosen.pivot(index="draw", columns="trial", values=measure).to_numpy(dtype=float)

    @property
    def needles(self) -> list[str]:
        """The needle of each trial, in the order of `matrix`'s columns."""
        return list(self.answers.drop_duplicates("trial").sort_values("trial")["needle"])

    def level(self, heads: str, full: int, measure: Measure = "recall") -> Interval:
        """Mean of `measure` with its 95 % interval over needles, and over draws too for random heads."""
        return mean_ci(self.matrix(heads, full, measure), self.needles, -np.inf if measure == "logprob" else 0.0)

    def gain(self, full: int, measure: Measure = "recall") -> Interval:
        """Retrieval heads kept minus as many random ones kept, paired by trial, with its 95 % interval."""
        difference = self.matrix(RETRIEVAL, full, measure) - self.matrix(RANDOM, full, measure)
        return mean_ci(difference, self.needles, -np.inf if measure == "logprob" else -1.0)

    def summary(self, measure: Measure = "recall") -> pd.DataFrame:
        """One row a cache: share of the bytes, mean, 95 % interval, number of trials and draws."""
        rows = []
        for heads in (RETRIEVAL, RANDOM):
            for full in self.fulls:
                level = self.level(heads, full, measure)
                cells = {"heads": heads, "full": full, "share": self.share(full), measure: level.value}
                draws = len(self.matrix(heads, full, measure))
                rows.append(cells | {"low": level.low, "high": level.high, "trials": level.n, "draws": draws})
        return pd.DataFrame(rows)

    def save(self, path: str | Path) -> Path:
        """Write all answers as CSV."""
        return save_csv(self.answers, path)

    def __repr__(self) -> str:
        return (
            f"CacheCurve({self.model or 'model'}: {self.fulls} of {self.size.groups} key-value heads in full, "
            f"{self.window.sink} + {self.window.recent} positions for the others, {self.draws} draws)"
        )

    def _repr_html_(self) -> str:
        summary = self.summary()
        return result_html(self, summary, dose_map(summary, "recall", "full"))
