"""Reading many prompts that begin alike: what the last one began with is not read again."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rhlens.model.engine import Engine
from rhlens.model.plan import Tokens, n_common
from rhlens.model.prefix import Prefix


class PromptReader:
    """Reads groups of prompts one after the other, best in the order of `plan`; one prompt's cache is kept between.

    Attributes:
        n_read: tokens that went through the model so far.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._last: Prefix | None = None
        self.n_read = 0

    def read(self, prompts: Sequence[Tokens]) -> Prefix:
        """Cache all but the last token of equally long prompts. What was returned before is given up.

        Raises:
            ValueError: a prompt of fewer than two tokens, or longer than the model's context.
        """
        tokens = self._engine.checked(torch.tensor([list(prompt) for prompt in prompts]))
        fork = min([tokens.shape[1] - 2, *(n_common(prompts[0], prompt) for prompt in prompts[1:])])
        if self._engine.one_piece:
            fork = 0
        last, self._last = self._last, None
        kept, layers = 0, []
        if last is not None:
            kept = min(fork, last.length - 1, n_common(last.tokens[-1].tolist(), prompts[0]))
            layers = last.give_up()
        if len(prompts) > 1 and fork > kept:
            trunk = self._engine.extend(tokens[:1, : fork + 1], layers, kept)
            self.n_read += fork - kept
            kept, layers = fork, trunk.give_up()
        self._last = self._engine.extend(tokens, layers, kept)
        self.n_read += len(prompts) * (tokens.shape[1] - 1 - kept)
        return self._last
