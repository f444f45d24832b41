"""Tables as files that other tools read."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from rhlens.results.frames import save_csv


def save_table(table: pd.DataFrame, path: str | Path) -> Path:
    """Write a table as CSV or parquet, as the suffix says, in a folder that is made if need be.

    Raises:
        ValueError: another suffix; or parquet, and pyarrow is not installed.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv":
        return save_csv(table, path)
    if path.suffix.lower() != ".parquet":
        raise ValueError(f"{path} names no form to export to: end it in .csv or .parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        table.to_parquet(path, engine="pyarrow", index=False)
    except ImportError:
        raise ValueError("parquet needs pyarrow: pip install 'rhlens[parquet]', or export to .csv") from None
    return path
