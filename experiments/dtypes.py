"""Do the same heads retrieve in bfloat16 and float16 as in float32, on the fast copy and on TransformerLens?

    python experiments/dtypes.py                                       # the embedded, trained models
    python experiments/dtypes.py --models Qwen/Qwen2.5-0.5B --lengths 1024

Writes one figure and the data behind it to OUT/dtypes, and says for each model which heads differ.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

import rhlens as rh
from rhlens.cli import numbers, run
from rhlens.measure.precision import Reading, differences, reading
from rhlens.show.precision import precision_figure
from rhlens.show.publish import Drawn, publish
from rhlens.zoo.registry import trained_models

HALVES = ("bfloat16", "float16")


def main(
    models: Annotated[str | None, typer.Option(help="Names, folders or hub ids, with commas between them.")] = None,
    lengths: Annotated[str, typer.Option(help="Prompt lengths in tokens.")] = "256",
    depths: Annotated[int, typer.Option(help="Needle depths, evenly spaced.")] = 2,
    needles: Annotated[int, typer.Option(help="Needles to draw, evenly over the kinds.")] = 14,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="Folder for figures and data.")] = Path("figures"),
) -> None:
    names, rows, n = models.split(",") if models else trained_models(controls=False), [], 0
    about: dict[str, str] = {}
    for name in names:
        bridge = rh.load(name, device, "float32")
        trials = rh.niah(bridge, numbers(lengths, "lengths", int), depths, needles=needles, distractors=1, seed=seed)
        exact, n = reading(bridge, trials), len(trials)
        about = exact.run
        for dtype in HALVES:
            rows += [
                {"model": name, "dtype": dtype, "prefill": other.run["prefill"], "decode": other.run["decode"],
                 "heads_float32": int(exact.retrieving.sum()), **differences(exact, other)}
                for other in readings(rh.load(name, device, dtype), trials)
            ]  # fmt: skip
    table = pd.DataFrame(rows)
    same = table["lost"].eq("") & table["gained"].eq("")
    for row, agrees in zip(table.to_dict("records"), same, strict=True):
        verdict = "agrees" if agrees else f"differs: without {row['lost'] or 'none'}, with {row['gained'] or 'none'}"
        print(f"{row['model']} in {row['dtype']} ({row['decode']}): {row['heads']} of {row['heads_float32']} retrieval "
              f"heads, r = {row['pearson']:.4f}, {row['moved']:.2%} of positions moved; {verdict}")  # fmt: skip
    text = (f"In {same.sum()} of {len(table)} runs in 16 bits the same heads retrieve as in float32; scores of single "
            f"heads change by up to {table['largest'].max():.3f}.")  # fmt: skip
    settings: dict[str, Any] = {"models": names, "lengths": lengths, "depths": depths, "needles": needles,
                                "seed": seed} | about | {"dtype": ("float32", *HALVES)}  # fmt: skip
    drawn = {"dtypes": Drawn(precision_figure(table, f"n = {n} trials a model, on {about['device']}"), table, text)}
    folder = publish(out / "dtypes", "Number types", drawn, [], settings)
    print(text, f"figures and data: {folder}", sep="\n")


def readings(bridge: Any, trials: list[rh.Trial]) -> list[Reading]:
    """On the path that runs by itself and, if that is the fast copy, on TransformerLens: where anybody has hooks."""
    as_it_is = reading(bridge, trials)
    hooks = [("hook_embed", lambda x, hook: x)] if as_it_is.run["decode"] == "twin" else None
    with bridge.hooks(fwd_hooks=hooks) if hooks else nullcontext():
        return [as_it_is, *([reading(bridge, trials)] if hooks else [])]


if __name__ == "__main__":
    run(main)
