"""Questions put to a model under many ablations at once, over shared prefixes."""

from __future__ import annotations

import random
from collections.abc import Container, Iterator, Sequence
from functools import cached_property
from itertools import cycle, islice
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float32

from rhlens.measure.detect import BATCH_TOKENS, batches
from rhlens.model.ablation import Ablation, Method, Phase
from rhlens.model.engine import Engine
from rhlens.model.prefix import Prefix
from rhlens.results.heads import Head
from rhlens.results.store import content_key
from rhlens.tasks.ask import Ask

Key = TypeVar("Key")


class Asker:
    """Puts a fixed list of questions to a model, under ablations of one method and phase.

    Args:
        must_act: sets of heads whose ablation is an error if it changes nothing; other sets, drawn or tried one by one,
            may hold a head without any output.

    Attributes:
        donors: for `resample`, by the index of an ask, the ask whose outputs it gets.

    Raises:
        ValueError: `resample` lacks a second prompt of some length.
    """

    def __init__(
        self,
        engine: Engine,
        asks: Sequence[Ask],
        method: Method,
        phase: Phase,
        seed: int = 0,
        must_act: Container[tuple[Head, ...]] = (),
    ) -> None:
        self.engine, self.asks, self.must_act = engine, asks, must_act
        self.method: Method = method
        self.phase: Phase = phase
        self.donors = _donors(asks, seed) if method == "resample" else {}

    @cached_property
    def means(self) -> Any:
        """Mean head outputs over all prompts, for `mean`."""
        prompts = [torch.tensor([ask.tokens for ask in group]) for group in batches(self.asks)]
        return self.engine.mean_outputs(prompts) if self.method == "mean" else None

    @property
    def key(self) -> tuple[Any, ...]:
        """What results depend on beside heads, prompt and donor."""
        reference = sorted(ask.tokens for ask in self.asks) if self.method == "mean" else ()
        return self.engine.fingerprint, self.method, self.phase, content_key("reference", reference)

    def donor_key(self, ask: Ask) -> tuple[Any, ...]:
        """What an answer depends on beside that: the prompt and the reply that its outputs are taken from."""
        return (self.donors[ask.index].tokens, self.donors[ask.index].reply) if self.donors else ()

    def prefixes(
        self, group: Sequence[Ask], todo: Sequence[tuple[Key, tuple[tuple[Head, ...], Ask]]]
    ) -> Iterator[tuple[list[Key], Prefix]]:
        """Asks of `group` (of one length) under sets of heads, as many side by side as fit, read and ready to go on.

        Args:
            todo: what to call each, with its heads and its ask.
        """
        if not todo:
            return
        place = {ask.index: i for i, ask in enumerate(group)}
        everyone = [*group, *(self.donors[ask.index] for ask in group if self.donors)]
        clean = self.engine.prefill(torch.tensor([ask.tokens for ask in everyone]))
        size = max(1, BATCH_TOKENS // group[0].length)
        for chunk in (todo[i : i + size] for i in range(0, len(todo), size)):
            ablations = [
                Ablation(heads, self.phase, self.method, heads not in self.must_act) for _, (heads, _) in chunk
            ]
            rows = [place[ask.index] for _, (_, ask) in chunk]
            donors = [len(group) + row for row in rows] if self.donors else None
            yield [key for key, _ in chunk], self.engine.under(clean, ablations, rows, donors, self.means)

    def log_probs(self, prefix: Prefix, asks: Sequence[Ask]) -> list[Float32[np.ndarray, " reply"]]:
        """Log-probability (nats) of each token of the right reply to each ask of a prefix.

        A donor's reply that is shorter than the ask's begins again, so that there are outputs to take to its end.
        """
        donors = [list(islice(cycle(self.donors[ask.index].reply), len(ask.reply))) for ask in asks if self.donors]
        return self.engine.log_probs(prefix, [*(ask.reply for ask in asks), *donors])


def _donors(asks: Sequence[Ask], seed: int) -> dict[int, Ask]:
    """For each ask, by index, another one of the same length about something else, whatever the order of `asks`."""
    donors = {}
    ordered = sorted(asks, key=lambda ask: ask.tokens)
    for ask in asks:
        others = [o for o in ordered if o.length == ask.length and o.labels["needle"] != ask.labels["needle"]]
        if not others:
            raise ValueError(
                f"resample needs two prompts of {ask.length} tokens about different needles: ask about more needles"
            )
        donors[ask.index] = random.Random(f"donor:{seed}:{ask.tokens}").choice(others)
    return donors
