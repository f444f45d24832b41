"""Which ablation should I use? Every method in every phase, top heads against random others.

    python experiments/ablations.py                          # the embedded, trained nano-llama
    python experiments/ablations.py --model planted-llama    # heads set by construction: the answer is known

Writes one figure and the data behind it to OUT/ablations-MODEL.
"""

from itertools import product
from pathlib import Path
from typing import Annotated, get_args

import pandas as pd
import typer

import rhlens as rh
from rhlens.cli import MethodName, PhaseName, run
from rhlens.show.figures import method_grid
from rhlens.show.publish import Drawn, publish


def main(
    model: Annotated[str, typer.Option(help="An embedded model, a folder, or a hub id.")] = "nano-llama",
    length: Annotated[int, typer.Option(help="Prompt length in tokens.")] = 256,
    needles: Annotated[int, typer.Option(help="Needles to draw, evenly over the kinds.")] = 14,
    k: Annotated[int | None, typer.Option(help="Heads to ablate; all that retrieve if not given.")] = None,
    draws: Annotated[int, typer.Option(help="Random control sets.")] = 20,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="Folder for figures and data.")] = Path("figures"),
) -> None:
    bridge = rh.load(model)
    trials = rh.niah(bridge, [length], 1, needles=needles, distractors=1, seed=seed)
    scores = rh.detect(bridge, trials)
    k = len(scores.retrieval_heads()) if k is None else k
    curves = [
        rh.ablate(bridge, trials, scores, [k], method, phase, draws=draws, seed=seed)
        for method, phase in product(get_args(MethodName), get_args(PhaseName))
    ]

    name = bridge.cfg.model_name
    table = pd.concat([c.summary().assign(method=c.method, phase=c.phase) for c in curves], ignore_index=True)
    caption = f"The top {k} heads of {name} and as many random others, taken away by every method in every phase."
    settings = {"model": name, "k": k, "draws": draws, "seed": seed} | scores.run
    folder = publish(out / f"ablations-{name}", f"Which ablation should I use? {name}",
                     {"methods": Drawn(method_grid(curves, k), table, caption)}, [], settings)  # fmt: skip
    print(table[table["k"] == k].round(2).to_string(index=False), f"\nfigures and data: {folder}", sep="")


if __name__ == "__main__":
    run(main)
