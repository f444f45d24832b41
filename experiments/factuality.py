"""Does what retrieval heads do foretell a right answer, and what goes wrong without them?

    python experiments/factuality.py                                    # the embedded, trained nano-llama
    python experiments/factuality.py --model Qwen/Qwen2.5-0.5B --lengths 1024,4096

The heads come from other needles than the trials. Writes figures and data to OUT/factuality-MODEL.
"""

from pathlib import Path
from typing import Annotated

import typer

import rhlens as rh
from rhlens.claims.factuality import predicts
from rhlens.cli import numbers, run
from rhlens.measure.hits import hits
from rhlens.results.errors import errors_by_k
from rhlens.show.factuality import hits_figure
from rhlens.show.figures import error_shares
from rhlens.show.publish import Drawn, publish


def main(
    model: Annotated[str, typer.Option(help="An embedded model, a folder, or a hub id.")] = "nano-llama",
    lengths: Annotated[str, typer.Option(help="Prompt lengths in tokens.")] = "256,512",
    depths: Annotated[int, typer.Option(help="Needle depths, evenly spaced.")] = 4,
    needles: Annotated[int, typer.Option(help="Needles to draw, evenly over the kinds.")] = 42,
    distractors: Annotated[int, typer.Option(help="Other needles of the same kind: they make answers fail.")] = 3,
    restate: Annotated[bool, typer.Option(help="Begin the answer for the model.")] = False,
    draws: Annotated[int, typer.Option(help="Control sets of heads.")] = 20,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="Folder for figures and data.")] = Path("figures"),
) -> None:
    bridge, long = rh.load(model), numbers(lengths, "lengths", int)
    scores = rh.detect(bridge, rh.niah(bridge, long, 3, needles=28, distractors=1, seed=seed + 1))
    heads = scores.retrieval_heads()
    if not heads:
        raise ValueError(f"{model} has no retrieval head (mean score >= 0.1), so there is no activation to look at")
    trials = rh.niah(bridge, long, depths, needles=needles, distractors=distractors, restate=restate, seed=seed)
    found = hits(bridge, trials)
    some = [t for t in trials if t.length == long[0]][: 2 * needles : 2]
    curve = rh.ablate(bridge, some, heads, draws=draws, seed=seed)
    claims = [predicts(found, heads, "aimed"), predicts(found, heads, "copied")]
    name, wrong = found.model, (~found.right).sum()
    drawn = {
        "signs": Drawn(hits_figure(found, heads), found.frame(heads, by="kind"),
            f"Where heads look before an answer foretells whether it is right; {wrong} of {len(trials)} are wrong."),
        "errors": Drawn(error_shares(curve), errors_by_k(curve),
            "What kind of answers are given without heads, to questions of which some are answered wrong with them."),
    }  # fmt: skip
    settings = {"model": name, "heads": " ".join(map(str, heads)), "distractors": distractors, "restate": restate,
                "lengths": lengths, "depths": depths, "needles": needles, "seed": seed} | found.run  # fmt: skip
    folder = publish(out / f"factuality-{name}", f"Factuality: {name}", drawn, claims, settings)
    found.trials.to_csv(folder / "trials.csv", index=False)
    print(*claims, f"figures and data: {folder}", sep="\n")


if __name__ == "__main__":
    run(main)
