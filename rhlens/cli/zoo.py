"""The `zoo` commands of the command line. Heavy imports happen inside them, so that `--help` is quick."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rhlens.cli.completion import complete_models, complete_specs
from rhlens.cli.help import Verb
from rhlens.cli.output import Json, print_json, print_rich, print_written

if TYPE_CHECKING:
    from rhlens.zoo.specs import NanoSpec

app = typer.Typer(help="The embedded models.", no_args_is_help=True)
command = partial(app.command, cls=Verb)
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


@command("list")
def zoo_list(as_json: Json = False) -> None:
    """Name every embedded model, and what can be trained.

    Examples:
      rhlens zoo list
      rhlens zoo list --json
    """
    from rich.table import Table

    from rhlens.zoo.registry import MODELS, facts_of, models_folder, snapshots
    from rhlens.zoo.specs import SPECS

    if as_json:
        rows = [{"name": n, "origin": m.origin, "about": m.about, "snapshots": snapshots(n)} for n, m in MODELS.items()]
        rows += [{"name": n, "origin": "spec only", "about": s.about} for n, s in SPECS.items() if n not in MODELS]
        print_json("zoo list", models=rows)
        return
    table = Table("name", "origin", "heads", "parameters", "what it is")
    for name, model in MODELS.items():
        if model.origin == "trained":
            facts = facts_of(models_folder() / name)
            shape = f"{facts.layers} × {facts.heads}", f"{facts.parameters / 1e6:.2f} M"
        else:
            shape = "4 × 8", ""
        more = f"; {len(snapshots(name))} snapshots" if snapshots(name) else ""
        table.add_row(name, model.origin, *shape, model.about + more)
    for name, spec in SPECS.items():
        if name not in MODELS:
            table.add_row(
                name, "spec only", "8 × 8", "", f"{spec.parent or spec.architecture}: {spec.about}", style="dim"
            )
    print_rich(table)


@command("info")
def zoo_info(
    name: Annotated[str, typer.Argument(help="An embedded model, like nano-qwen2.", autocompletion=complete_models)],
    as_json: Json = False,
) -> None:
    """Say what an embedded model is, what it can do, and how it was made.

    Examples:
      rhlens zoo info nano-qwen2
      rhlens zoo info nano-llama@1001472 --json
    """
    from rhlens.show.card import summary
    from rhlens.zoo.registry import MODELS, folder_of, known, snapshots
    from rhlens.zoo.specs import SPECS

    known(name.partition("@")[0], MODELS, "embedded model")
    model = MODELS[name.partition("@")[0]]
    with folder_of(name) as folder:
        assert folder is not None
        rows = summary(folder, SPECS.get(name))
    rows = {"name": name, "origin": model.origin, "what it is": model.about, **rows}
    if names := snapshots(name):
        rows["snapshots"] = ", ".join(names)
    if as_json:
        print_json("zoo info", facts=rows)
        return
    for key, value in rows.items():
        print(f"{key + ':':<16} {value}")


@command("train")
def zoo_train(
    name: Annotated[str, typer.Argument(help="A spec of the zoo, like nano-llama.", autocompletion=complete_specs)],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and the finished model.")],
    base: Annotated[Path | None, typer.Option(help="Folder of the parent; by default the embedded one.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in OUT.")] = True,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    device: Device = "auto",
) -> None:
    """Train a nano model anew, from its spec.

    Examples:
      rhlens zoo train nano-llama --out runs/nano-llama
      rhlens zoo train nano-llama-chat --out runs/chat --base runs/nano-llama
    """
    from rhlens.zoo.registry import MODELS, known, models_folder
    from rhlens.zoo.specs import SPECS
    from rhlens.zoo.train import train

    spec = SPECS[known(name, SPECS, "spec")]
    if spec.parent and base is None and spec.parent in MODELS:
        base = models_folder() / spec.parent
    train(spec, out, resume=resume, threads=threads, base=base, device=device)
    print(f"written to {out}: give that folder to rhlens detect")


@command("card")
def zoo_card(
    model: Annotated[
        str,
        typer.Argument(help="An embedded model, or the folder of a training run.", autocompletion=complete_models),
    ],
    spec: Annotated[
        str | None, typer.Option(help="The spec it was trained from; by default the folder's name.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write; by default the model's own folder.")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure a trained model, and write its card: README.md and card.json.

    Examples:
      rhlens zoo card runs/nano-llama
      rhlens zoo card nano-llama --out runs/card --json
    """
    from rhlens.measure.profile import profile
    from rhlens.model.load import load
    from rhlens.show.card import make_card, write_card

    folder, chosen = _trained_folder(model, spec)
    measured = profile(load(folder, device), lengths_of(chosen), chat=bool(chosen.chat_template))
    card = make_card(folder, chosen, measured)
    write_card(card, out or folder)
    names = ["README.md", "card.json"]
    if as_json:
        print_json("zoo card", card=card, written=[str((out or folder) / name) for name in names])
    for aim in [] if as_json else card["aims"]:
        print(f"{'met    ' if aim['met'] else 'NOT met'}  {aim['aim']}: {aim['found']}")
    print_written(out or folder, names, as_json)


@command("ship")
def zoo_ship(
    run: Annotated[Path, typer.Argument(help="The folder of a finished training run.")],
    spec: Annotated[
        str | None, typer.Option(help="The spec it was trained from; by default the folder's name.")
    ] = None,
) -> None:
    """Copy a finished run into this package, with its card; for those who make the zoo.

    Examples:
      rhlens zoo ship runs/nano-llama
    """
    from rhlens.zoo.registry import CARD, ship, snapshots

    folder, chosen = _trained_folder(str(run), spec)
    shipped = ship(folder, chosen.name)
    size = sum(path.stat().st_size for path in shipped.parent.rglob("*") if path.is_file()) / 1e6
    print(f"written to {shipped}, with {len(snapshots(chosen.name))} snapshots; all models are {size:.1f} MB now")
    if not (shipped / CARD).exists():
        print(f"it has no card: measure it with rhlens zoo card {chosen.name}")


@command("table")
def zoo_table() -> None:
    """Print what the cards of all trained models say, as the Markdown table in the README.

    Examples:
      rhlens zoo table
    """
    from rhlens.show.card import zoo_table as table

    print(table())


def lengths_of(spec: NanoSpec) -> list[int]:
    """Prompt lengths to ask at: the power of two within the trained context, and its quarter and half from 256 on."""
    context = 2 ** ((spec.context or 512).bit_length() - 1)
    return [context // n for n in (4, 2, 1) if context // n >= 256]


def _trained_folder(model: str, spec: str | None) -> tuple[Path, Any]:
    from rhlens.zoo.registry import MODELS, known, models_folder
    from rhlens.zoo.specs import SPECS

    folder = Path(model)
    if not folder.is_dir():
        trained = [name for name, about in MODELS.items() if about.origin == "trained"]
        folder = models_folder() / known(model, trained, "trained model or folder")
    return folder, SPECS[known(spec or folder.resolve().name, SPECS, "spec")]
