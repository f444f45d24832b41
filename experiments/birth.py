"""Property 3, intrinsic, over time: when in training do retrieval heads appear, and do they stay the same ones?

    python experiments/birth.py                          # the snapshots of the embedded nano-llama
    python experiments/birth.py --models a/1000,a/2000,a/4000 --tokens 1e6,2e6,4e6

Writes one figure and the data behind it to OUT/intrinsic-birth.
"""

from pathlib import Path
from typing import Annotated

import typer

import rhlens as rh
from rhlens.cli import numbers, run
from rhlens.results.birth import ALIKE, RECALL, birth
from rhlens.show.dynamics import birth_figure
from rhlens.show.publish import Drawn, publish
from rhlens.zoo.registry import snapshots, trained_tokens


def main(
    model: Annotated[str, typer.Option(help="An embedded model that has snapshots.")] = "nano-llama",
    models: Annotated[str | None, typer.Option(help="Snapshots of your own, with commas between them.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Tokens of training of each of those.")] = None,
    lengths: Annotated[str, typer.Option(help="Prompt lengths in tokens.")] = "128",
    depths: Annotated[int, typer.Option(help="Needle depths, evenly spaced.")] = 3,
    needles: Annotated[int, typer.Option(help="Needles to draw, evenly over the kinds.")] = 14,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="Folder for figures and data.")] = Path("figures"),
) -> None:
    names = models.split(",") if models else [*snapshots(model), model]
    if len(names) < 2:
        raise ValueError(f"{names[0]} has no snapshots: choose a model that has, or name some with --models")
    ages = numbers(tokens, "tokens", float) if tokens else [trained_tokens(name) for name in names]
    if len(ages) != len(names):
        raise ValueError(f"--tokens names {len(ages)} ages for {len(names)} models: name one for each")
    found = []
    for name, age in zip(names, ages, strict=True):
        bridge = rh.load(name)
        trials = rh.niah(bridge, numbers(lengths, "lengths", int), depths, needles=needles, distractors=1, seed=seed)
        found.append((int(age), rh.detect(bridge, trials)))

    data = birth(found)
    heads = len(set(data["what"]) - {RECALL, ALIKE})
    caption = f"{heads} heads score 0.1 or more in some of {len(found)} snapshots of {names[-1]}."
    settings = {"models": names, "tokens": ages, "lengths": lengths, "depths": depths, "needles": needles, "seed": seed}
    settings |= found[0][1].run
    drawn = {"birth": Drawn(birth_figure(data, names[-1]), data, caption)}
    folder = publish(out / "intrinsic-birth", "Intrinsic: the birth of retrieval heads", drawn, [], settings)
    recall = data.loc[data["what"] == RECALL, ["tokens", "value", "low", "high", "n"]]
    print("recall:", recall.round(2).to_string(index=False), f"figures and data: {folder}", sep="\n")


if __name__ == "__main__":
    run(main)
