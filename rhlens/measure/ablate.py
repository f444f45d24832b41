"""Dose curves: what is left of a model's answers when its top retrieval heads, or as many others, are taken away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from rhlens.measure.asker import Asker
from rhlens.measure.detect import answer_limit, asked, bar_disabled
from rhlens.measure.recall import judge
from rhlens.measure.workers import divisible
from rhlens.model.ablation import Method, Phase, check_ablation
from rhlens.model.engine import Engine
from rhlens.model.prefix import Prefix
from rhlens.results.controls import Control, TooFewHeadsError, check_control, control_sets
from rhlens.results.curves import TOP, AblationCurve
from rhlens.results.heads import Head, heads_of_group, kv_group
from rhlens.results.scores import HeadScores
from rhlens.results.share import Out
from rhlens.results.store import RunFolder, content_key
from rhlens.tasks.ask import Ask, told_apart

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Unit = Literal["head", "kv_group"]
PRESETS: dict[str, tuple[Method, Phase]] = {"wu2024": ("uniform", "decode")}
"""Method and phase of published code: the paper's makes attention uniform, and only while the answer is written."""
DRAWS, MOST_DRAWS = 20, 10_000


class Condition(NamedTuple):
    """A set of heads to ablate: the top or a control, how many units, and which draw it is."""

    name: str
    k: int
    draw: int
    heads: tuple[Head, ...]


@divisible
def ablate(
    model: TransformerBridge,
    asks: Sequence[Ask],
    heads: HeadScores | Sequence[tuple[int, int]],
    k: int | Sequence[int] | None = None,
    method: Method = "zero",
    phase: Phase = "decode",
    control: Control | Sequence[Control] = "random",
    draws: int = DRAWS,
    seed: int = 0,
    by: Unit = "head",
    preset: str | None = None,
    max_new_tokens: int | None = None,
    out: Out | None = None,
    progress: bool | None = None,
) -> AblationCurve:
    """Answer everything asked without the top-k heads, and without `draws` control sets of k other heads.

    Controls are seeded and disjoint from every top-k head; and, where scores are given, from all retrieval heads (mean
    score >= 0.1). That each ablation acts, and on nothing else, is proven while it runs.

    Args:
        asks: needle trials, or prompts that no needle answers.
        heads: scores, whose top heads are ablated, or the heads themselves, most important first: controls are then
            disjoint from these only, since nothing says which others retrieve.
        k: how many heads to ablate, a number or several (`doses` if None); 0, the unablated model, is always measured.
        method: `zero`, `mean` (over the prompts asked), `uniform` attention, or `resample` (from another prompt).
        phase: `decode` ablates from the last prompt token on; `both` also while the prompt is read.
        control: one kind of control or several.
        by: `kv_group` ablates all query heads that share keys and values together; k then counts groups.
        preset: `wu2024` sets method and phase to those of the paper's released code.
        max_new_tokens: of an answer; None takes the paper's 50, or more where a right answer is longer.
        out: a run folder: finished answers are kept there, and are not asked again; or a share of it.

    Raises:
        ValueError: a negative k, more heads than there are, no control, or scores of a model of another shape.
        InterventionError: an ablation changed nothing, or something else.
        Unfinished: `out` is a share, and others are not done.
    """
    if preset is not None:
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, not {preset!r}")
        method, phase = PRESETS[preset]
    check_ablation(method, phase)
    engine = Engine(model)
    conditions = conditions_of(engine, heads, k, control, draws, seed, by)
    if not asks:
        raise ValueError("there are no trials to run")
    asks, name = told_apart(asks), engine.name
    limit = max_new_tokens or answer_limit(asks)
    settings = asked(asks) | {"model": name, "phase": phase, "method": method, "by": by, "control": control,
                "k": sorted({c.k for c in conditions}), "draws": draws, "seed": seed,
                "max_new_tokens": limit}  # fmt: skip
    store = RunFolder(out, "ablate", settings | engine.about) if out is not None else None
    top = {condition.heads for condition in conditions if condition.name == TOP}
    answers = Answers(Asker(engine, asks, method, phase, seed, must_act=top), limit, store)
    with tqdm(total=len(conditions) * len(asks), desc="ablate", unit="answer", disable=bar_disabled(progress)) as bar:
        rows = answers.rows(asks, conditions, bar.update)
    return AblationCurve(pd.DataFrame(rows), name, method, phase, engine.about)


def conditions_of(
    engine: Engine,
    heads: HeadScores | Sequence[tuple[int, int]],
    k: int | Sequence[int] | None,
    control: Control | Sequence[Control],
    draws: int,
    seed: int,
    by: Unit = "head",
) -> list[Condition]:
    """The top heads at every dose, 0 included, and their controls: see `ablate`."""
    controls: tuple[Control, ...] = (control,) if isinstance(control, str) else tuple(control)
    units = Units(engine, heads, by)
    k = doubling(len(units.retrieving)) if k is None else [k] if isinstance(k, int) else k
    check_dose(k, draws)
    return units.conditions(sorted({0, *k}), controls, draws, seed)


def possible_controls(
    model: TransformerBridge,
    heads: HeadScores | Sequence[tuple[int, int]],
    k: int | Sequence[int] | None = None,
    controls: Sequence[Control] = ("random", "layer-matched"),
) -> tuple[tuple[Control, ...], str]:
    """Those of `controls` that leave enough heads to draw from at every dose, and why the others do not, if any."""
    engine, possible, why = Engine(model), [], ""
    for control in controls:
        try:
            conditions_of(engine, heads, k, control, 1, 0)
            possible.append(control)
        except TooFewHeadsError as error:
            why = str(error)
    return tuple(possible), why


def doses(heads: HeadScores | Sequence[tuple[int, int]]) -> list[int]:
    """Numbers of heads to ablate: none, then doubling up to all retrieval heads (or all given heads)."""
    return doubling(len(heads.retrieval_heads() if isinstance(heads, HeadScores) else heads))


def check_dose(k: Sequence[int], draws: int) -> None:
    """Raise ValueError for a negative number of heads, no control, or more of them than anybody waits for."""
    if min(k, default=0) < 0:
        raise ValueError(f"k must be 0 or more, not {min(k)}")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws}: an effect without a control shows nothing")
    if draws > MOST_DRAWS:
        raise ValueError(f"draws must be at most {MOST_DRAWS}, not {draws}")


def doubling(most: int) -> list[int]:
    """0, powers of two, and the most (1 at least)."""
    most = max(1, most)
    return sorted({0, most, *(2**i for i in range(most.bit_length()))})


class Units:
    """What is ablated together, ranked: single heads, or groups of query heads, numbered as groups of their layer."""

    def __init__(self, engine: Engine, heads: HeadScores | Sequence[tuple[int, int]], by: Unit) -> None:
        if by not in ("head", "kv_group"):
            raise ValueError(f"by must be 'head' or 'kv_group', not {by!r}")
        self.size = engine.group_size if by == "kv_group" else 1
        self.shape = (engine.n_layers, engine.n_heads // self.size)
        self.scores = None
        if isinstance(heads, HeadScores):
            if (heads.n_layers, heads.n_heads) != engine.shape:
                raise ValueError(
                    f"these scores are of {heads.n_layers} x {heads.n_heads} heads, the model has {engine.n_layers} x "
                    f"{engine.n_heads}: take scores of this model"
                )
            self.scores = heads.mean().reshape(*self.shape, self.size).max(-1)
            self.retrieving = list(dict.fromkeys(kv_group(h, self.size) for h in heads.retrieval_heads()))
            order = np.argsort(-self.scores, axis=None, kind="stable")
            self.ranked = [Head(*divmod(int(i), self.shape[1])) for i in order]
        else:
            self.ranked = list(dict.fromkeys(kv_group(h, self.size) for h in engine.check(heads)))
            self.retrieving = self.ranked

    def conditions(self, ks: list[int], controls: Sequence[Control], draws: int, seed: int) -> list[Condition]:
        for control in controls:
            check_control(control)
        if not controls or len(set(controls)) < len(controls):
            raise ValueError("control must name one or more kinds of control, each once")
        if ks[-1] > len(self.ranked):
            raise ValueError(f"k = {ks[-1]} asks for more heads than the {len(self.ranked)} there are: lower k")
        top = self.ranked[: ks[-1]]
        conditions = [Condition(TOP, k, 0, self.heads_of(top[:k])) for k in ks]
        for control in controls:
            sets = control_sets(control, top, {*top, *self.retrieving}, self.shape, draws, seed, self.scores)
            conditions += [
                Condition(control, k, draw, self.heads_of(s[:k])) for k in ks if k > 0 for draw, s in enumerate(sets)
            ]
        return conditions

    def heads_of(self, units: Sequence[Head]) -> tuple[Head, ...]:
        """All query heads of these."""
        return tuple(h for unit in units for h in heads_of_group(unit, self.size))


class Answers:
    """Answers to everything asked under every condition; with a store, none is asked for twice."""

    def __init__(self, asker: Asker, limit: int, store: RunFolder | None) -> None:
        self.asker, self.engine, self.limit, self.store = asker, asker.engine, limit, store
        self._key = (limit, *asker.key) if store is not None else ()

    def rows(
        self, asks: Sequence[Ask], conditions: Sequence[Condition], done: Callable[[int], Any]
    ) -> list[dict[str, Any]]:
        """One row a condition and ask: the condition, the ask's labels, the answer, and the right one's probability."""
        pairs = [(condition, ask) for condition in conditions for ask in asks]
        rows = []
        for (condition, ask), record in zip(pairs, self._records(asks, pairs, done), strict=True):
            about = {"heads": condition.name, "k": condition.k, "draw": condition.draw}
            names = " ".join(map(str, condition.heads))
            answer = judge(ask, record["output"]) | {"logprob": record["logprob"]}
            rows.append(about | {"names": names} | ask.labels | answer)
        return rows

    def _records(
        self, asks: Sequence[Ask], pairs: list[tuple[Condition, Ask]], done: Callable[[int], Any]
    ) -> list[dict[str, Any]]:
        keys = [self._content(condition.heads, ask) for condition, ask in pairs]
        found: dict[Any, dict[str, Any]] = dict(self.store.records) if self.store else {}
        units = {key: (c.heads, ask) for key, (c, ask) in zip(keys, pairs, strict=True)}
        todo = {key: unit for key, unit in self.asker.mine(units, self.store) if key not in found}
        done(len(pairs) - len(todo))
        for chunk, prefix in self.asker.prefixes(asks, list(todo.items())):
            for key, record in zip(chunk, self._answers(prefix, [todo[key] for key in chunk]), strict=True):
                found[key] = self.store.append(key, record) if self.store else record
            done(len(chunk))
        found = self.store.finished(keys) if self.store else found
        return [found[key] for key in keys]

    def _content(self, heads: tuple[Head, ...], ask: Ask) -> Any:
        """What an answer depends on; without a store, just what tells answers of one run apart."""
        if self.store is None:
            return heads, ask.index
        proven, donor = heads in self.asker.must_act, self.asker.donor_key(ask)
        return content_key("ablated", *self._key, sorted(heads), proven, ask.tokens, ask.reply, vars(ask.turn), donor)

    def _answers(self, prefix: Prefix, pairs: list[tuple[tuple[Head, ...], Ask]]) -> list[dict[str, Any]]:
        replies = self.asker.replies([ask for _, ask in pairs])
        traces, log_probs = self.engine.decode_and_score(prefix, replies, self.limit)
        return [
            {"output": trace.output, "logprob": round(float(of_reply.mean()), 6)}
            for trace, of_reply in zip(traces, log_probs, strict=True)
        ]
