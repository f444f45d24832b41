"""Which families of models can be measured, and how? Prints a Markdown table of what works on tiny checkpoints.

    python experiments/support_table.py                                    # all families, in two minutes
    python experiments/support_table.py --family llama --family gemma2

Loading compares logits and attention with plain Hugging Face; every ablation and patch proves that it acts.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args

import torch
import typer
from tqdm import tqdm

import rhlens as rh
from rhlens.cli import MethodName, PhaseName, run
from rhlens.model.ablation import InterventionError
from rhlens.model.engine import Engine
from rhlens.model.load import LoadError
from rhlens.model.patching import PatchRun, Site
from rhlens.tasks.pairs import pairs
from rhlens.zoo.families import FAMILIES, tiny_checkpoint


def works(attempt: Callable[[], Any]) -> bool:
    """Whether an intervention acts, as is proven while it runs."""
    try:
        attempt()
    except InterventionError:
        return False
    return True


def named(acting: dict[str, list[str]], phases: tuple[str, ...]) -> str:
    """What acts, and in which phases if not in all of them."""
    if all(len(acts) == len(phases) for acts in acting.values()):
        return "all"
    only = {what: f" ({', '.join(acts)})" if len(acts) < len(phases) else "" for what, acts in acting.items() if acts}
    return ", ".join(what + when for what, when in only.items())


def row(family: str, folder: Path) -> list[str]:
    """What can be done with a family: path, detect, ablate, patch and a note."""
    try:
        model = rh.load(tiny_checkpoint(family, folder), quiet=True)
    except LoadError as error:
        return ["refused", "", "", "", str(error).partition(" cannot be measured: ")[2]]
    engine, trials = Engine(model), rh.niah(model, [120], 1, needles=2)
    path = "SDPA prefill" if engine.decoder is engine.model else "SDPA twin"
    path = "TransformerLens" if engine.twin is None else path
    rh.detect(model, trials, max_new_tokens=3, progress=False)
    few, phases = {"k": 2, "draws": 1, "max_new_tokens": 2, "progress": False}, get_args(PhaseName)
    ablate = partial(rh.ablate, model, trials, [(0, 1), (1, 2)], **few)
    ablates = {m: [p for p in phases if works(partial(ablate, method=m, phase=p))] for m in get_args(MethodName)}
    pair = pairs(engine.tokenizer, trials)[0]
    base, source = (torch.tensor(trial.tokens) for trial in (pair.corrupt, pair.clean))
    patched = PatchRun(engine, base, source, pair.clean.reply_span[0], pair.clean.reply)
    patches = {site: ["all"] if works(partial(patched.prove, site)) else [] for site in get_args(Site)}
    return [path, "yes", named(ablates, phases), named(patches, ("all",)), ""]


def main(
    family: Annotated[list[str] | None, typer.Option(help="A family to try, once or more; else all.")] = None,
) -> None:
    if unknown := [name for name in family or () if name not in FAMILIES]:
        raise ValueError(f"no family {unknown[0]!r}: give one of {', '.join(FAMILIES)}")
    lines = [["family", "path", "detect", "ablate", "patch", "note"], ["---"] * 6]
    for name in tqdm(family or FAMILIES, desc="families"):
        with tempfile.TemporaryDirectory() as folder:
            lines.append([f"{FAMILIES[name].title} (`{FAMILIES[name].model_type}`)", *row(name, Path(folder))])
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))


if __name__ == "__main__":
    run(main)
