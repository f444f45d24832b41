"""All of figures/: every experiment on embedded models, one after the other, and one page that gathers them.

    python experiments/figures.py                     # what `make figures` runs
    python experiments/figures.py --only sparse,intrinsic

Prints how long each took, and the total.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import ablations
import birth
import causal
import cot
import downstream
import dtypes
import dynamic
import factuality
import intrinsic
import kv_cache
import monitor
import sparse
import typer
import universal

import rhlens as rh
from rhlens.cli import run
from rhlens.show.report import write_report
from rhlens.zoo.registry import known, trained_models


def main(
    only: Annotated[str | None, typer.Option(help="Some of the experiments, with commas between them.")] = None,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="Folder for figures and data.")] = Path("figures"),
) -> None:
    scores: list[Path] = []  # of all trained models, that several experiments read
    steps: dict[str, Callable[[], None]] = {
        "universal": partial(universal.main, seed=seed, out=out),
        "scores": lambda: scores.extend(saved_scores(name, seed, out) for name in trained_models(controls=False)),
        "sparse": partial(sparse.main, scores=scores, seed=seed, out=out, folder="sparse"),
        "intrinsic": partial(intrinsic.main, scores=scores, seed=seed, out=out, folder="intrinsic"),
        "birth": partial(birth.main, seed=seed, out=out),
        "dynamic": partial(dynamic.main, scores=scores, seed=seed, out=out, folder="dynamic"),
        "causal": partial(causal.main, seed=seed, out=out),
        "causal-planted": partial(causal.main, model="planted-llama", needles=7, seed=seed, out=out),
        "ablations": partial(ablations.main, seed=seed, out=out),
        "factuality": partial(factuality.main, seed=seed, out=out),
        "downstream": partial(downstream.main, seed=seed, out=out),
        "cot": partial(cot.main, seed=seed, out=out),
        "kv-cache": partial(kv_cache.main, seed=seed, out=out),
        "monitor": partial(monitor.main, seed=seed, out=out),
        "dtypes": partial(dtypes.main, seed=seed, out=out),
    }
    chosen = [known(name, steps, "experiment") for name in only.split(",")] if only else list(steps)
    spent = {}
    for name in chosen:
        started = time.perf_counter()
        steps[name]()
        spent[name] = time.perf_counter() - started
    page = write_report(out)
    print("", *(f"{name:<16} {seconds:6.0f} s" for name, seconds in spent.items()), sep="\n")
    print(f"{'total':<16} {sum(spent.values()):6.0f} s; everything on one page: {page}")


def saved_scores(model: str, seed: int, out: Path) -> Path:
    """Scores of a model, detected once for all experiments that need no more."""
    bridge = rh.load(model)
    trials = rh.niah(bridge, [256, 512], 3, needles=28, distractors=1, seed=seed)
    return rh.detect(bridge, trials).save(out / "scores" / f"{model}.safetensors")


if __name__ == "__main__":
    run(main)
