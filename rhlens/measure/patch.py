"""Activation patching between a prompt and its corrupt twin: which heads carry the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from rhlens.measure.ablate import DRAWS, conditions_of
from rhlens.measure.detect import BATCH_TOKENS, bar_disabled
from rhlens.model.ablation import InterventionError
from rhlens.model.engine import Engine
from rhlens.model.patching import PatchRun, Positions, Site
from rhlens.results.controls import Control
from rhlens.results.heads import Head, kv_group
from rhlens.results.patching import Direction, PatchingCurve, PatchingMap
from rhlens.results.scores import HeadScores
from rhlens.tasks.ask import told_apart
from rhlens.tasks.pairs import Pair, pairs
from rhlens.tasks.trials import Trial

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Heads = Sequence[Head]


def patch(
    model: TransformerBridge,
    trials: Sequence[Trial],
    site: Site = "z",
    direction: Direction = "denoise",
    positions: Positions = "answer",
    attribution: bool = False,
    seed: int = 0,
    progress: bool | None = None,
) -> PatchingMap:
    """Patch every head alone between each prompt and a twin whose needle has another answer.

    Both runs are made to say the clean answer; what is measured is by how much its tokens are preferred to those of
    the corrupt one (Heimersheim & Nanda 2024 on direction and metric).

    Args:
        site: a head's output `z`, its attention `pattern`, its queries `q`, or a key-value group's `k` or `v`.
        direction: `denoise` patches clean activations into the corrupt run, `noise` the other way round.
        positions: `answer` patches from the last prompt token on, over a cached prompt; `all` from the needle's
            answer on, over a cache of what stands before it.
        attribution: the first-order approximation, by one backward pass, instead of a run for every head.
        seed: of the corrupt answers.

    Raises:
        ValueError: no trials, an unknown word, no corrupt answer of equal length, or a model that does not retrieve.
        InterventionError: the patch does not reach the model.
    """
    _check("site", site, Site)
    _check("direction", direction, Direction)
    _check("positions", positions, Positions)
    if site in ("k", "v") and positions == "answer":
        raise ValueError(f"{site!r} is read where the needle stands, in the cached prompt: use positions='all'")
    if attribution and site != "z":
        raise ValueError(f"attribution patching is of outputs: use site='z', not {site!r}")
    engine = Engine(model)
    n_heads = engine.n_heads // (engine.group_size if site in ("k", "v") else 1)
    every = [[Head(layer, head)] for layer in range(engine.n_layers) for head in range(n_heads)]

    def measure(run: PatchRun, score: _Score) -> Float[np.ndarray, "reply head"]:
        if attribution:
            change = run.attribution(score.right, score.wrong, score.at).flatten().cpu().numpy()
            return score(run.logits("base")[None])[:, 0].mean() + np.tile(change, (len(score.at), 1))
        _prove(run, site, [h for heads in every for h in heads])
        return np.concatenate([score(run.patched(some, site)) for some in _fitting(every, score.length)], axis=1)

    shape = (engine.n_layers, n_heads)
    found = _Sweep(engine, trials, direction, positions, seed).map(measure, shape, progress)
    return PatchingMap(**found, site=site, direction=direction, positions=positions,
                       method="attribution" if attribution else "exact")  # fmt: skip


def path_patch(
    model: TransformerBridge,
    trials: Sequence[Trial],
    receivers: Sequence[tuple[int, int]],
    site: Site = "k",
    direction: Direction = "noise",
    seed: int = 0,
    progress: bool | None = None,
) -> PatchingMap:
    """Which earlier heads feed the `site` of `receivers`: each head's output, patched on its paths there alone.

    Later attention is held fixed, so a head's change arrives by the residual stream and the MLPs (Wang et al. 2022).
    Keys and values are those of the receivers' whole group. Heads that are not earlier have no effect.

    Raises:
        ValueError: as `patch`; or the site is none of q, k and v.
    """
    if site not in ("q", "k", "v"):
        raise ValueError(f"a path ends in a head's q, k or v, not in {site!r}")
    _check("direction", direction, Direction)
    engine = Engine(model)
    ends = engine.check(receivers)
    groups = [kv_group(h, engine.group_size) for h in ends] if site in ("k", "v") else ends
    every = [Head(layer, head) for layer in range(engine.n_layers) for head in range(engine.n_heads)]

    def measure(run: PatchRun, score: _Score) -> Float[np.ndarray, "reply head"]:
        return np.concatenate([score(run.through(some, groups, site)) for some in _fitting(every, score.length)], 1)

    found = _Sweep(engine, trials, direction, "all", seed).map(measure, engine.shape, progress)
    return PatchingMap(**found, site=site, direction=direction, positions="all",
                       method=f"path to {' '.join(map(str, ends))}")  # fmt: skip


def patch_top(
    model: TransformerBridge,
    trials: Sequence[Trial],
    heads: HeadScores | Sequence[tuple[int, int]],
    k: Sequence[int] | None = None,
    direction: Direction = "denoise",
    positions: Positions = "answer",
    control: Control | Sequence[Control] = "random",
    draws: int = DRAWS,
    seed: int = 0,
    progress: bool | None = None,
) -> PatchingCurve:
    """Patch the outputs of the top-k heads together, and of `draws` control sets of k other heads.

    See `ablate` for heads, k and controls, and `patch` for the rest.
    """
    engine = Engine(model)
    conditions = conditions_of(engine, heads, k, control, draws, seed)
    sets = list(dict.fromkeys(condition.heads for condition in conditions))
    place = {heads: i for i, heads in enumerate(sets)}

    def measure(run: PatchRun, score: _Score) -> Float[np.ndarray, "reply set"]:
        return np.concatenate([score(run.patched(some, "z")) for some in _fitting(sets, score.length)], axis=1)

    sweep = _Sweep(engine, trials, direction, positions, seed)
    found = sweep.map(measure, (1, len(sets)), progress)
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
        chosen = logits[:, self.at].float().cpu()
        place = torch.arange(len(self.at))
        return (chosen[:, place, self.right] - chosen[:, place, self.wrong]).T.numpy()


class _Sweep:
    """Runs a measurement on every pair of prompts, and gathers what a `PatchingMap` holds."""

    def __init__(
        self, engine: Engine, trials: Sequence[Trial], direction: Direction, positions: Positions, seed: int
    ) -> None:
        if not trials:
            raise ValueError("there are no trials to run")
        self.engine, self.direction, self.positions = engine, direction, positions
        self.pairs = pairs(engine.tokenizer, told_apart(trials), seed)

    def map(
        self, measure: Callable[[PatchRun, _Score], np.ndarray], shape: tuple[int, int], progress: bool | None
    ) -> dict[str, Any]:
        longest = max(len(pair.clean.reply) for pair in self.pairs)
        patched, levels = [], {"clean": [], "corrupt": []}
        by_position = np.full((len(self.pairs), longest, *shape), np.nan)
        for i, pair in enumerate(tqdm(self.pairs, desc="patch", unit="trial", disable=bar_disabled(progress))):
            run, score = self._run(pair), _Score(pair)
            values = measure(run, score)
            by_position[i, score.at] = values.reshape(-1, *shape)
            patched.append(values.mean(0).reshape(shape))
            sides = ("source", "base") if self.direction == "denoise" else ("base", "source")
            for name, side in zip(("clean", "corrupt"), sides, strict=True):
                levels[name].append(float(score(run.logits(side)[None]).mean()))
        trials = [pair.clean.labels | {"corrupt_answer": pair.corrupt.answer} for pair in self.pairs]
        return {"patched": np.stack(patched), "by_position": by_position, "trials": pd.DataFrame(trials),
                "model": self.engine.name, "run": self.engine.about,
                **{name: np.array(values) for name, values in levels.items()}}  # fmt: skip

    def _run(self, pair: Pair) -> PatchRun:
        clean, corrupt = (torch.tensor(trial.tokens) for trial in (pair.clean, pair.corrupt))
        base, source = (corrupt, clean) if self.direction == "denoise" else (clean, corrupt)
        start = pair.clean.length - 1 if self.positions == "answer" else pair.clean.reply_span[0]
        return PatchRun(self.engine, base, source, start, pair.clean.reply)


def _prove(run: PatchRun, site: Site, heads: Heads) -> None:
    """Raise unless patching every head at once moves the run, and with outputs all the way to the source prompt's."""
    everything, base = run.patched([heads], site)[0], run.logits("base")
    if torch.equal(everything, base):
        raise InterventionError(f"patching {site!r} changes nothing on this architecture: use site='z'")
    source = run.logits("source")
    off = (everything - source).abs().max() / (base - source).abs().max().clamp_min(1e-6)
    if site == "z" and off > 0.05:
        raise InterventionError(
            "patching all heads' outputs does not give the other prompt's answer: try dtype='float32'"
        )


def _fitting(items: Sequence[Any], length: int) -> Iterator[Sequence[Any]]:
    """As many rows at a time as prompts of this length fit side by side."""
    size = max(1, BATCH_TOKENS // length)
    yield from (items[i : i + size] for i in range(0, len(items), size))


def _check(name: str, value: str, literal: Any) -> None:
    if value not in get_args(literal):
        raise ValueError(f"{name} must be one of {', '.join(get_args(literal))}, not {value!r}")
