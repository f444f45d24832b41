"""Workers in place of a model: verbs are given either, and workers do together what one model would do alone."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Options = ParamSpec("Options")
Result = TypeVar("Result")


class Workers(ABC):
    """Processes that each hold the model: see `rhlens.scale`."""

    @abstractmethod
    def run(self, verb: Callable[..., Result], *args: Any, **options: Any) -> Result:
        """What `verb` would give with a model as its first argument."""


def divisible(
    verb: Callable[Concatenate[TransformerBridge, Options], Result],
) -> Callable[Concatenate[TransformerBridge | Workers, Options], Result]:
    """Let `verb` take workers in place of its model; it must take a share as `out`."""

    @functools.wraps(verb)
    def either(model: TransformerBridge | Workers, *args: Options.args, **options: Options.kwargs) -> Result:
        if isinstance(model, Workers):
            return model.run(either, *args, **options)
        return verb(model, *args, **options)

    return either
