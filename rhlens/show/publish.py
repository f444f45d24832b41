"""What an experiment leaves behind: figures, the data behind each, its claims, and where all of it came from."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rhlens.claims.claim import Claim
from rhlens.show.canvas import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FINDINGS = "findings.json"


@dataclass(frozen=True)
class Drawn:
    """A figure, the table that it shows, and one honest sentence about it."""

    figure: Figure
    data: pd.DataFrame
    caption: str


def publish(
    folder: str | Path, title: str, drawn: Mapping[str, Drawn], claims: Sequence[Claim], settings: Mapping[str, Any]
) -> Path:
    """Write NAME.png and NAME.csv for everything drawn, and `findings.json` with the rest; returns the folder.

    Args:
        settings: what the experiment was run with (models, seed, sizes, device), as JSON can hold it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, one in drawn.items():
        save_figure(one.figure, folder / f"{name}.png")
        one.data.to_csv(folder / f"{name}.csv", index=False)
    findings = {
        "title": title,
        "figures": {name: one.caption for name, one in drawn.items()},
        "claims": [claim_record(claim) for claim in claims],
        "settings": dict(settings),
        "provenance": provenance(),
    }
    text = json.dumps(findings, indent=2, ensure_ascii=False, default=str, allow_nan=False)
    (folder / FINDINGS).write_text(text + "\n", encoding="utf-8")
    return folder


def folder_name(experiment: str, models: str | None, scores: Sequence[Path] | None) -> str:
    """Where figures of many models go: those of models or files that somebody chose stand beside the shipped ones."""
    return experiment + ("-scores" if scores else "-models" if models else "")


def claim_record(claim: Claim) -> dict[str, Any]:
    """A claim as JSON can hold it: an unknown bound is null."""
    statistic = {name: x if math.isfinite(x) else None for name, x in claim.statistic._asdict().items()}
    return {**vars(claim), "statistic": statistic}


def provenance() -> dict[str, str]:
    """Versions of what computed the results, and the commit of this checkout (`+` where files had changed since)."""
    packages = ("rhlens", "torch", "transformers", "transformer-lens", "numpy")
    return {"commit": _commit(), **{name: version(name) for name in packages}}


def _commit() -> str:
    """Figures do not count as changed: writing them is what is going on."""

    def git(*args: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(["git", "-C", here, *args], capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)figures")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
