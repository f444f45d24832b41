"""Property 2, sparse: what share of a model's heads retrieves, and whether that hangs on the threshold.

    python experiments/sparse.py                                       # the embedded, trained models
    python experiments/sparse.py --models Qwen/Qwen2.5-0.5B,my_model/
    python experiments/sparse.py --scores llama-2-7b-80k.json --scores Mistral-7B-v0.2-hf.json   # no model is run

Writes one figure and the data behind it to OUT/sparse, and prints a verdict for each model.
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

import rhlens as rh
from rhlens.claims.sparse import sparse
from rhlens.cli import numbers, run
from rhlens.results.sparsity import bins
from rhlens.show.properties import sparsity_figure
from rhlens.show.publish import Drawn, folder_name, publish
from rhlens.zoo.registry import trained_models


def main(
    models: Annotated[str | None, typer.Option(help="Names, folders or hub ids, with commas between them.")] = None,
    scores: Annotated[list[Path] | None, typer.Option(help="Saved or published score files instead of models.")] = None,
    lengths: Annotated[str, typer.Option(help="Prompt lengths in tokens.")] = "256,512",
    depths: Annotated[int, typer.Option(help="Needle depths, evenly spaced.")] = 3,
    needles: Annotated[int, typer.Option(help="Needles to draw, evenly over the kinds.")] = 14,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="Folder for figures and data.")] = Path("figures"),
    folder: Annotated[str | None, typer.Option(help="Where in it; what you choose stands beside the shipped.")] = None,
) -> None:
    found = [rh.read_scores(path, rh.HeadScores) for path in scores or []]
    names = models.split(",") if models else [] if found else trained_models(controls=False)
    for name in names:
        bridge = rh.load(name)
        trials = rh.niah(bridge, numbers(lengths, "lengths", int), depths, needles=needles, distractors=1, seed=seed)
        found.append(rh.detect(bridge, trials))

    claims = [sparse(s) for s in found]
    data = pd.concat([bins(s).assign(model=s.model) for s in found])
    caption = f"Fewer than 5 % of heads score 0.1 or more in {sum(c.holds for c in claims)} of {len(claims)} models."
    sizes = {"lengths": lengths, "depths": depths, "needles": needles, "seed": seed} if names else {}
    settings = {"models": [s.model for s in found], "scores": scores} | sizes
    drawn = {"sparsity": Drawn(sparsity_figure(found), data, caption)}
    drawn_in = publish(
        out / (folder or folder_name("sparse", models, scores)), "Sparse", drawn, claims, settings | found[0].run
    )
    print(*claims, f"figures and data: {drawn_in}", sep="\n")


if __name__ == "__main__":
    run(main)
