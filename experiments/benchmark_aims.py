"""What `benchmark.py` was to reach, held against what it measured."""

from typing import Any

import pandas as pd
from benchmark_parts import HF, TL

LONG = 8000
"""Tokens of the prompts that aims for long contexts speak of."""
RATIOS = [
    ("detection", HF, 2.5, 0),
    ("detection", TL, 20.0, 0),
    ("ablation, decode", HF, 50.0, LONG),
    ("ablation, both", HF, 1.5, 0),
    ("causal map", HF, 50.0, 0),
]
"""Workload, the tool it is compared with, how many times as fast it should be, and from how many tokens on."""
PARTS = [("peak memory", 1.3), ("reading every head", 1.3), ("seconds of rhlens --help", 0.4)]
"""Beginnings of the names of other measurements, and what they may be at most."""


def aims_table(workloads: pd.DataFrame, parts: pd.DataFrame) -> pd.DataFrame:
    """One row a measurement that an aim speaks of: the aim, what was reached, what could be, and if it is enough."""
    rows = []
    most = workloads.groupby(["workload", "model", "tokens"])["units"].transform("max")
    whole = workloads["units"] == most  # a sweep of fewer conditions is there for its slope
    for workload, tool, least, tokens in RATIOS:
        found = (workloads["workload"] == workload) & (workloads["tool"] == tool) & (workloads["tokens"] >= tokens)
        for row in _records(workloads[found & whole]):
            what = f"{workload} against {tool}, {row['model']}, {row['tokens']} tokens, {row['units']} units"
            rows.append({"aim": what, "wanted": f">= {least}", "reached": row["ratio"], "bound": row["of_least"],
                         "met": row["ratio"] >= least})  # fmt: skip
    for name, most in PARTS:
        for row in _records(parts[parts["what"].str.startswith(name)]):
            what = f"{row['what']}, {row['tokens']} tokens" if row["tokens"] else str(row["what"])
            rows.append({"aim": what, "wanted": f"<= {most}", "reached": row["median"], "met": row["median"] <= most})
    return pd.DataFrame(rows)


def _records(frame: Any) -> list[dict[str, Any]]:
    return frame.to_dict(orient="records")
