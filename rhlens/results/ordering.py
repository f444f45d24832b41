"""What different tasks lose without the same heads, side by side."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from rhlens.results.curves import TOP, AblationCurve, Measure

NEEDLE = "needle"


def drops(curves: Mapping[str, AblationCurve], k: int, measure: Measure = "recall") -> pd.DataFrame:
    """One row a task: unablated, without the top k heads, without k others, and the drop beyond the control's.

    `drop` is control minus top, paired by prompt, with its 95 % interval over prompts and draws; `share` is the drop as
    a share of what the unablated model reaches.

    Raises:
        ValueError: a curve was not measured at k.
    """
    rows = []
    for task, curve in curves.items():
        levels = {name: curve.level(heads, n, measure) for name, heads, n in (
            ("unablated", TOP, 0), ("without top", TOP, k), ("without others", curve.controls[0], k))}  # fmt: skip
        drop, whole = curve.contrast(k, measure), levels["unablated"].value
        row = {"task": task, **{name: level.value for name, level in levels.items()}}
        row |= {"drop": drop.value, "low": drop.low, "high": drop.high, "share": drop.value / whole if whole else None}
        rows.append(row | {"p": curve.p_value(k, measure), "prompts": drop.n, "draws": curve.draws})
    return pd.DataFrame(rows)
