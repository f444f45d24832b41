"""What all results do with their tables: write them, spread maps over trials."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float


def trial_frame(values: Float[np.ndarray, "trial layer head"], trials: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row a trial, layer and head: the trial's labels, and its value in `column`."""
    n, layers, heads = values.shape
    place = pd.DataFrame(np.indices((n, layers, heads)).reshape(3, -1).T, columns=["row", "layer", "head"])
    labels = trials.iloc[place["row"]].reset_index(drop=True)
    return pd.concat([labels, place[["layer", "head"]]], axis=1).assign(**{column: values.ravel()})


def save_csv(table: pd.DataFrame, path: str | Path) -> Path:
    """Write a table as CSV, in a folder that is made if need be."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)
    return path
