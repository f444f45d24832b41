"""How fast and lean rhlens is: against the published procedure and plain TransformerLens, with the same scores.

    python experiments/benchmark.py --quick                        # a minute or two: does everything run, and agree
    python experiments/benchmark.py                                # all sizes: about 40 minutes on two idle cores
    python experiments/benchmark.py --gpu                          # 8B shape, random weights, to 128k tokens

rhlens runs every trial and condition. The others would take days: in every repeat they run a sample, seeded by workload
and repeat, and their seconds are scaled up from `measured_units` to `units`. Tools take turns; times are medians over
repeats with their spread, and what was sampled is compared in every repeat. `of_least` is the time as a multiple of the
least there is: reading, as fast as Hugging Face does, what prompts do not share, and nothing else; for the others that
is how many times as fast as they any exact way can be. Writes benchmark.csv (workloads), benchmark_parts.csv
(everything else) and benchmark.png to OUT.
"""

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from benchmark_aims import aims_table
from benchmark_parts import HF, RHLENS, TL, gpu_rows, machine, matmul_peak, parts, prefill_share, seconds_of
from model_sizes import Size
from peak_memory import peak_memory
from reference import Reference, transformer_lens_trace

import rhlens as rh
from rhlens.cli import numbers, run
from rhlens.measure.ablate import conditions_of
from rhlens.measure.copying import copy_events, set_score
from rhlens.measure.detect import answer_limit
from rhlens.model.engine import Engine
from rhlens.model.plan import n_common, walk
from rhlens.results.heads import Head
from rhlens.show.canvas import caption, save_figure, style
from rhlens.tasks.pairs import pairs
from rhlens.zoo.planted import planted

SHAPES = {"4x8": (4, 8), "8x8": (8, 8), "4x16": (4, 16), "8x16": (8, 16)}
SLOW = 64
"""Heads of the largest model that reads prompts anew under every condition: a sweep of the next takes an hour."""

GROWTH = {
    "detection": ("tokens", "tokens"),
    **dict.fromkeys(("ablation, decode", "ablation, both"), ("units", "conditions")),
    **dict.fromkeys(("causal map", "patching map"), ("units", "heads")),
}
"""Of each workload, the column that its time is fitted to, and what that is a number of."""

Run = Callable[[Sequence[int]], Any]
"""From the units to measure, by number, to their results in that order."""


@dataclass
class Workload:
    """One measurement as each tool makes it; `same` raises unless the results of two tools are.

    Attributes:
        tools: the others are given a sample of the units, rhlens all of them.
        units: trials, or conditions on trials.
        least: seconds that it takes at the least, measured anew in every repeat; None where that is not known.
        besides: units that a tool measures whatever it is asked: the unablated run of a map.
    """

    name: str
    model: str
    tokens: int
    units: int
    tools: dict[str, Run]
    same: Callable[[Any, Any], None]
    least: Callable[[], float] | None = None
    besides: int = 0


@dataclass(frozen=True)
class Sizes:
    """How much each workload holds."""

    lengths: list[int]
    depths: int
    needles: int
    draws: int
    most_k: int
    tl_tokens: int
    anew_tokens: int


def workloads(model: str, folder: Path, sizes: Sizes) -> list[Workload]:
    """Detection at every length; sweeps and maps at the longest, or at `anew_tokens` where prompts are read anew."""
    layers, heads = SHAPES[model]
    copy_heads = [(layers - 2, 3), (layers - 2, 6), (layers - 1, 1)]
    planted(copy_heads, layers=layers, heads=heads).save(folder)
    reference, bridge = Reference(folder), rh.load(folder, quiet=True)
    found = [detection(model, n, reference, bridge, sizes) for n in sizes.lengths]
    trials = rh.niah(bridge, [sizes.lengths[-1]], 1, needles=2)
    scores = rh.detect(bridge, trials, progress=False)
    found += [ablation("decode", model, trials, scores, reference, bridge, sizes, draws)
              for draws in sorted({max(1, sizes.draws // 4), sizes.draws})]  # fmt: skip
    if layers * heads <= SLOW:
        shorter = rh.niah(bridge, [sizes.anew_tokens], 1, needles=2)
        found += [ablation("both", model, shorter, scores, reference, bridge, sizes, sizes.draws)]
    cells = [Head(layer, head) for layer in range(layers) for head in range(heads)]
    one, other = trials[:1], rh.niah(bridge, [sizes.anew_tokens], 1, needles=2)[:1]
    found.append(Workload("causal map", model, sizes.lengths[-1], len(cells), {
        HF: lambda units: reference.effects(one[0], [cells[i] for i in units]),
        RHLENS: lambda units: rh.causal_map(bridge, one, phase="decode", progress=False).effects.ravel(),
    }, close, least_seconds(reference, one), 1))  # fmt: skip
    (pair,) = pairs(bridge.tokenizer, other, 0)
    found.append(Workload("patching map", model, sizes.anew_tokens, len(cells), {
        HF: lambda units: reference.patched(pair, [cells[i] for i in units]),
        RHLENS: lambda units: rh.patch(bridge, other, progress=False).patched[0].ravel(),
    }, close, besides=1))  # fmt: skip
    return found


def least_seconds(reference: Reference, trials: list[Any]) -> Callable[[], float]:
    """Times the reference reading a prompt: seconds at that speed to read what trials do not begin with alike."""
    size, prompts = Size(reference.fast.config), [trials[i].tokens[:-1] for i in walk([t.tokens for t in trials])]
    kept = [0, *(n_common(a, b) for a, b in pairwise(prompts))]
    least = sum(
        size.operations_to_read(len(p)) - size.operations_to_read(n) for p, n in zip(prompts, kept, strict=True)
    )

    def seconds() -> float:
        read = seconds_of(lambda: reference.prefill(trials[0].tokens))
        return read * least / size.operations(trials[0].length - 1)

    return seconds


def detection(model: str, tokens: int, reference: Reference, bridge: Any, sizes: Sizes) -> Workload:
    """A grid of one length."""
    trials = rh.niah(bridge, [tokens], sizes.depths, needles=sizes.needles)
    limit = answer_limit(trials)

    def by(trace: Callable[..., Any], units: Sequence[int]) -> np.ndarray:
        asked = [trials[i] for i in units]
        traces = [trace(trial.tokens, limit) for trial in asked]
        return np.stack([set_score(copy_events(t, a), t.tokens, a) for t, a in zip(traces, asked, strict=True)])

    tools: dict[str, Run] = {
        HF: lambda units: by(reference.trace, units),
        RHLENS: lambda units: rh.detect(bridge, trials, progress=False).set_scores,
    }
    if tokens <= sizes.tl_tokens:
        tools[TL] = lambda units: by(lambda *args: transformer_lens_trace(bridge, *args), units)
    least = least_seconds(reference, trials)
    return Workload("detection", model, tokens, len(trials), tools, np.testing.assert_array_equal, least)


def ablation(
    phase: Any, model: str, trials: list[Any], scores: Any, reference: Reference, bridge: Any, sizes: Sizes, draws: int
) -> Workload:
    """A sweep of the top heads and their controls; a model of few heads has no controls at the largest doses."""
    most = min(sizes.most_k, (bridge.cfg.n_layers * bridge.cfg.n_heads) // 3)
    ks = [k for k in (0, 1, 2, 4, 8, 16, 32) if k <= most]
    conditions = conditions_of(Engine(bridge), scores, ks, "random", draws, 0)
    limit = answer_limit(trials)
    asked = [(condition, trial) for condition in conditions for trial in trials]
    return Workload(f"ablation, {phase}", model, trials[0].length, len(asked), {
        HF: lambda units: [reference.answer(t.tokens, c.heads, phase, limit) for c, t in (asked[i] for i in units)],
        RHLENS: lambda units: answers(
            rh.ablate(bridge, trials, scores, ks, phase=phase, draws=draws, progress=False), conditions
        ),
    }, np.testing.assert_array_equal, least_seconds(reference, trials) if phase == "decode" else None)  # fmt: skip


def close(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(a, b, atol=2e-3)  # of nats and logits of ten and more


def answers(curve: Any, conditions: Any) -> list[str]:
    """Outputs in the order of the conditions, whatever the order they were made in."""
    table = curve.answers.set_index(["heads", "k", "draw"]).sort_index()
    return [out for c in conditions for out in table.loc[[(c.name, c.k, c.draw)]].sort_values("trial")["output"]]


def measure(work: Workload, repeats: int, sample: int) -> pd.DataFrame:
    """Seconds and peak memory of every tool in every repeat, in turns; raises if their results differ."""
    rows = []
    for repeat in range(repeats):
        order = list(work.tools)[repeat % len(work.tools) :] + list(work.tools)[: repeat % len(work.tools)]
        rng = random.Random(f"{work.name}:{work.model}:{work.tokens}:{repeat}")
        sampled = sorted(rng.sample(range(work.units), min(sample, work.units)))
        results, least = {}, work.least() if work.least else float("nan")
        for tool in order:
            units = list(range(work.units)) if tool == RHLENS else sampled
            with peak_memory() as peak:
                started = time.perf_counter()
                results[tool] = work.tools[tool](units)
                measured = time.perf_counter() - started
            scale = (work.units + work.besides) / (len(units) + work.besides)
            rows.append({"workload": work.name, "model": work.model, "tokens": work.tokens, "units": work.units,
                         "measured_units": len(units), "repeat": repeat, "tool": tool, "seconds": measured * scale,
                         "least": least, "peak_mb": peak.mb})  # fmt: skip
        for tool in work.tools:
            work.same(results[tool], [results[RHLENS][i] for i in sampled] if tool != RHLENS else results[tool])
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row a workload and tool: median seconds, their spread, and how many times as long as rhlens it takes."""
    keys = ["workload", "model", "tokens", "units"]
    whole = table.pivot_table(index=[*keys, "repeat"], columns="tool", values="seconds")
    rows = []
    for labels, group in table.groupby([*keys, "tool"]):
        *about, tool = tuple(labels)  # pyright: ignore[reportArgumentType]
        ratio = (whole.xs(tuple(about), level=keys)[tool] / whole.xs(tuple(about), level=keys)[RHLENS]).dropna()
        low, middle, high = np.quantile(group["seconds"], [0.25, 0.5, 0.75])
        rows.append({**dict(zip(keys, about, strict=True)), "tool": tool, "n": len(group),
                     "measured_units": group["measured_units"].iloc[0], "seconds": middle,
                     "low": low, "high": high, "of_least": (group["seconds"] / group["least"]).median(),
                     "peak_mb": group["peak_mb"].median(), "ratio": ratio.median(),
                     "ratio_low": ratio.min(), "ratio_high": ratio.max()})  # fmt: skip
    return pd.DataFrame(rows)


def slopes(table: pd.DataFrame) -> pd.DataFrame:
    """Exponents of the growth of seconds by tool, log-log fits: with tokens, conditions, and heads as models grow."""
    rows = []
    for labels, group in table.groupby(["workload", "tool"]):
        name, tool = tuple(labels)  # pyright: ignore[reportArgumentType]
        by, grows = GROWTH[name]
        points = group if grows == "heads" else group.query("model == @table.model.iloc[0]")
        if len(set(points[by])) > 1:
            exponent = np.polyfit(np.log(points[by]), np.log(points["seconds"]), 1)[0]
            rows.append({"workload": name, "tool": tool, "grows_with": grows, "exponent": exponent})
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, text: str) -> Any:
    """How many times as long as rhlens the others take, one bar a workload, workloads together."""
    import matplotlib.pyplot as plt

    others = table[table["tool"] != RHLENS]
    about = zip(*(others[column] for column in ("workload", "model", "tokens", "units", "tool")), strict=True)
    labels = [f"{name}, {model}, {tokens} tokens, {units} units" + ("" if tool == HF else f" ({tool})")
              for name, model, tokens, units, tool in about]  # fmt: skip
    with style():
        figure, ax = plt.subplots(figsize=(8, 2 + 0.28 * len(others)), layout="constrained")
        spread = [others["ratio"] - others["ratio_low"], others["ratio_high"] - others["ratio"]]
        bars = ax.barh(labels, others["ratio"], xerr=spread, color="#0072B2", ecolor="#555555")
        ax.bar_label(bars, fmt=" {:.1f}", fontsize=8)
        ax.axvline(1, color="black", linewidth=0.8)
        ax.set(xscale="log", xlabel="time / time of rhlens")
        ax.xaxis.set_major_formatter("{x:g}")
        ax.margins(x=0.12)
        ax.invert_yaxis()
        caption(figure, text)
    return figure


def main(
    lengths: Annotated[str, typer.Option(help="Prompt lengths in tokens, at most 8000.")] = "1024,2048,4096,8000",
    depths: Annotated[int, typer.Option(help="Needle depths.")] = 10,
    needles: Annotated[int, typer.Option(help="Needles.")] = 6,
    draws: Annotated[int, typer.Option(help="Control sets of the ablation sweep.")] = 20,
    most_k: Annotated[int, typer.Option(help="Heads ablated at most.")] = 32,
    repeats: Annotated[int, typer.Option(help="Times each tool runs each workload.")] = 5,
    sample: Annotated[int, typer.Option(help="Units that tools other than rhlens measure in each repeat.")] = 3,
    models: Annotated[str, typer.Option(help="Layers x heads of planted Llamas: " + ", ".join(SHAPES))] = (
        "4x8,8x8,8x16"
    ),
    most_others: Annotated[int, typer.Option(help="Longest detection grid of models after the first.")] = 2048,
    anew_tokens: Annotated[int, typer.Option(help="Length where prompts are read anew under every condition.")] = 2048,
    tl_tokens: Annotated[int, typer.Option(help="Longest prompts given to plain TransformerLens.")] = 1024,
    quick: Annotated[bool, typer.Option(help="The smallest sizes, once.")] = False,
    gpu: Annotated[bool, typer.Option(help="8B shape, random weights, on a GPU, to 128k tokens.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the figure and its data.")] = Path("figures"),
) -> None:
    if gpu:
        print(pd.DataFrame(gpu_rows()).to_string(index=False))
        return
    if quick:
        lengths, depths, needles, draws, most_k, repeats, models = "192,256", 2, 2, 1, 1, 1, "4x8"
        anew_tokens, tl_tokens, sample = 192, 192, 2
    sizes = Sizes(numbers(lengths, "lengths", int), depths, needles, draws, most_k, tl_tokens, anew_tokens)
    found, idle, names = [], matmul_peak(), models.split(",")
    for model in names:
        with tempfile.TemporaryDirectory() as folder:
            for work in workloads(model, Path(folder), sizes):
                if work.name == "detection" and model != names[0] and work.tokens > most_others:
                    continue
                for tool in work.tools.values() if work.tokens == sizes.lengths[0] else ():
                    tool([0])  # warm: imports, kernels
                found.append(measure(work, repeats, sample))
                print(summary(found[-1]).to_string(index=False, float_format="{:.2f}".format), file=sys.stderr)
    table = summary(pd.concat(found))
    noise = statistics.median((table["high"] - table["low"]) / table["seconds"])
    small = parts((256,), (1024,), 1) if quick else parts((512, 2048, 8192), (8_000, 32_000), repeats)
    share = prefill_share(sizes.lengths[-1], idle)
    small.loc[len(small)] = ["prefill / matmul peak", sizes.lengths[-1], 1, share, share, share]
    text = (
        f"{machine()}; {depths} depths x {needles} needles, {draws} control sets up to {most_k} heads; medians of "
        f"{repeats} runs, bars from least to most; the others ran {sample} seeded units a run, scaled up; half of the "
        f"times lie within {noise:.0%} of the median; prefill at {share:.0%} of the matmul peak of {idle:.0f} GFLOP/s"
    )
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "benchmark.csv", index=False)
    small.to_csv(out / "benchmark_parts.csv", index=False)
    save_figure(draw(table, text), out / "benchmark.png")
    for frame in (table, slopes(pd.concat(found)), small, aims_table(table, small)):
        print(frame.to_string(index=False, float_format="{:.2f}".format), end="\n\n")
    print(text)


if __name__ == "__main__":
    run(main)
