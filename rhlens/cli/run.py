"""Commands end well: bad input is one sentence and exit code 2, never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import typer
from safetensors import SafetensorError


def run(command: Callable[..., Any]) -> None:
    """Run a typer app or a function as a command: exit code 2 and one sentence for bad input."""
    if not isinstance(command, typer.Typer):
        single = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
        single.command()(command)
        command = single
    try:
        command()
    except (ValueError, TypeError, RuntimeError, ArithmeticError, OSError, SafetensorError) as error:
        print(f"rhlens: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == 130:  # Ctrl-C, which typer turns into an exit
            print("rhlens: stopped; with --out, what is finished is kept and the same command goes on", file=sys.stderr)
        raise
