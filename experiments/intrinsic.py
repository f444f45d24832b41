"""Property 3, intrinsic: do related models retrieve with the same heads, and unrelated ones with others?

    python experiments/intrinsic.py                                    # the embedded, trained models
    python experiments/intrinsic.py --scores Mistral-7B-v0.2-hf.json --scores Mixtral-8x7B-v0.1.json --families mi,mi

Writes one figure and the data behind it to OUT/intrinsic, and prints a verdict for each pair of one shape.
"""

from itertools import combinations
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

import rhlens as rh
from rhlens.claims.intrinsic import intrinsic
from rhlens.cli import numbers, run
from rhlens.show.properties import similarity_matrix
from rhlens.show.publish import Drawn, folder_name, publish
from rhlens.zoo.registry import family_of, trained_models


def main(
    models: Annotated[str | None, typer.Option(help="Names, folders or hub ids, with commas between them.")] = None,
    scores: Annotated[list[Path] | None, typer.Option(help="Saved or published score files instead of models.")] = None,
    families: Annotated[str | None, typer.Option(help="The family of each model, with commas between them.")] = None,
    lengths: Annotated[str, typer.Option(help="Prompt lengths in tokens.")] = "256,512",
    depths: Annotated[int, typer.Option(help="Needle depths, evenly spaced.")] = 3,
    needles: Annotated[int, typer.Option(help="Needles to draw, evenly over the kinds.")] = 14,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="Folder for figures and data.")] = Path("figures"),
    folder: Annotated[str | None, typer.Option(help="Where in it; what you choose stands beside the shipped.")] = None,
) -> None:
    found = [rh.read_scores(path, rh.HeadScores) for path in scores or []]
    chosen = models.split(",") if models else [] if found else trained_models(controls=False)
    for name in chosen:
        bridge = rh.load(name)
        trials = rh.niah(bridge, numbers(lengths, "lengths", int), depths, needles=needles, distractors=1, seed=seed)
        found.append(rh.detect(bridge, trials))
    family = families.split(",") if families else [family_of(s.model) for s in found]
    if len(family) != len(found):
        raise ValueError(f"--families names {len(family)} families for {len(found)} models: name one for each")

    correlations, claims = np.eye(len(found)), []
    for i, j in combinations(range(len(found)), 2):
        correlations[i, j] = correlations[j, i] = np.nan
        if found[i].mean().shape == found[j].mean().shape:
            claims.append(claim := intrinsic(found[i], found[j], related=family[i] == family[j]))
            correlations[i, j] = correlations[j, i] = claim.statistic.value
    names = [s.model for s in found]
    note = f"n = {min(s.n_trials for s in found)} trials or more a model; empty: maps of other shapes"
    caption = f"{sum(c.holds for c in claims)} of {len(claims)} pairs of one shape are as alike as their families say."
    sizes = {"lengths": lengths, "depths": depths, "needles": needles, "seed": seed} if chosen else {}
    settings = {"models": names, "scores": scores, "families": family} | sizes | found[0].run
    data = pd.DataFrame(correlations, columns=names).assign(model=names)
    drawn = {"similarity": Drawn(similarity_matrix(names, correlations, note), data, caption)}
    drawn_in = publish(out / (folder or folder_name("intrinsic", models, scores)), "Intrinsic", drawn, claims, settings)
    print(*claims, f"figures and data: {drawn_in}", sep="\n")


if __name__ == "__main__":
    run(main)
