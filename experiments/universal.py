"""Property 1, universal: do all models that retrieve have heads for it that they need, and those that cannot none?

    python experiments/universal.py                                    # trained models, and controls that cannot
    python experiments/universal.py --models Qwen/Qwen2.5-0.5B,my_model/
    python experiments/universal.py --scores llama-2-7b-80k.json --scores Mistral-7B-v0.2-hf.json   # no model is run

Writes one figure and the data behind it to OUT/universal, and prints a verdict for each model and for all.
"""

from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

import rhlens as rh
from rhlens.claims.universal import universal, universal_overall
from rhlens.cli import numbers, run
from rhlens.show.properties import score_maps
from rhlens.show.publish import Drawn, folder_name, publish
from rhlens.zoo.registry import MODELS, snapshots, trained_models


def main(
    models: Annotated[str | None, typer.Option(help="Names, folders or hub ids, with commas between them.")] = None,
    scores: Annotated[list[Path] | None, typer.Option(help="Saved or published score files instead of models.")] = None,
    lengths: Annotated[str, typer.Option(help="Prompt lengths in tokens.")] = "256",
    depths: Annotated[int, typer.Option(help="Needle depths, evenly spaced.")] = 3,
    needles: Annotated[int, typer.Option(help="Needles to draw, evenly over the kinds.")] = 14,
    draws: Annotated[int, typer.Option(help="Sets of other heads to ablate.")] = 10,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="Folder for figures and data.")] = Path("figures"),
) -> None:
    names = models.split(",") if models else [] if scores else default_models()
    found: list[tuple[rh.HeadScores, Any]] = [(rh.read_scores(path, rh.HeadScores), None) for path in scores or []]
    for name in names:
        bridge = rh.load(name)
        trials = rh.niah(bridge, numbers(lengths, "lengths", int), depths, needles=needles, distractors=1, seed=seed)
        result = rh.detect(bridge, trials)
        heads, places = result.retrieval_heads(), sorted({t.depth for t in trials})
        middle = [t for t in trials if t.length == trials[0].length and t.depth == places[len(places) // 2]]
        curve = rh.ablate(bridge, middle, result, [len(heads)], phase="both", draws=draws, seed=seed) if heads else None
        found.append((result, curve))

    claims = [universal(result, curve) for result, curve in found]
    rows = [
        {
            "model": result.model,
            "heads": result.n_layers * result.n_heads,
            "retrieval_heads": " ".join(map(str, result.retrieval_heads())),
            "highest_score": result.mean().max(),
            "recall": result.trials["recall"].mean() if "recall" in result.trials else None,
            **(curve.contrast(max(curve.ks))._asdict() if curve else {}),
            "holds": claim.holds,
        }
        for (result, curve), claim in zip(found, claims, strict=True)
    ]
    data = pd.DataFrame(rows).rename(columns={"value": "recall_needed", "n": "trials_ablated"})
    claims.append(universal_overall(claims))
    caption = f"{claims[-1].criterion}. Recall needed: what is lost without all retrieval heads, beyond as many others."
    settings = {"models": names, "scores": scores, "lengths": lengths, "depths": depths, "needles": needles,
                "draws": draws, "seed": seed} | found[0][0].run  # fmt: skip
    drawn = {"score_maps": Drawn(score_maps([result for result, _ in found]), data, caption)}
    folder = publish(out / folder_name("universal", models, scores), "Universal", drawn, claims, settings)
    print(*claims, f"figures and data: {folder}", sep="\n")


def default_models() -> list[str]:
    """All trained models, and controls that cannot retrieve: trained without copying, at their start, or not at all."""
    trained = trained_models()
    return (
        trained
        + [name for model in trained for name in snapshots(model)[:1]]
        + [name for name, model in MODELS.items() if model.origin == "random"]
    )


if __name__ == "__main__":
    run(main)
