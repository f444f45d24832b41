"""Watching heads of a model while anybody generates with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rhlens.model.engine import Engine
from rhlens.model.numbers import likeliest, not_finite, strongest
from rhlens.results.heads import Head
from rhlens.results.support import Support
from rhlens.tasks.spelling import exact_decoder, pieces

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


class Monitor:
    """Where heads looked in each generation since the watch began.

    A generation begins with a prompt and goes on by one token at a time, with a cache or without; what does not go on
    from the text before begins a new one. A bridge never reads its last token: it is taken for the likeliest one, which
    under sampling it may not have been. A HookedTransformer does, and then stops.
    """

    def __init__(self, engine: Engine, heads: Sequence[Head]) -> None:
        self._engine, self.heads = engine, list(heads)
        self._generations: list[_Generation] = []

    @property
    def reports(self) -> list[Support]:
        """One report a generation, in order."""
        return [generation.report(self._engine, self.heads) for generation in self._generations]

    @property
    def report(self) -> Support:
        """The latest generation.

        Raises:
            ValueError: nothing was generated yet.
        """
        if not self._generations:
            raise ValueError("nothing was generated yet: call model.generate(...) inside `with rh.watch(...)`")
        return self._generations[-1].report(self._engine, self.heads)

    def _hooks(self) -> list[tuple[str, Any]]:
        layers = sorted({h.layer for h in self.heads})
        return [(f"blocks.{i}.attn.hook_pattern", partial(self._look, layer=i)) for i in layers]

    def _read(self, embed: nn.Module, args: tuple[Int[Tensor, "row pos"], ...]) -> None:
        tokens = args[0]
        if tokens.shape[0] != 1:
            raise ValueError(f"watch follows one text at a time, not {tokens.shape[0]} side by side: generate singly")
        ids = tokens[0].tolist()
        if not (self._generations and self._generations[-1].goes_on(ids)):
            self._generations.append(_Generation(ids))

    def _look(self, pattern: Float[Tensor, "1 head query key"], hook: Any, layer: int) -> None:
        if pattern.shape[-1] == 1 < len(self._generations[-1].tokens):
            self._generations.append(self._generations[-1].parted())
        generation = self._generations[-1]
        gone = len(generation.tokens) - pattern.shape[-1]  # above 0: a sliding layer's cache kept the latest keys only
        if gone < 0:
            raise ValueError(
                f"the model attends to {pattern.shape[-1]} tokens of which {len(generation.tokens)} passed here: begin "
                "each generation inside `with rh.watch(...)`"
            )
        for h in (h for h in self.heads if h.layer == layer):
            at, weight = strongest(pattern[0, h.head, -1])
            if not weight.isfinite():
                raise not_finite(f"attention weights of layer {layer}", pattern.dtype)
            generation.looks[-1][h] = (gone + int(at), float(weight))

    def _say(self, unembed: nn.Module, args: Any, logits: Float[Tensor, "1 pos vocab"]) -> None:
        self._generations[-1].likeliest = int(likeliest(logits[0, -1]))


class _Generation:
    """A prompt, what followed it, and where heads looked before each token that did."""

    def __init__(self, prompt: list[int]) -> None:
        self.tokens, self.n_prompt, self.likeliest = prompt, len(prompt), 0
        self.looks: list[dict[Head, tuple[int, float]]] = [{}]

    def goes_on(self, ids: list[int]) -> bool:
        """Take what is read next, if it is one token more, alone or after all the others."""
        if len(ids) > 1 and ids[:-1] != self.tokens:
            return False
        self.tokens.append(ids[-1])
        self.looks.append({})
        return True

    def parted(self) -> _Generation:
        """Give up the token that was read last, as another generation: it attends to nothing but itself."""
        self.looks.pop()
        return _Generation([self.tokens.pop()])

    def report(self, engine: Engine, heads: Sequence[Head]) -> Support:
        """Tokens that end a text are left out."""
        tokens = [*self.tokens, self.likeliest] if self.looks[-1] else self.tokens
        n = len(tokens) - (tokens[-1] in engine.eos_tokens)
        looks = [[seen[h] for h in heads] for seen in self.looks[: n - self.n_prompt]]
        table = np.array(looks, dtype=np.float64).reshape(n - self.n_prompt, len(heads), 2)
        texts = pieces(exact_decoder(engine.tokenizer), tokens[:n])
        return Support(
            np.array(tokens[:n]), texts, self.n_prompt, heads, table[..., 0].astype(np.int32),
            table[..., 1].astype(np.float32),
        )  # fmt: skip


@contextmanager
def watching(model: TransformerBridge, heads: Sequence[tuple[int, int]]) -> Iterator[Monitor]:
    """Watch `heads` while inside: see `rhlens.watch`."""
    engine = Engine(model)
    monitor = Monitor(engine, engine.check(heads))
    with ExitStack() as stack:
        # The modules themselves: a HookedTransformer has no hook point on either side of these two.
        stack.callback(model.embed.register_forward_pre_hook(monitor._read).remove)
        stack.callback(model.unembed.register_forward_hook(monitor._say).remove)
        stack.enter_context(model.hooks(fwd_hooks=monitor._hooks()))
        stack.enter_context(torch.inference_mode())
        yield monitor
