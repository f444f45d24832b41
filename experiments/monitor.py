"""Are made-up answers told by their lack of copying? Every question is asked with and without its needle.

    python experiments/monitor.py                                       # the embedded, trained nano-llama
    python experiments/monitor.py --model Qwen/Qwen2.5-0.5B --lengths 1024,4096

The heads come from other needles. With a distractor, a question whose needle is absent is answered with the other
needle's answer: wrong, and copied. Writes a figure, its data and two coloured answers to OUT/monitor-MODEL.
"""

from pathlib import Path
from typing import Annotated

import typer

import rhlens as rh
from rhlens.claims.factuality import detects
from rhlens.cli import numbers, run
from rhlens.measure.support import detect_made_up, supports
from rhlens.show.factuality import detection_figure
from rhlens.show.publish import Drawn, publish
from rhlens.tasks.pairs import without_needle


def main(
    model: Annotated[str, typer.Option(help="An embedded model, a folder, or a hub id.")] = "nano-llama",
    lengths: Annotated[str, typer.Option(help="Prompt lengths in tokens.")] = "256",
    depths: Annotated[int, typer.Option(help="Needle depths, evenly spaced.")] = 2,
    needles: Annotated[int, typer.Option(help="Needles to draw, evenly over the kinds.")] = 28,
    restate: Annotated[bool, typer.Option(help="Begin the answer for the model.")] = True,
    draws: Annotated[int, typer.Option(help="Sets of random heads.")] = 20,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="Folder for figures and data.")] = Path("figures"),
) -> None:
    bridge, long = rh.load(model), numbers(lengths, "lengths", int)
    scores = rh.detect(bridge, rh.niah(bridge, long, 3, needles=28, distractors=1, seed=seed + 1))
    grids = {
        name: rh.niah(bridge, long, depths, needles=needles, distractors=others, restate=restate, seed=seed)
        for name, others in (("nothing like it in the prompt", 0), ("another needle of its kind", 1))
    }
    found = {name: detect_made_up(bridge, trials, scores, draws, seed) for name, trials in grids.items()}
    first = next(iter(grids))
    claim, name = detects(found[first]), found[first].model
    table = found[first].trials.assign(distractors=0)
    drawn = {"support": Drawn(detection_figure(found), table,
        "How much of each answer retrieval heads copied. Left, answers without a needle are made up; right, the model "
        "copies the other needle's answer instead: wrong, but not made up.")}  # fmt: skip
    settings = {"model": name, "heads": " ".join(map(str, found[first].heads)), "lengths": lengths, "depths": depths,
                "needles": needles, "restate": restate, "draws": draws, "seed": seed} | scores.run  # fmt: skip
    folder = publish(out / f"monitor-{name}", f"Hallucination monitor: {name}", drawn, [claim], settings)
    one = grids[first][:1]
    for said, asks in (("copied", one), ("made-up", without_needle(bridge, one))):
        rh.support(supports(bridge, asks, scores)[0]).save(folder / f"{said}.html")
    for grid, one in found.items():
        print(f"\n{grid}:", one.summary().round(3).to_string(index=False), sep="\n")
    print(claim, f"figures and data: {folder}", sep="\n")


if __name__ == "__main__":
    run(main)
