"""One page with everything that experiments published: figures, claims, verdicts, and where they came from."""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from importlib import resources
from pathlib import Path
from typing import Any

from rhlens.show.publish import FINDINGS

ORDER = ("universal", "sparse", "intrinsic", "dynamic", "causal")
"""The paper's five properties come first, in its order; what else was published follows by name."""


def write_report(folder: str | Path, path: str | Path | None = None) -> Path:
    """Gather what was published in the folders of `folder` into one self-contained page, and return its path.

    Args:
        path: of the page; by default `report.html` in `folder`.

    Raises:
        ValueError: nothing was published there.
    """
    from jinja2 import Environment

    folder = Path(folder)
    sections = [_section(found.parent) for found in sorted(folder.glob(f"*/{FINDINGS}"), key=_place)]
    if not sections:
        raise ValueError(f"{folder} holds no published experiments: run one with --out {folder} first")
    source = (resources.files("rhlens.show") / "report.html.jinja").read_text(encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)
    path = folder / "report.html" if path is None else Path(path)
    path.write_text(page.render(sections=sections, interval=_interval), encoding="utf-8")
    return path


def _place(findings: Path) -> tuple[int, str]:
    name = findings.parent.name
    return next((i for i, known in enumerate(ORDER) if name.startswith(known)), len(ORDER)), name


def _section(folder: Path) -> dict[str, Any]:
    """An experiment's findings, its figures as data."""
    findings = json.loads((folder / FINDINGS).read_text(encoding="utf-8"))
    pngs = {name: (folder / f"{name}.png").read_bytes() for name in findings["figures"]}
    figures = [
        {"name": name, "caption": caption, "png": b64encode(pngs[name]).decode(), "wide": _is_wide(pngs[name])}
        for name, caption in findings["figures"].items()
    ]
    claims = [claim | {"clauses": claim["criterion"].split("; ")} for claim in findings["claims"]]
    return findings | {"folder": folder.name, "figures": figures, "claims": claims}


def _is_wide(png: bytes) -> bool:
    """Whether a figure takes the whole width of the page; a PNG's first chunk says its size."""
    width, height = struct.unpack(">II", png[16:24])
    return width > 1.9 * height


def _interval(statistic: dict[str, float | None]) -> str:
    numbers = ["unknown" if statistic[key] is None else f"{statistic[key]:.2f}" for key in ("value", "low", "high")]
    return "{} [{}, {}]".format(*numbers)
