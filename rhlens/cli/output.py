"""What verbs say: tables for people, or with `--json` one object for programs.

The object is strict JSON on stdout, alone there; notes go to stderr. What is no finite number is null. An interval is
`{"value", "low", "high", "n"}`, a table a list of rows. Every object has `rhlens` (the version) and `verb`, those that
measure `model`, `run` (device, dtype, versions) and `written` (files), and besides:

==========  =========================================================================================================
detect      protocol, trials (how many), recall, exact, retrieval_heads (names), heads (a row a head, all of them)
check       forms (a row a form and haystack), advice
ablate      method, phase, recall, exact, logprob (of each a row a k and head set), claim (null if nothing was ablated)
map         method, phase, trials, spearman, heads
patch       site, direction, positions, method, pairs, heads, attribution_pearson (null unless asked for)
path-patch  like patch
patch-top   site, direction, positions, levels (a row a k and head set)
compare     a, b, comparison (see `Comparison`), anomalies (sentences, by `a`, `b` and `both`)
doctor      ok, checks (name, value, ok, fix)
zoo list    models (name, origin, about, snapshots)
zoo info    facts
zoo card    card (as in `card.json`), written
==========  =========================================================================================================
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead, with every row.")]


def print_rich(*tables: Any) -> None:
    """Tables as wide as the terminal; brackets and colons in names are themselves, not markup."""
    from rich.console import Console

    Console(markup=False, emoji=False).print(*tables)


def print_json(verb: str, **found: Any) -> None:
    """The result of a verb, as this module describes it."""
    from rhlens import __version__

    print(json.dumps(plain({"rhlens": __version__, "verb": verb, **found}), indent=2, allow_nan=False))


def print_written(out: Path, names: list[str], as_json: bool) -> None:
    """Say which files are in the folder now; on stderr where stdout is for a program."""
    print(f"written to {out}: {', '.join(names)}", file=sys.stderr if as_json else sys.stdout)


def paths(out: Path | None, names: list[str]) -> list[str]:
    """The files that a verb wrote, none without a folder."""
    return [str(out / name) for name in names] if out is not None else []


def plain(value: Any) -> Any:
    """`value` in JSON's own types: named tuples as objects, tables as lists of rows, nan and infinity as None."""
    if value is None or isinstance(value, str | bool):
        return value
    if hasattr(value, "to_dict"):
        return plain(value.to_dict("records"))
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    number = value.item() if hasattr(value, "item") else value
    if isinstance(number, float):
        return number if math.isfinite(number) else None
    return number if isinstance(number, int) else str(number)
