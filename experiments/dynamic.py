"""Property 4, dynamic: which retrieval heads always fire, which in some contexts only, and in which?

    python experiments/dynamic.py                                      # the embedded, trained models
    python experiments/dynamic.py --models Qwen/Qwen2.5-0.5B --lengths 1024,4096
    python experiments/dynamic.py --scores llama-2-7b-80k.json --scores Qwen1.5-14B.json   # no model is run

Writes a figure a model and the data behind it to OUT/dynamic, and prints the verdicts.
"""

from pathlib import Path
from typing import Annotated

import typer

import rhlens as rh
from rhlens.claims.dynamic import dynamic
from rhlens.cli import numbers, run
from rhlens.results.dynamics import dynamics_of
from rhlens.show.dynamics import dynamics_figure
from rhlens.show.publish import Drawn, folder_name, publish
from rhlens.zoo.registry import trained_models


def main(
    models: Annotated[str | None, typer.Option(help="Names, folders or hub ids, with commas between them.")] = None,
    scores: Annotated[list[Path] | None, typer.Option(help="Saved or published score files instead.")] = None,
    lengths: Annotated[str, typer.Option(help="Prompt lengths in tokens.")] = "256,512",
    depths: Annotated[int, typer.Option(help="Needle depths, evenly spaced.")] = 4,
    needles: Annotated[int, typer.Option(help="Needles to draw, evenly over the kinds.")] = 28,
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

    drawn, claims = {}, []
    for result in found:
        when = dynamics_of(result, seed=seed)
        claims.append(claim := dynamic(result, when))
        figure = dynamics_figure(when, f"When heads fire: {result.model}")
        drawn[result.model] = Drawn(figure, when.frame(), f"{claim.criterion}. {claim.control}.")
    sizes = {"lengths": lengths, "depths": depths, "needles": needles} if names else {}
    settings = {"models": list(drawn), "scores": scores, "seed": seed} | sizes | found[0].run
    drawn_in = publish(out / (folder or folder_name("dynamic", models, scores)), "Dynamic", drawn, claims, settings)
    print(*claims, f"figures and data: {drawn_in}", sep="\n")


if __name__ == "__main__":
    run(main)
