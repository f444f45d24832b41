"""Commands that show their examples as they are typed, and guess what a misspelt choice was meant to be."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Any

import typer
from typer.core import TyperCommand

WIDE = {"max_content_width": 110}
"""Settings of a command line whose help uses the width of the terminal, so that a verb's fits on one screen."""
_WRONG_CHOICE = re.compile(r"(?:Value error, )?('(.*)' is not one of (.*))\.")


class Verb(TyperCommand):
    """A command whose docstring may end in a paragraph `Examples:`, one command a line."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """The docstring, wrapped; its examples below, as they are, to be copied."""
        text, _, examples = inspect.cleandoc(self.help or "").partition("\n\nExamples:\n")
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(text)
        if examples:
            with formatter.section("Examples"):
                formatter.write(textwrap.indent(textwrap.dedent(examples), "  ") + "\n")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Options and arguments; what is no choice is told with the choice that it is close to."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            if match := _WRONG_CHOICE.search(error.message):
                from rhlens.zoo.registry import closest

                said, value, choices = match.groups()
                meant = closest(value, re.findall("'([^']*)'", choices))
                error.message = f"{said}: did you mean {meant}?" if meant else said
            raise
