"""Retrieval scores: every trial's score of every head, with what the trial was and whether it was answered."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int32

from rhlens.results.export import save_table
from rhlens.results.frames import trial_frame
from rhlens.results.heads import Head
from rhlens.results.html import head_map, result_html
from rhlens.results.score_file import read_score_file, write_score_file
from rhlens.results.stats import Interval, mean_ci

Protocol = Literal["paper", "wu2024"]
RETRIEVAL_THRESHOLD = 0.1
RECALL_GATE = 0.5
SHOWN = 50
"""Heads in the table that a notebook shows."""


def check_protocol(protocol: str) -> None:
    """Raise ValueError unless `protocol` is one."""
    if protocol not in get_args(Protocol):
        raise ValueError(f"protocol must be 'paper' or 'wu2024', not {protocol!r}")


@dataclass(frozen=True, eq=False)
class HeadScores:
    """Scores of one model, readable under both protocols from one run.

    `"paper"` (Eq. 1): of a trial, the share of the needle's *set* of tokens that a head copied; all trials count.
    `"wu2024"` (the paper's released code): copy steps / answer tokens, repeats counted, so it can pass 1; only trials
    whose ROUGE-1 recall is above .5 count.

    Attributes:
        set_scores: score of each trial and head under `"paper"`; None where a published file holds sums only.
        sum_scores: the same under `"wu2024"`, before the recall gate.
        trials: one row a trial; `recall`, `exact`, `output` and the trial's labels where known.
        protocol: which of the two every method reads.
        run: device, dtype and version it was measured with; empty for published files.
        gated: the file's own trials are only those that passed the gate (published files).
        copies: every copy event as row of `trials`, step of the answer, layer, head, and which token of the needle's
            answer was copied; None where a file does not say.
    """

    set_scores: Float[np.ndarray, "trial layer head"] | None = field(repr=False)
    sum_scores: Float[np.ndarray, "trial layer head"] = field(repr=False)
    trials: pd.DataFrame = field(repr=False)
    model: str = ""
    protocol: Protocol = "paper"
    gated: bool = False
    run: dict[str, str] = field(default_factory=dict, repr=False)
    copies: Int32[np.ndarray, "event 5"] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_protocol(self.protocol)
        if self.protocol == "paper" and self.set_scores is None:
            raise ValueError("these scores hold sums only and cannot be read under 'paper': use protocol='wu2024'")
        shape = self.sum_scores.shape
        if len(shape) != 3 or (self.set_scores is not None and self.set_scores.shape != shape):
            raise ValueError(f"scores must be [trial, layer, head] arrays of one shape, not {shape}")
        if self.protocol == "wu2024" and not self.gated and "recall" not in self.trials:
            raise ValueError("these trials have no column 'recall', which 'wu2024' needs to know the answered ones")
        if len(self.trials) != shape[0]:
            raise ValueError(f"{shape[0]} trials of scores but {len(self.trials)} rows of labels")

    @property
    def n_trials(self) -> int:
        """Trials that count under the protocol."""
        return int(self.counted.sum())

    @property
    def n_layers(self) -> int:
        return self.sum_scores.shape[1]

    @property
    def n_heads(self) -> int:
        return self.sum_scores.shape[2]

    @property
    def counted(self) -> Bool[np.ndarray, " trial"]:
        """Which trials count: all of them (paper), or those with ROUGE-1 recall above .5 (wu2024)."""
        if self.protocol == "paper" or self.gated:
            return np.ones(len(self.trials), dtype=bool)
        return self.trials["recall"].to_numpy() > RECALL_GATE

    @property
    def values(self) -> Float[np.ndarray, "counted layer head"]:
        """Score of every counted trial and head."""
        if self.protocol == "paper":
            assert self.set_scores is not None
            return self.set_scores
        return self.sum_scores[self.counted]

    def under(self, protocol: Protocol) -> HeadScores:
        """The same run read under another protocol; nothing is run again."""
        return replace(self, protocol=protocol)

    def mean(self) -> Float[np.ndarray, "layer head"]:
        """Retrieval score of each head: the mean over counted trials.

        Raises:
            ValueError: no trial counts (under wu2024: none was answered).
        """
        return self._checked().mean(axis=0)

    def activation_frequency(self) -> Float[np.ndarray, "layer head"]:
        """Share of counted trials in which each head copied at least one token of the needle."""
        return (self._checked() > 0).mean(axis=0)

    def _checked(self) -> Float[np.ndarray, "counted layer head"]:
        if self.n_trials == 0:
            raise ValueError(
                "no trial was answered with a ROUGE-1 recall above .5, so 'wu2024' leaves nothing to average: "
                "use protocol='paper', shorter contexts or a stronger model"
            )
        return self.values

    def score_ci(self, head: tuple[int, int]) -> Interval:
        """Retrieval score of one head with its 95 % interval over needles."""
        return mean_ci(self._checked()[:, head[0], head[1]], self.needles)

    @property
    def needles(self) -> list[object]:
        """The needle of each counted trial (trials of one needle are alike); unknown ones stand for themselves."""
        known = "needle" in self.trials.columns
        return list((self.trials["needle"] if known else self.trials.index)[self.counted])

    def ranked(self) -> list[Head]:
        """All heads, highest score first; ties in layer and head order."""
        order = np.argsort(-self.mean(), axis=None, kind="stable")
        return [Head(*divmod(int(i), self.n_heads)) for i in order]

    def top(self, k: int = 10) -> list[Head]:
        """The `k` heads with the highest retrieval score."""
        if k < 0:
            raise ValueError(f"k must be 0 or more, not {k}")
        return self.ranked()[:k]

    def retrieval_heads(self, threshold: float = RETRIEVAL_THRESHOLD) -> list[Head]:
        """Heads whose mean score is at least `threshold` (the paper's 0.1), highest first."""
        mean = self.mean()
        # A mean of tenths that is 0.1 on paper may be 0.0999... in binary.
        return [h for h in self.ranked() if mean[h] >= threshold - 1e-9]

    def frame(self) -> pd.DataFrame:
        """One row a head, highest first: layer, head, score, its standard error, activation frequency, n."""
        mean, frequency = self.mean(), self.activation_frequency()
        sem = (
            self.values.std(axis=0, ddof=1) / np.sqrt(self.n_trials)
            if self.n_trials > 1
            else np.full_like(mean, np.nan)
        )
        return pd.DataFrame(
            [
                {
                    "name": str(h),
                    "layer": h.layer,
                    "head": h.head,
                    "score": mean[h],
                    "stderr": sem[h],
                    "activation_frequency": frequency[h],
                    "n": self.n_trials,
                }
                for h in self.ranked()
            ]
        )

    def by_trial(self) -> pd.DataFrame:
        """One row a trial, layer and head: the trial's labels, `counted` under the protocol, and the scores.

        `sum_score` is always there, `set_score` where it is known; zeros are rows like others.
        """
        table = trial_frame(self.sum_scores, self.trials.assign(counted=self.counted), "sum_score")
        return table if self.set_scores is None else table.assign(set_score=self.set_scores.ravel())

    def export(self, path: str | Path) -> Path:
        """Write `by_trial` as CSV or parquet, as the suffix says.

        Raises:
            ValueError: another suffix; or parquet, and pyarrow is not installed.
        """
        return save_table(self.by_trial(), path)

    def save(self, path: str | Path) -> Path:
        """Write rhlens's own file: scores, copy events and labels, as `rhlens.results.score_file` documents them.

        Raises:
            ValueError: a score or label that no run can have found, or more scores than one file holds.
        """
        return write_score_file(
            path,
            {"sum_scores": self.sum_scores, "set_scores": self.set_scores, "copies": self.copies},
            {
                "model": self.model,
                "protocol": self.protocol,
                "gated": self.gated,
                "run": self.run,
                "trials": self.trials.to_dict(orient="list"),
            },
        )

    @classmethod
    def load(cls, path: str | Path) -> HeadScores:
        """Scores that `save` wrote.

        Raises:
            ValueError: the file is missing, damaged, or of a newer format.
        """
        arrays, meta = read_score_file(path)
        optional = {name: arrays.get(name) for name in ("set_scores", "copies")}
        trials = pd.DataFrame(meta["trials"])
        fields = {name: meta[name] for name in ("model", "protocol", "gated", "run")}
        try:
            return cls(sum_scores=arrays["sum_scores"], trials=trials, **optional, **fields)
        except ValueError as error:
            raise ValueError(f"{path} is not a file of rhlens scores ({error})") from None

    def __repr__(self) -> str:
        top = ", ".join(f"{h} {self.mean()[h]:.2f}" for h in self.top(3)) if self.n_trials else "no answered trial"
        return (
            f"HeadScores({self.model or 'model'}: {self.n_trials} trials, {self.n_layers} x {self.n_heads} heads, "
            f"{self.protocol}; {top})"
        )

    def _repr_html_(self) -> str:
        if not self.n_trials:
            return result_html(self, pd.DataFrame())
        return result_html(self, self.frame().head(SHOWN), head_map(self.mean(), "retrieval score"))
