"""Made-up answers, told by what stands behind them: how many are found, and how many alarms are false."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from rhlens.results.heads import Head
from rhlens.results.prediction import auroc
from rhlens.results.stats import Interval, mean_ci
from rhlens.results.support import SUPPORTED


@dataclass(frozen=True, eq=False)
class Detection:
    """Answers to questions with and without their needle in the prompt, and the support that heads gave each.

    An alarm is an answer whose mean support is below `threshold`; it is right where the needle is absent.

    Attributes:
        trials: one row an answer: the trial's labels, `absent`, `output`, `recall`, `exact`, and `support`, 0..1
            (`Support.score`; 0 where nothing with a letter or digit was said).
        control: the support of each answer by as many random heads, draw by draw.
        heads: those whose support is in `trials`.
    """

    trials: pd.DataFrame = field(repr=False)
    control: Float[np.ndarray, "draw trial"] = field(repr=False)
    heads: list[Head] = field(repr=False)
    model: str = ""
    threshold: float = SUPPORTED
    run: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def absent(self) -> Bool[np.ndarray, " trial"]:
        return self.trials["absent"].to_numpy(dtype=bool)

    @property
    def alarms(self) -> Bool[np.ndarray, " trial"]:
        """Answers that are called made up."""
        return self.trials["support"].to_numpy(dtype=float) < self.threshold

    def precision(self) -> Interval:
        """Share of the alarms that are right, with its 95 % interval over needles; nan without any."""
        return self._share(self.absent, self.alarms)

    def recall(self) -> Interval:
        """Share of the made-up answers that raise an alarm, with its 95 % interval over needles."""
        return self._share(self.alarms, self.absent)

    def area(self) -> Interval:
        """AUROC: chance that a made-up answer has less support than one whose needle is there."""
        return auroc(self.absent, -self.trials["support"].to_numpy(dtype=float), list(self.trials["needle"]))

    def control_area(self) -> Interval:
        """The same by random heads."""
        return auroc(self.absent, -self.control, list(self.trials["needle"]))

    def advantage(self) -> Interval:
        """AUROC of the heads minus that of random ones, with its 95 % interval over needles and draws."""
        support = self.trials["support"].to_numpy(dtype=float)
        return auroc(self.absent, -support, list(self.trials["needle"]), minus=-self.control)

    def summary(self) -> pd.DataFrame:
        """One row a number: precision and recall at the threshold, and the areas."""
        found = {
            f"precision (support below {self.threshold:g})": self.precision(),
            f"recall (support below {self.threshold:g})": self.recall(),
            "AUROC": self.area(),
            "AUROC of random heads": self.control_area(),
        }
        return pd.DataFrame([{"measure": name, **level._asdict()} for name, level in found.items()])

    def _share(self, of: Bool[np.ndarray, " trial"], among: Bool[np.ndarray, " trial"]) -> Interval:
        return mean_ci(of[among].astype(float), list(self.trials["needle"][among]))
