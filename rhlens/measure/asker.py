"""Questions put to a model under many ablations at once, over shared prefixes."""

from __future__ import annotations

import random
from collections.abc import Container, Iterator, Sequence
from functools import cached_property
from itertools import cycle, groupby, islice
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float32

from rhlens.measure.detect import BATCH_TOKENS, batches, check_asks, expect
from rhlens.model.ablation import Ablation, Method, Phase
from rhlens.model.engine import Engine
from rhlens.model.identity import identity
from rhlens.model.memory import in_parts, is_out_of_memory, make_room
from rhlens.model.plan import plan
from rhlens.model.prefix import Prefix
from rhlens.model.reading import PromptReader
from rhlens.results.cache import Window
from rhlens.results.heads import Head
from rhlens.results.store import RunFolder, content_key
from rhlens.tasks.ask import Ask

Key = TypeVar("Key")
Todo = tuple[Key, tuple[tuple[Head, ...], Ask]]
"""What to call an answer, the heads to ablate, and what to ask."""

SHARED_ROWS = 32
"""Conditions side by side that share a prompt's cache: more are hardly faster."""
ANEW_ROWS = 8
"""Conditions side by side that read a prompt themselves, but share its lower layers."""


class Asker:
    """Puts a fixed list of questions to a model, under ablations of one method and phase.

    Args:
        window: what `window` leaves visible.
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
        window: Window | None = None,
    ) -> None:
        self.engine, self.asks, self.must_act, self.window = engine, asks, must_act, window or Window()
        self.method: Method = method
        self.phase: Phase = phase
        self.donors = _donors(asks, seed) if method == "resample" else {}
        self._reader = PromptReader(engine)
        check_asks(engine, asks)

    @cached_property
    def means(self) -> Any:
        """Mean head outputs over all prompts, for `mean`."""
        prompts = [torch.tensor([ask.tokens for ask in group]) for group in batches(self.asks)]
        return self.engine.mean_outputs(prompts) if self.method == "mean" else None

    @property
    def key(self) -> tuple[Any, ...]:
        """What results depend on beside heads, prompt and donor."""
        reference = sorted(ask.tokens for ask in self.asks) if self.method == "mean" else ()
        window = self.window if self.method == "window" else ()
        return identity(self.engine), self.method, *window, self.phase, content_key("reference", reference)

    def donor_key(self, ask: Ask) -> tuple[Any, ...]:
        """What an answer depends on beside that: the prompt and the reply that its outputs are taken from."""
        return (self.donors[ask.index].tokens, self.donors[ask.index].reply) if self.donors else ()

    def mine(self, units: dict[Key, tuple[tuple[Head, ...], Ask]], store: RunFolder | None) -> list[Todo[Key]]:
        """Which of `units` are to be measured here; a share has those that read the same prompts or conditions."""
        todo = list(units.items())
        if store is None or store.share is None:
            return todo
        place = {ask.index: i for i, ask in enumerate(ask for group in batches(self.asks) for ask in group)}
        turn = {heads: 0 if self.phase == "decode" else i for i, (_, (heads, _)) in enumerate(todo)}
        return store.mine(sorted(todo, key=lambda one: (turn[one[1][0]], place[one[1][1].index])))

    def prefixes(self, asks: Sequence[Ask], todo: Sequence[Todo[Key]]) -> Iterator[tuple[list[Key], Prefix]]:
        """Some of `asks` under sets of heads, as many side by side as fit, read and ready to go on.

        Each prefix is good until the next one is asked for. While prompts are read cleanly, all conditions share them;
        else each condition reads what its prompts begin with alike once: give all asks together.

        Args:
            todo: what to call each, with its heads and its ask.
        """
        wanted = {ask.index for _, (_, ask) in todo}
        asks = [ask for ask in asks if ask.index in wanted]
        if self.phase != "decode":
            yield from self._anew(asks, todo)
            return
        for group in batches(asks):
            for some, clean in in_parts(group, self._clean, self.engine.rows_at_once(group[0].length)):
                mine = {ask.index for ask in some}
                yield from self._shared(some, clean, [one for one in todo if one[1][1].index in mine])

    def _clean(self, group: Sequence[Ask]) -> Prefix:
        return self._reader.read([ask.tokens for ask in self._with_donors(group)])

    def _shared(
        self, group: Sequence[Ask], clean: Prefix, todo: Sequence[Todo[Key]]
    ) -> Iterator[tuple[list[Key], Prefix]]:
        """Conditions that go on from clean prompts of one length."""
        place = {ask.index: i for i, ask in enumerate(group)}

        def under(some: Sequence[Todo[Key]]) -> Prefix:
            rows = [place[ask.index] for _, (_, ask) in some]
            return self._under(clean, some, rows, [len(group) + row for row in rows])

        most = min(SHARED_ROWS, self.engine.rows_at_once(group[0].length, shared=True))
        for some, prefix in in_parts(todo, under, most):
            yield [key for key, _ in some], prefix

    def _anew(self, asks: Sequence[Ask], todo: Sequence[Todo[Key]]) -> Iterator[tuple[list[Key], Prefix]]:
        """Conditions that read prompts themselves, each the same prompts one after the other."""
        outlines: dict[int, Prefix] = {}
        for i in (i for group in plan([ask.tokens for ask in asks], lambda length: 1) for i in group):
            clean = self._clean([asks[i]])
            self.engine.first_step(clean)
            outlines[asks[i].index] = clean.outline()
        of_heads: dict[tuple[Head, ...], dict[int, Todo[Key]]] = {}
        for one in todo:
            of_heads.setdefault(one[1][0], {})[one[1][1].index] = one
        order = {index: place for place, index in enumerate(outlines)}
        for same, conditions in groupby(sorted(of_heads.values(), key=sorted), key=sorted):
            length, ways = max(outlines[index].length for index in same), sorted(same, key=order.__getitem__)
            fit = self.engine.rows_at_once(length)
            # Below the first layer that any of them ablates, conditions side by side are read once.
            for layer, alike in groupby(sorted(conditions, key=_lowest_layer), key=_lowest_layer):
                size = min(fit, max(BATCH_TOKENS // length, 1 if layer <= 0 else ANEW_ROWS))
                together = list(alike)
                for i in range(0, len(together), size):
                    yield from self._chain(together[i : i + size], ways, outlines)

    def _chain(
        self, conditions: list[dict[int, Todo[Key]]], walk: list[int], outlines: dict[int, Prefix]
    ) -> Iterator[tuple[list[Key], Prefix]]:
        """Conditions side by side on one prompt after the other; two halves in turn where memory runs out."""
        before: Prefix | None = None
        for i, index in enumerate(walk):
            some, n = [condition[index] for condition in conditions], len(conditions)
            try:
                before = self._under(outlines[index], some, [0] * n, [1] * n, before)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                before = None
            if before is None:
                make_room(n // 2)
                for half in (conditions[: n // 2], conditions[n // 2 :]):
                    yield from self._chain(half, walk[i:], outlines)
                return
            yield [key for key, _ in some], before

    def _under(
        self, clean: Prefix, some: Sequence[Todo[Key]], rows: list[int], donors: list[int], before: Prefix | None = None
    ) -> Prefix:
        ablations = [
            Ablation(heads, self.phase, self.method, heads not in self.must_act, self.window) for _, (heads, _) in some
        ]
        prefix = self.engine.under(clean, ablations, rows, donors if self.donors else None, self.means, before)
        return expect(prefix, self._with_donors([ask for _, (_, ask) in some]))

    def _with_donors(self, asks: Sequence[Ask]) -> list[Ask]:
        return [*asks, *(self.donors[ask.index] for ask in asks if self.donors)]

    def log_probs(self, prefix: Prefix, asks: Sequence[Ask]) -> list[Float32[np.ndarray, " reply"]]:
        """Log-probability (nats) of each token of the right reply to each ask of a prefix."""
        return self.engine.log_probs(prefix, self.replies(asks))

    def replies(self, asks: Sequence[Ask]) -> list[Sequence[int]]:
        """The right reply to each ask, and after them those of their donors.

        A donor's reply that is shorter than the ask's begins again, so that there are outputs to take to its end.
        """
        donors = [list(islice(cycle(self.donors[ask.index].reply), len(ask.reply))) for ask in asks if self.donors]
        return [*(ask.reply for ask in asks), *donors]


def _lowest_layer(condition: dict[int, Todo[Any]]) -> int:
    """The first layer that a condition ablates; -1 if it ablates none."""
    heads, _ = next(iter(condition.values()))[1]
    return min((head.layer for head in heads), default=-1)


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
