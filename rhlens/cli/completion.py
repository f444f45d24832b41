"""What the shell offers after Tab: names that exist, found without loading torch."""

from __future__ import annotations


def complete_models(incomplete: str) -> list[str]:
    """Embedded models; once there is an @, their snapshots."""
    from rhlens.zoo.registry import MODELS, snapshots

    base = incomplete.partition("@")[0]
    names = snapshots(base) if "@" in incomplete and base in MODELS else MODELS
    return [name for name in names if name.startswith(incomplete)]


def complete_specs(incomplete: str) -> list[str]:
    """Specs that can be trained."""
    from rhlens.zoo.specs import SPECS

    return [name for name in SPECS if name.startswith(incomplete)]


def complete_controls(incomplete: str) -> list[str]:
    """Kinds of control, also after a comma."""
    from typing import get_args

    from rhlens.results.controls import Control

    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in get_args(Control) if name.startswith(last)]
