"""How fast and lean rhlens is: against the published procedure and plain TransformerLens, with the same scores.

    python experiments/benchmark.py --quick                        # a minute: does everything run, and agree
    python experiments/benchmark.py                                # half an hour on two cores
    python experiments/benchmark.py --lengths 1024,2048,4096,8000 --depths 10 --needles 6 --draws 20 --most-k 32
    python experiments/benchmark.py --gpu                          # 8B shape, random weights, to 128k tokens

Tools take turns on every workload; times are medians over repeats with their spread, and every repeat's results are
compared. Writes benchmark.csv and benchmark.png to OUT.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from benchmark_parts import HF, RHLENS, TL, gpu_rows, machine, matmul_peak, peak_memory, prefill_share, start_times
from reference import Reference, transformer_lens_trace

import rhlens as rh
from rhlens.cli import numbers, run
from rhlens.measure.ablate import conditions_of
from rhlens.measure.detect import answer_limit, copy_events, set_score
from rhlens.model.engine import Engine
from rhlens.show.canvas import caption, save_figure
from rhlens.tasks.pairs import pairs
from rhlens.zoo.planted import planted

SHAPES = {"4x8": (4, 8), "8x8": (8, 8), "4x16": (4, 16)}


@dataclass
class Workload:
    """One measurement as each tool makes it; `same` raises unless the results of two tools are."""

    name: str
    model: str
    tokens: int
    conditions: int
    tools: dict[str, Callable[[], Any]]
    same: Callable[[Any, Any], None]


@dataclass(frozen=True)
class Sizes:
    """How much each workload holds."""

    lengths: list[int]
    depths: int
    needles: int
    draws: int
    most_k: int
    tl_tokens: int


def workloads(model: str, folder: Path, sizes: Sizes) -> list[Workload]:
    """Detection at every length; the ablation sweep, causal map and patching map at the longest."""
    layers, heads = SHAPES[model]
    copy_heads = [(layers - 2, 3), (layers - 2, 6), (layers - 1, 1)]
    planted(copy_heads, layers=layers, heads=heads).save(folder)
    reference, bridge = Reference(folder), rh.load(folder, quiet=True)
    found = []
    for tokens in sizes.lengths:
        trials = rh.niah(bridge, [tokens], sizes.depths, needles=sizes.needles)
        limit = answer_limit(trials)

        def by(trace: Callable[..., Any], trials: Any = trials, limit: int = limit) -> Any:
            traces = [trace(trial.tokens, limit) for trial in trials]
            return np.stack([set_score(copy_events(t, a), t.tokens, a) for t, a in zip(traces, trials, strict=True)])

        tools = {
            HF: lambda by=by: by(reference.trace),
            RHLENS: lambda trials=trials: rh.detect(bridge, trials, progress=False).set_scores,
        }
        if tokens <= sizes.tl_tokens:
            tools[TL] = lambda by=by: by(lambda *args: transformer_lens_trace(bridge, *args))
        found.append(Workload("detection", model, tokens, len(trials), tools, np.testing.assert_array_equal))
    trials = rh.niah(bridge, [sizes.lengths[-1]], 1, needles=2)
    scores = rh.detect(bridge, trials, progress=False)
    ks = [k for k in (0, 1, 2, 4, 8, 16, 32) if k <= sizes.most_k]
    conditions = conditions_of(Engine(bridge), scores, ks, "random", sizes.draws, 0)
    limit, n = answer_limit(trials), len(trials)

    def ablation(phase: Any) -> Workload:
        return Workload(f"ablation, {phase}", model, sizes.lengths[-1], n * len(conditions), {
            HF: lambda: [reference.answer(trial.tokens, condition.heads, phase, limit)
                         for condition in conditions for trial in trials],
            RHLENS: lambda: answers(
                rh.ablate(bridge, trials, scores, ks, phase=phase, draws=sizes.draws, progress=False), conditions
            ),
        }, np.testing.assert_array_equal)  # fmt: skip

    def close(a: np.ndarray, b: np.ndarray) -> None:
        np.testing.assert_allclose(a, b, atol=2e-3)  # of nats and logits of ten and more

    found += [ablation("decode"), ablation("both")]
    one, cells = trials[:1], layers * heads
    found.append(Workload("causal map", model, sizes.lengths[-1], cells, {
        HF: lambda: reference.effects(one),
        RHLENS: lambda: rh.causal_map(bridge, one, phase="decode", progress=False).effects,
    }, close))  # fmt: skip
    (pair,) = pairs(bridge.tokenizer, one, 0)
    found.append(Workload("patching map", model, sizes.lengths[-1], cells, {
        HF: lambda: reference.patched(pair),
        RHLENS: lambda: rh.patch(bridge, one, progress=False).patched[0],
    }, close))  # fmt: skip
    return found


def answers(curve: Any, conditions: Any) -> list[str]:
    """Outputs in the order of the conditions, whatever the order they were made in."""
    table = curve.answers.set_index(["heads", "k", "draw"]).sort_index()
    return [out for c in conditions for out in table.loc[[(c.name, c.k, c.draw)]].sort_values("trial")["output"]]


def measure(work: Workload, repeats: int) -> pd.DataFrame:
    """Seconds and peak memory of every tool in every repeat, in turns; raises if their results differ."""
    rows = []
    for repeat in range(repeats):
        order = list(work.tools)[repeat % len(work.tools) :] + list(work.tools)[: repeat % len(work.tools)]
        results = {}
        for tool in order:
            with peak_memory() as peak:
                started = time.perf_counter()
                results[tool] = work.tools[tool]()
                seconds = time.perf_counter() - started
            about = {"workload": work.name, "model": work.model, "tokens": work.tokens, "conditions": work.conditions}
            rows.append(about | {"repeat": repeat, "tool": tool, "seconds": seconds, "peak_mb": peak.mb})
        for tool in work.tools:
            work.same(results[HF], results[tool])
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row a workload and tool: median seconds, their spread, and how many times as long as rhlens it takes."""
    keys = ["workload", "model", "tokens", "conditions"]
    whole = table.pivot_table(index=[*keys, "repeat"], columns="tool", values="seconds")
    rows = []
    for labels, group in table.groupby([*keys, "tool"]):
        *about, tool = tuple(labels)  # pyright: ignore[reportArgumentType]
        ratio = (whole.xs(tuple(about), level=keys)[tool] / whole.xs(tuple(about), level=keys)[RHLENS]).dropna()
        low, middle, high = np.quantile(group["seconds"], [0.25, 0.5, 0.75])
        rows.append({**dict(zip(keys, about, strict=True)), "tool": tool, "n": len(group), "seconds": middle,
                     "low": low, "high": high, "peak_mb": group["peak_mb"].median(), "ratio": ratio.median(),
                     "ratio_low": ratio.min(), "ratio_high": ratio.max()})  # fmt: skip
    return pd.DataFrame(rows)


def slopes(table: pd.DataFrame) -> pd.DataFrame:
    """Exponents of the growth of seconds with tokens (detection) and with heads (maps), by tool: log-log fits."""
    rows = []
    for labels, group in table.groupby(["workload", "tool"]):
        name, tool = tuple(labels)  # pyright: ignore[reportArgumentType]
        by = "tokens" if name == "detection" else "conditions"
        points = group.query("model == @group.model.iloc[0]") if by == "tokens" else group
        if len(set(points[by])) > 1:
            exponent = np.polyfit(np.log(points[by]), np.log(points["seconds"]), 1)[0]
            rows.append({"workload": name, "tool": tool, "grows_with": by, "exponent": exponent})
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, text: str) -> Any:
    """How many times as long as rhlens the others take, one bar a workload."""
    import matplotlib.pyplot as plt

    others = table[table["tool"] != RHLENS]
    about = zip(*(others[column] for column in ("workload", "model", "tokens", "tool")), strict=True)
    labels = [f"{workload}, {model}, {tokens} tokens: {tool}" for workload, model, tokens, tool in about]
    figure, ax = plt.subplots(figsize=(8, 1.2 + 0.28 * len(others)))
    spread = [others["ratio"] - others["ratio_low"], others["ratio_high"] - others["ratio"]]
    ax.barh(labels, others["ratio"], xerr=spread)
    ax.axvline(1, color="black", linewidth=0.8)
    ax.set(xscale="log", xlabel="time / time of rhlens")
    ax.invert_yaxis()
    caption(figure, text)
    return figure


def main(
    lengths: Annotated[str, typer.Option(help="Prompt lengths in tokens, at most 8000.")] = "512,1024,2048",
    depths: Annotated[int, typer.Option(help="Needle depths.")] = 5,
    needles: Annotated[int, typer.Option(help="Needles.")] = 3,
    draws: Annotated[int, typer.Option(help="Control sets of the ablation sweep.")] = 4,
    most_k: Annotated[int, typer.Option(help="Heads ablated at most.")] = 8,
    repeats: Annotated[int, typer.Option(help="Times each tool runs each workload.")] = 5,
    models: Annotated[str, typer.Option(help=f"Layers x heads of planted Llamas: {', '.join(SHAPES)}.")] = "4x8,8x8",
    tl_tokens: Annotated[int, typer.Option(help="Longest prompts given to plain TransformerLens.")] = 1024,
    quick: Annotated[bool, typer.Option(help="The smallest sizes, once.")] = False,
    gpu: Annotated[bool, typer.Option(help="8B shape, random weights, on a GPU, to 128k tokens.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the figure and its data.")] = Path("figures"),
) -> None:
    if gpu:
        print(pd.DataFrame(gpu_rows()).to_string(index=False))
        return
    if quick:
        lengths, depths, needles, draws, most_k, repeats, models, tl_tokens = "192,256", 2, 2, 1, 1, 1, "4x8", 192
    sizes = Sizes(numbers(lengths, "lengths", int), depths, needles, draws, most_k, tl_tokens)
    found, idle = [], matmul_peak()
    for model in models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            for work in workloads(model, Path(folder), sizes):
                for tool in work.tools.values() if work.tokens == sizes.lengths[0] else ():
                    tool()  # warm: imports, kernels
                found.append(measure(work, repeats))
                print(summary(found[-1]).to_string(index=False, float_format="{:.2f}".format), file=sys.stderr)
    table = summary(pd.concat(found))
    noise = statistics.median((table["high"] - table["low"]) / table["seconds"])
    share = prefill_share(sizes.lengths[-1], idle)
    text = (
        f"{machine()}; {depths} depths x {needles} needles, {draws} control sets up to {most_k} heads; medians of "
        f"{repeats} runs, bars from least to most; half of the times lie within {noise:.0%} of the median; "
        f"prefill at {share:.0%} of the matmul peak of {idle:.0f} GFLOP/s"
    )
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "benchmark.csv", index=False)
    save_figure(draw(table, text), out / "benchmark.png")
    print(table.to_string(index=False, float_format="{:.2f}".format))
    print(slopes(pd.concat(found)).to_string(index=False, float_format="{:.2f}".format))
    print(start_times(max(1, repeats)).to_string(index=False, float_format="{:.2f}".format))
    print(text)


if __name__ == "__main__":
    run(main)
