"""One page with everything that experiments published: figures, claims, verdicts, and where they came from."""

from __future__ import annotations

import struct
from base64 import b64encode
from importlib import resources
from pathlib import Path
from typing import Any

from rhlens.results.files import MIB, brief, check_file, parse_json, read_text
from rhlens.results.stats import Interval
from rhlens.show.publish import FINDINGS

LARGEST = 64 * MIB
"""Bytes of a file that goes into the page: figures take a thousandth of it."""

ORDER = ("universal", "sparse", "intrinsic", "dynamic", "causal")
"""The paper's five properties come first, in its order; what else was published follows by name."""


def write_report(folder: str | Path, path: str | Path | None = None) -> Path:
    """Gather what was published in the folders of `folder` into one self-contained page, and return its path.

    Args:
        path: of the page; by default `report.html` in `folder`.

    Raises:
        ValueError: nothing was published there, or it is damaged.
    """
    from jinja2 import Environment

    folder = Path(folder)
    sections = [_section(found.parent) for found in sorted(folder.glob(f"*/{FINDINGS}"), key=_place)]
    if not sections:
        raise ValueError(f"{folder} holds no published experiments: run one with --out {folder} first")
    source = (resources.files("rhlens.show") / "report.html.jinja").read_text(encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)
    path = folder / "report.html" if path is None else Path(path)
    path.write_text(page.render(sections=sections), encoding="utf-8", errors="replace")
    return path


def _place(findings: Path) -> tuple[int, str]:
    name = findings.parent.name
    return next((i for i, known in enumerate(ORDER) if name.startswith(known)), len(ORDER)), name


def _section(folder: Path) -> dict[str, Any]:
    """An experiment's findings, its figures as data."""
    path = folder / FINDINGS
    try:
        findings = parse_json(read_text(path, LARGEST, "what `publish` wrote"))
        figures = [_figure(folder, name, caption) for name, caption in findings["figures"].items()]
        claims = [claim | _as_read(claim) for claim in findings["claims"]]
        told = {key: kind(findings[key]) for key, kind in (("title", str), ("settings", dict), ("provenance", dict))}
    except (ValueError, LookupError, TypeError, AttributeError, struct.error, OSError) as error:
        raise ValueError(f"{path} is damaged ({brief(error)}): publish that experiment again") from None
    return told | {"folder": folder.name, "figures": figures, "claims": claims}


def _figure(folder: Path, name: str, caption: str) -> dict[str, Any]:
    """A figure as data; it lies in the folder itself."""
    if Path(name).name != name:
        raise ValueError(f"{name!r} is no name of a figure")
    png = check_file(folder / f"{name}.png", LARGEST, "a figure").read_bytes()
    return {"name": name, "caption": caption, "png": b64encode(png).decode(), "wide": _is_wide(png)}


def _is_wide(png: bytes) -> bool:
    """Whether a figure takes the whole width of the page; a PNG's first chunk says its size."""
    width, height = struct.unpack(">II", png[16:24])
    return width > 1.9 * height


def _as_read(claim: dict[str, Any]) -> dict[str, Any]:
    """What a claim says, in the words of the page."""
    statistic = claim["statistic"]
    numbers = ["unknown" if statistic[key] is None else f"{statistic[key]:.2f}" for key in ("value", "low", "high")]
    return {
        "clauses": claim["criterion"].split("; "),
        "interval": "{} [{}, {}]".format(*numbers),
        "sample": Interval(**statistic).sample,
    }
