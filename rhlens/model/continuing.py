"""How rows are read and go on from a prefix: what runs them, under which ablations, and the proof that those acted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import DynamicCache

from rhlens.model.ablation import Edits, HeadOutputs
from rhlens.model.agreement import read
from rhlens.model.drift import evaluating
from rhlens.model.fast_attention import Shared, only_keys_of
from rhlens.model.hooks import HeadReader, Witness, edited_bridge, edited_projections, no_further_than, one_row_below
from rhlens.model.numbers import check_logits
from rhlens.model.prefix import Prefix
from rhlens.model.rotary import grown_to, long_factors

if TYPE_CHECKING:
    from rhlens.model.engine import Engine

Values = Callable[[int, int], Float[Tensor, "kv_head key d_head"]]
"""Of a layer and a row, its value vectors."""
Run = Callable[[Tensor], Float[Tensor, "row pos vocab"]]
"""From the tokens that rows read next to logits."""


@contextmanager
def edited(engine: Engine, runner: nn.Module, edits: Edits) -> Iterator[None]:
    """The twin or the bridge under `edits`, while inside; replaced attention on the twin is `Shared`'s.

    A bridge in training is measured without dropout; a twin never trains.
    """
    with ExitStack() as stack:
        if runner is engine.model:
            stack.enter_context(evaluating(engine.model))
        if edits and runner is engine.model:
            stack.enter_context(edited_bridge(engine.model, edits))
        elif edits:
            stack.enter_context(edited_projections(engine.projections(runner), edits))
        yield


@contextmanager
def reading(engine: Engine, runner: nn.Module, edits: Edits, below: int, n_rows: int, whole: bool) -> Iterator[Witness]:
    """The twin or the bridge under `edits` as prompts are read, and what reaches its projections, while inside.

    Args:
        below: prompts are a single row below this layer, and `n_rows` from there on; 0 where they are all rows at once.
        whole: the twin goes on to its end; else each pass ends with `EnoughRead`.
    """
    projections = engine.projections(runner)
    witness = Witness(projections, engine.n_heads, -1)
    with edited(engine, runner, edits), witness.watching(), ExitStack() as stack:
        if runner is not engine.model and not whole:
            stack.enter_context(no_further_than(projections[-1]))
            stack.enter_context(only_keys_of(engine.n_layers - 1))
        if 0 < below < engine.n_layers:
            path = engine.model.adapter.translate_transformer_lens_path(f"blocks.{below}")
            stack.enter_context(one_row_below(runner.get_submodule(path), n_rows))
        yield witness


def averages(engine: Engine, edits: Edits, values: Values) -> dict[int, Float[Tensor, "row head d_head"]]:
    """Value vectors averaged as heads with replaced attention should, by layer: what they must put out."""
    found = {}
    for layer, expected in edits.expected.items():
        rows = []
        for row, weights in enumerate(expected):  # [head, key]
            seen = values(layer, row)[:, : weights.shape[-1]].float()
            seen = seen.repeat_interleave(engine.n_heads // seen.shape[0], dim=0)
            rows.append(torch.einsum("hk,hkd->hd", weights, seen))
        found[layer] = torch.stack(rows)
    return found


@contextmanager
def going_on(
    engine: Engine,
    prefix: Prefix,
    asked: Sequence[int],
    cache: DynamicCache | None = None,
    reader: HeadReader | None = None,
) -> Iterator[tuple[DynamicCache, Run]]:
    """Rows of a prefix go on under its ablations of decoding, which are proven on leaving if the rows start here.

    Args:
        asked: which rows; their donors follow them.
        cache: what they have said so far; None where they start.
        reader: is shown every pattern.

    Yields:
        the cache, and what runs the rows.

    Raises:
        ArithmeticError: logits that are not finite numbers.
        InterventionError: an ablation did not act.
    """
    rows, n = prefix.with_donors(asked), len(asked)
    ablations = [prefix.ablations[row] for row in rows] if prefix.ablations else []
    source = torch.arange(n, 2 * n).repeat(2) if prefix.donors else None
    edits = Edits(ablations, "decode", engine.shape, prefix.means, source)
    clean = None
    if edits and cache is None and prefix.origin is not None:
        clean = first_step(engine, prefix.origin)[:, [prefix.rows[row] for row in rows]]
    runner, shared = engine.decoder, Shared(prefix.cache, [prefix.reads[row] for row in rows], edits, reader)
    on_twin = runner is not engine.model
    if cache is None:
        cache = shared.suffixes() if on_twin else prefix.fork(rows)
    projections, run = engine.projections(runner), partial(read, runner, cache=cache)
    witness = Witness(projections, engine.n_heads, 0)

    def passed(tokens: Tensor) -> Tensor:
        """Logits of a pass, or of one pass a token where each changes the rotary frequencies."""
        at = cache.get_seq_length()
        if engine.grows_from is None:
            return run(tokens)
        one_by_one = at + tokens.shape[1] > engine.grows_from
        found = []
        for part in tokens.split(1 if one_by_one else tokens.shape[1], dim=1):
            grown_to(runner, cache.get_seq_length())
            found.append(run(part))
        return torch.cat(found, dim=1)

    rotary = long_factors(runner, engine.reads_long(prefix.length, prefix.long))
    with rotary, edited(engine, runner, edits), ExitStack() as stack:
        if on_twin:
            stack.enter_context(shared.acting())
        elif reader is not None:
            stack.enter_context(engine.model.hooks(fwd_hooks=reader.fwd_hooks()))
        if clean is not None:
            stack.enter_context(witness.watching())
        yield cache, lambda tokens: check_logits(passed(tokens), partial(passed, tokens), projections)
    if clean is not None:
        layers: list[Any] = cache.layers
        own: Values = lambda layer, row: layers[layer].values[row]  # noqa: E731
        values = (lambda layer, row: torch.cat([shared.values(layer, row), own(layer, row)], 1)) if on_twin else own
        edits.prove(witness.z, clean, averages(engine, edits, values))


def first_step(engine: Engine, clean: Prefix) -> HeadOutputs:
    """Head outputs at the last token of the prompts of a clean prefix."""
    if clean.first_step is None:
        witness = Witness(engine.projections(engine.decoder), engine.n_heads, 0)
        with going_on(engine, clean, range(len(clean.tokens))) as (_, run), witness.watching():
            run(clean.last)
        clean.first_step = witness.z
    return clean.first_step
