"""Commands end well: one sentence and an exit code, never a traceback.

0: done, or a share is. 1: the input was good, but running failed: the disk or memory is full, a check of the engine
failed. 2: bad input, which the sentence says how to mend. 130: Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import typer
from safetensors import SafetensorError

from rhlens.results.files import names_wrong_path
from rhlens.results.share import Unfinished


def run(command: Callable[..., Any]) -> None:
    """Run a typer app or a function as a command, with the exit codes above."""
    if not isinstance(command, typer.Typer):
        single = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
        single.command()(command)
        command = single
    try:
        command()
    except Unfinished as stop:
        print(f"rhlens: {stop}", file=sys.stderr)
        sys.exit(0)
    except (ValueError, TypeError, SafetensorError) as error:
        _end(error, 2)
    except OSError as error:
        _end(error, 2 if names_wrong_path(error) else 1)
    except (RuntimeError, ArithmeticError, MemoryError) as error:
        _end(_in_words(error), 1)
    except SystemExit as stop:
        if stop.code == 130:  # Ctrl-C, which typer turns into an exit
            print("rhlens: stopped; with --out, what is finished is kept and the same command goes on", file=sys.stderr)
        raise


def _in_words(error: Exception) -> Exception:
    """Libraries run out of memory in many words, and none of them names a way out."""
    from rhlens.model.memory import OutOfMemoryError, is_out_of_memory, out_of_memory

    return out_of_memory() if is_out_of_memory(error) and not isinstance(error, OutOfMemoryError) else error


def _end(error: Exception, code: int) -> None:
    print(f"rhlens: {str(error) or type(error).__name__}", file=sys.stderr)
    sys.exit(code)
