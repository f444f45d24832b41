"""What the command line can patch: every head alone, paths between heads, the top heads together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rhlens.cli.options import Asked, Model, Out, asking
from rhlens.cli.output import Json, paths, print_json, print_rich, print_written
from rhlens.cli.verbs import (
    ControlNames,
    Draws,
    HeadNames,
    ScoreFile,
    chosen_heads,
    command,
    detected,
    doses_and_controls,
)

if TYPE_CHECKING:
    from rhlens.results.patching import PatchingMap

Direction = Annotated[
    Literal["denoise", "noise"], typer.Option(help="Clean into the corrupt run, or corrupt into the clean one.")
]
Positions = Annotated[
    Literal["answer", "all"], typer.Option(help="From the prompt's last token, or from the needle's answer on.")
]
Top = Annotated[int, typer.Option(min=1, help="Heads to list.")]


@command()
@asking(depths="3")
def patch(
    asked: Asked,
    model: Model,
    site: Annotated[
        Literal["z", "pattern", "q", "k", "v"], typer.Option(help="Output, attention, queries, keys or values.")
    ] = "z",
    direction: Direction = "denoise",
    positions: Positions = "answer",
    attribution: Annotated[bool, typer.Option("--attribution", help="Also the one-pass approximation.")] = False,
    top: Top = 10,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Patch every head alone between each prompt and a twin whose needle has another answer.

    Examples:
      rhlens patch nano-qwen2 --attribution --out runs/nano
      rhlens patch planted-llama --site pattern --json
    """
    from rhlens.measure.patch import check_patch
    from rhlens.measure.patch import patch as run_patch

    check_patch(site, direction, positions, attribution)
    bridge, trials, folder = asked.of(model, out)
    found = run_patch(bridge, trials, site, direction, positions, seed=asked.seed, out=folder)
    pearson = None
    if attribution:
        fast = run_patch(bridge, trials, site, direction, positions, attribution=True, seed=asked.seed, out=out)
        pearson = found.pearson(fast)
    _show("patch", found, top, out, as_json, pearson)


@command("path-patch")
@asking(depths="3")
def path_patch(
    asked: Asked,
    model: Model,
    to: Annotated[str, typer.Option(help="The heads at which paths end, like L6H3,L7H1.")],
    site: Annotated[Literal["q", "k", "v"], typer.Option(help="Their queries, keys or values.")] = "k",
    direction: Direction = "noise",
    top: Top = 10,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Find the earlier heads that feed other heads' queries, keys or values.

    Examples:
      rhlens path-patch nano-llama --to L7H3,L7H0,L6H7 --site v
      rhlens path-patch planted-llama --to L2H3 --json
    """
    from rhlens.measure.patch import path_patch as run_path_patch
    from rhlens.results.heads import Head

    receivers = [Head.parse(h) for h in to.split(",")]
    bridge, trials, folder = asked.of(model, out)
    found = run_path_patch(bridge, trials, receivers, site, direction, asked.seed, out=folder)
    _show("path-patch", found, top, out, as_json)


@command("patch-top")
@asking(depths="3")
def patch_top(
    asked: Asked,
    model: Model,
    k: Annotated[
        str | None, typer.Option(help="How many heads, like 0,2,4; by default up to all that retrieve.")
    ] = None,
    direction: Direction = "denoise",
    positions: Positions = "answer",
    control: ControlNames = "random",
    draws: Draws = 20,
    heads: HeadNames = None,
    scores: ScoreFile = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Patch the top retrieval heads together, and as many random others.

    Examples:
      rhlens patch-top nano-qwen2 --k 0,2,4,8 --out runs/nano
      rhlens patch-top planted-llama --heads L2H3,L2H6,L3H1 --json
    """
    from rhlens.measure.patch import patch_top as run_patch_top
    from rhlens.show.tables import patching_curve_table

    chosen, (ks, controls) = chosen_heads(heads, scores, out, asked.shard), doses_and_controls(k, control, draws)
    bridge, trials, folder = asked.of(model, out)
    chosen = chosen or detected(bridge, trials, folder)
    curve = run_patch_top(bridge, trials, chosen, ks, direction, positions, controls, draws, asked.seed, out=folder)
    names = ["patching_together.csv", "patching_together.png"]
    if as_json:
        print_json(
            "patch-top", model=curve.model, run=curve.run, site=curve.site, direction=curve.direction,
            positions=curve.positions, levels=curve.summary(), written=paths(out, names),
        )  # fmt: skip
    else:
        print_rich(patching_curve_table(curve))
    if out is not None:
        from rhlens.show.canvas import save_figure
        from rhlens.show.maps import patching_curve

        curve.save(out / "patching_together.csv")
        save_figure(patching_curve(curve), out / "patching_together.png")
        print_written(out, names, as_json)


_FILE = {"patch": "patching", "path-patch": "paths"}


def _show(
    verb: str, found: PatchingMap, top: int, out: Path | None, as_json: bool, pearson: float | None = None
) -> None:
    from rhlens.show.tables import patch_table

    names = [f"{_FILE[verb]}.csv", f"{_FILE[verb]}.png"]
    if as_json:
        print_json(
            verb, model=found.model, run=found.run, site=found.site, direction=found.direction,
            positions=found.positions, method=found.method, pairs=len(found.trials), heads=found.frame(),
            attribution_pearson=pearson, written=paths(out, names),
        )  # fmt: skip
    else:
        print_rich(patch_table(found, top))
    if out is not None:
        from rhlens.show.canvas import save_figure
        from rhlens.show.maps import patching_figure

        found.frame().to_csv(out / names[0], index=False)
        save_figure(patching_figure(found), out / names[1])
        print_written(out, names, as_json)
    if pearson is not None and not as_json:
        print(f"attribution patching: correlation with the exact map {pearson:.3f}")
