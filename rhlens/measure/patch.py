"""Activation patching between a prompt and its corrupt twin: which heads carry the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from rhlens.measure.ablate import DRAWS, conditions_of
from rhlens.measure.detect import BATCH_TOKENS, asked, bar_disabled, check_asks
from rhlens.measure.workers import divisible
from rhlens.model.engine import Engine
from rhlens.model.identity import identity
from rhlens.model.memory import in_parts
from rhlens.model.patching import PatchRun, Positions, Site
from rhlens.results.controls import Control
from rhlens.results.curves import TOP
from rhlens.results.heads import Head, kv_group
from rhlens.results.patching import Direction, PatchingCurve, PatchingMap
from rhlens.results.scores import HeadScores
from rhlens.results.share import Out
from rhlens.results.store import RunFolder, content_key
from rhlens.tasks.ask import told_apart
from rhlens.tasks.pairs import Pair, pairs
from rhlens.tasks.trials import Trial

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@divisible
def patch(
    model: TransformerBridge,
    trials: Sequence[Trial],
    site: Site = "z",
    direction: Direction = "denoise",
    positions: Positions = "answer",
    attribution: bool = False,
    seed: int = 0,
    out: Out | None = None,
    progress: bool | None = None,
) -> PatchingMap:
    """Patch every head alone between each prompt and a twin whose needle has another answer.

    Both runs are made to say the clean answer; what is measured is by how much its tokens are preferred to those of
    the corrupt one (Heimersheim & Nanda 2024 on direction and metric).

    Args:
        site: a head's output `z`, its attention `pattern`, its queries `q`, or a key-value group's `k` or `v`. Where
            a norm over all heads follows (queries and keys of OLMo 2 and 3, OLMoE, FlexOlmo and MiniMax M2; values and
            pattern of BitNet too), what is patched rescales the other heads.
        direction: `denoise` patches clean activations into the corrupt run, `noise` the other way round.
        positions: `answer` patches from the last prompt token on, over a cached prompt; `all` from the needle's
            answer on, over a cache of what stands before it.
        attribution: the first-order approximation, by one backward pass, instead of a run for every head.
        seed: of the corrupt answers.
        out: a run folder: finished trials are kept there, and are not measured again; or a share of it.

    Raises:
        ValueError: no trials, an unknown word, no corrupt answer of equal length, or a model that does not retrieve.
        InterventionError: the patch does not reach the model.
        Unfinished: `out` is a share, and others are not done.
    """
    check_patch(site, direction, positions, attribution)
    engine, method = Engine(model), "attribution" if attribution else "exact"
    verb = "attribution" if attribution else "patch"
    sweep = _Sweep(engine, trials, direction, positions, seed, out, progress, verb, {"site": site})
    shape = engine.n_layers, engine.n_heads // (engine.group_size if site in ("k", "v") else 1)
    every = [[head] for head in _all_heads(shape)]

    def measure(run: PatchRun, score: _Score) -> Float[np.ndarray, "at head"]:
        run.prove(site)
        if attribution:
            change = run.attribution(score.right, score.wrong, score.at).flatten().cpu().numpy()
            return score(run.logits("base")[None]).mean() + change[None]
        return _side_by_side(every, score, lambda some: run.patched(some, site))

    return PatchingMap(**sweep.map(measure, shape, (site, method)), site=site, direction=direction,
                       positions=positions, method=method)  # fmt: skip


def check_patch(site: str, direction: str, positions: str, attribution: bool = False) -> None:
    """Raise ValueError for words that `patch` does not know, or that do not go together."""
    for name, value, literal in (("site", site, Site), ("direction", direction, Direction),
                                 ("positions", positions, Positions)):  # fmt: skip
        if value not in get_args(literal):
            raise ValueError(f"{name} must be one of {', '.join(get_args(literal))}, not {value!r}")
    if site in ("k", "v") and positions == "answer":
        raise ValueError(f"{site!r} is read where the needle stands, in the cached prompt: use positions='all'")
    if attribution and site != "z":
        raise ValueError(f"attribution patching is of outputs: use site='z', not {site!r}")


@divisible
def path_patch(
    model: TransformerBridge,
    trials: Sequence[Trial],
    receivers: Sequence[tuple[int, int]],
    site: Site = "k",
    direction: Direction = "noise",
    seed: int = 0,
    out: Out | None = None,
    progress: bool | None = None,
) -> PatchingMap:
    """Which earlier heads feed the `site` of `receivers`: each head's output, patched on its paths there alone.

    Later attention is held fixed, so a head's change arrives by the residual stream and the MLPs (Wang et al. 2022).
    Keys and values are those of the receivers' whole group. Heads that are not earlier have no effect.

    Raises:
        ValueError: as `patch`; or the site is none of q, k and v, or all receivers are in the first layer.
        InterventionError: as `patch`.
    """
    check_path(site, direction)
    engine = Engine(model)
    every, ends = _all_heads(engine.shape), engine.check(receivers)
    if max(end.layer for end in ends) == 0:
        raise ValueError("no head comes before those of layer 0: give heads of later layers")
    groups = [kv_group(h, engine.group_size) for h in ends] if site in ("k", "v") else ends
    method = f"path to {' '.join(map(str, ends))}"
    about = {"site": site, "receivers": [str(h) for h in ends]}
    sweep = _Sweep(engine, trials, direction, "all", seed, out, progress, "path_patch", about)

    def measure(run: PatchRun, score: _Score) -> Float[np.ndarray, "at head"]:
        run.prove_paths(site)
        return _side_by_side(every, score, lambda some: run.through(some, groups, site))

    return PatchingMap(**sweep.map(measure, engine.shape, (site, method)), site=site, direction=direction,
                       positions="all", method=method)  # fmt: skip


def check_path(site: str, direction: str) -> None:
    """Raise ValueError for a site at which no path ends, or an unknown direction."""
    if site not in ("q", "k", "v"):
        raise ValueError(f"a path ends in a head's q, k or v, not in {site!r}")
    check_patch(site, direction, "all")


@divisible
def patch_top(
    model: TransformerBridge,
    trials: Sequence[Trial],
    heads: HeadScores | Sequence[tuple[int, int]],
    k: int | Sequence[int] | None = None,
    direction: Direction = "denoise",
    positions: Positions = "answer",
    control: Control | Sequence[Control] = "random",
    draws: int = DRAWS,
    seed: int = 0,
    out: Out | None = None,
    progress: bool | None = None,
) -> PatchingCurve:
    """Patch the outputs of the top-k heads together, and of `draws` control sets of k other heads.

    See `ablate` for heads, k and controls, and `patch` for the rest.
    """
    check_patch("z", direction, positions)
    engine = Engine(model)
    conditions = conditions_of(engine, heads, k, control, draws, seed)
    sets = list(dict.fromkeys(condition.heads for condition in conditions))
    top = max((c.heads for c in conditions if c.name == TOP), key=len)
    settings = {"heads": [str(h) for h in top], "k": sorted({c.k for c in conditions}),
                "controls": sorted({c.name for c in conditions} - {TOP}), "draws": draws}  # fmt: skip
    sweep = _Sweep(engine, trials, direction, positions, seed, out, progress, "patch_top", settings)
    place = {heads: i for i, heads in enumerate(sets)}

    def measure(run: PatchRun, score: _Score) -> Float[np.ndarray, "at set"]:
        run.prove("z")
        return _side_by_side(sets, score, lambda some: run.patched(some, "z"))

    found = sweep.map(measure, (1, len(sets)), ("sets", sets))
    rows = []
    for condition in conditions:
        about = {"heads": condition.name, "k": condition.k, "draw": condition.draw,
                 "names": " ".join(map(str, condition.heads))}  # fmt: skip
        for i, labels in enumerate(found["trials"].to_dict("records")):
            levels = {"patched": found["patched"][i, 0, place[condition.heads]],
                      "clean": found["clean"][i], "corrupt": found["corrupt"][i]}  # fmt: skip
            rows.append(about | labels | levels)
    return PatchingCurve(pd.DataFrame(rows), engine.name, "z", direction, positions, engine.about)


class _Score:
    """Logit differences between a pair's answers, at the reply's positions `at` where they differ."""

    def __init__(self, pair: Pair) -> None:
        self.at, self.length = pair.differs, pair.clean.length
        self.right, self.wrong = (torch.tensor([t.reply[i] for i in self.at]) for t in (pair.clean, pair.corrupt))

    def __call__(self, logits: Float[Tensor, "row reply vocab"]) -> Float[np.ndarray, "at row"]:
        right, wrong = (logits[:, self.at, tokens.to(logits.device)] for tokens in (self.right, self.wrong))
        return (right.float() - wrong.float()).T.cpu().numpy()


class _Sweep:
    """Runs a measurement on every pair of prompts, and gathers what a `PatchingMap` holds.

    Raises:
        ValueError: no trials, or no corrupt answer for one.
    """

    def __init__(
        self, engine: Engine, trials: Sequence[Trial], direction: Direction, positions: Positions, seed: int,
        out: Out | None, progress: bool | None, verb: str, about: dict[str, Any],
    ) -> None:  # fmt: skip
        if not trials:
            raise ValueError("there are no trials to run")
        check_asks(engine, trials)
        self.engine, self.direction, self.positions = engine, direction, positions
        self.pairs, self.progress = pairs(engine.tokenizer, told_apart(trials), seed), progress
        settings = {"model": engine.name, "direction": direction, "positions": positions, "seed": seed} | about
        self._model = identity(engine) if out is not None else ""
        self.store = RunFolder(out, verb, asked(trials) | settings | engine.about) if out is not None else None

    def map(
        self, measure: Callable[[PatchRun, _Score], np.ndarray], shape: tuple[int, int], about: tuple[Any, ...]
    ) -> dict[str, Any]:
        """Args: about: what the measurement depends on beside the pair of prompts."""
        longest = max(len(pair.clean.reply) for pair in self.pairs)
        records = self._records(measure, about)
        by_position = np.full((len(self.pairs), longest, *shape), np.nan)
        for i, (pair, record) in enumerate(zip(self.pairs, records, strict=True)):
            if len(record["patched"]) == len(pair.differs):  # attribution is of their mean
                by_position[i, pair.differs] = np.reshape(record["patched"], (-1, *shape))
        trials = [pair.clean.labels | {"corrupt_answer": pair.corrupt.answer} for pair in self.pairs]
        patched = np.stack([np.mean(record["patched"], axis=0).reshape(shape) for record in records])
        levels = {side: np.array([record[side] for record in records]) for side in ("clean", "corrupt")}
        return {"patched": patched, "by_position": by_position, "trials": pd.DataFrame(trials),
                "model": self.engine.name, "run": self.engine.about, **levels}  # fmt: skip

    def _records(self, measure: Callable[[PatchRun, _Score], np.ndarray], about: Any) -> list[dict[str, Any]]:
        """What was measured on each pair, here or elsewhere."""
        bar = partial(tqdm, desc="patch", unit="trial", disable=bar_disabled(self.progress))
        if self.store is None:
            return [self._record(pair, measure) for pair in bar(self.pairs)]
        keys = [self._key(pair, about) for pair in self.pairs]
        for pair, key in bar(self.store.mine(list(zip(self.pairs, keys, strict=True)))):
            if key not in self.store.records:
                self.store.append(key, self._record(pair, measure))
        found = self.store.finished(keys)
        return [found[key] for key in keys]

    def _key(self, pair: Pair, about: Any) -> str:
        prompts = pair.clean.tokens, pair.corrupt.tokens, pair.clean.reply_span, pair.corrupt.reply
        return content_key("patched", self._model, self.direction, self.positions, about, *prompts)

    def _record(self, pair: Pair, measure: Callable[[PatchRun, _Score], np.ndarray]) -> dict[str, Any]:
        run, score = self._run(pair), _Score(pair)
        sides = ("source", "base") if self.direction == "denoise" else ("base", "source")
        levels = {name: float(score(run.logits(side)[None]).mean())
                  for name, side in zip(("clean", "corrupt"), sides, strict=True)}  # fmt: skip
        return {"patched": measure(run, score).tolist(), **levels}

    def _run(self, pair: Pair) -> PatchRun:
        clean, corrupt = (torch.tensor(trial.tokens) for trial in (pair.clean, pair.corrupt))
        base, source = (corrupt, clean) if self.direction == "denoise" else (clean, corrupt)
        start = pair.clean.length - 1 if self.positions == "answer" else pair.clean.reply_span[0]
        return PatchRun(self.engine, base, source, start, pair.clean.reply)


def _all_heads(shape: tuple[int, int]) -> list[Head]:
    return [Head(layer, head) for layer in range(shape[0]) for head in range(shape[1])]


def _side_by_side(
    items: Sequence[Any], score: _Score, run: Callable[[Sequence[Any]], Float[Tensor, "row reply vocab"]]
) -> Float[np.ndarray, "at row"]:
    """The score of each item's logits; as many rows are run at a time as prompts of this length fit side by side."""
    parts = in_parts(items, lambda some: score(run(some)), max(1, BATCH_TOKENS // score.length))
    return np.concatenate([found for _, found in parts], axis=1)
