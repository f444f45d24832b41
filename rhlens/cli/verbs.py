"""What the command line can measure: one verb a measurement."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from rhlens.cli.completion import complete_controls
from rhlens.cli.help import WIDE, Verb
from rhlens.cli.options import Asked, Method, Model, Out, Phase, asking, numbers
from rhlens.cli.output import Json, paths, print_json, print_rich, print_written

if TYPE_CHECKING:
    from rhlens.results.curves import Measure
    from rhlens.results.scores import HeadScores
    from rhlens.results.share import Out as Folder

app = typer.Typer(
    help="Find the attention heads that fetch facts from a language model's context, and see what breaks without them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=WIDE,
)
command = partial(app.command, cls=Verb)
HeadNames = Annotated[str | None, typer.Option(help="Heads, like L16H19,L11H15; detected if not given.")]
ScoreFile = Annotated[Path | None, typer.Option(help="A score file to take the heads from.")]
Doses = Annotated[str | None, typer.Option(help="How many heads, like 0,2,4; by default up to all that retrieve.")]
ControlNames = Annotated[
    str,
    typer.Option(help="random, layer-matched, score-bottom, or several.", autocompletion=complete_controls),
]
Draws = Annotated[int, typer.Option(help="Control sets of each kind for each k.")]


@command()
@asking(lengths="256,512")
def detect(
    asked: Asked,
    model: Model,
    protocol: Annotated[
        Literal["paper", "wu2024"], typer.Option(help="Set score of all trials, or sum score behind a ROUGE gate.")
    ] = "paper",
    stop_when_stable: Annotated[
        float | None, typer.Option(help="Stop early once every retrieval head is one with this confidence, like 0.95.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Heads to list.")] = 10,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Score every head on what it copies from needles.

    Examples:
      rhlens detect nano-qwen2 --lengths 256,512 --depths 5 --out runs/nano
      rhlens detect Qwen/Qwen2.5-0.5B --lengths 1024,4096 --needles bundled --json
    """
    from rhlens.measure.detect import detect as run_detect
    from rhlens.results.interop import SCORES

    bridge, trials, folder = asked.of(model, out)
    scores = run_detect(bridge, trials, protocol, out=folder, stop_when_stable=stop_when_stable)
    names = [SCORES, "heads.csv", "trials.csv", "score_map.png", "needle_heatmap.png"]
    if out is not None:
        from rhlens.show.canvas import save_figure
        from rhlens.show.figures import needle_heatmap, score_map

        scores.save(out / SCORES)
        scores.trials.to_csv(out / "trials.csv", index=False)
        save_figure(needle_heatmap(scores), out / "needle_heatmap.png")
        scores.frame().to_csv(out / "heads.csv", index=False)
        save_figure(score_map(scores), out / "score_map.png")
        print_written(out, names, as_json)
    _show_scores(scores, top, as_json, paths(out, names))


@command()
def check(
    model: Model,
    haystack: Annotated[str | None, typer.Option(help="Text file or folder of your own.")] = None,
    length: Annotated[int | None, typer.Option(min=1, help="Of the prompts, in tokens; 512 if the model can.")] = None,
    needles: Annotated[int, typer.Option(min=1, help="Needles under each form.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of haystack and needles.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Revision of a hub id.")] = None,
    as_json: Json = False,
) -> None:
    """Ask a few needles under each form of prompt: which of them does this model answer, and with which flags?

    Examples:
      rhlens check nano-qwen2
      rhlens check Qwen/Qwen3-0.6B --haystack essays --json
    """
    from rhlens.measure.check import check as run_check
    from rhlens.model.load import load
    from rhlens.show.tables import check_table

    found = run_check(load(model, device, dtype, revision), haystack, length, needles, seed)
    if as_json:
        print_json("check", model=found.model, forms=found.table.drop(columns="options"), advice=found.advice)
        return
    print_rich(check_table(found))
    print(found.advice)


@command()
@asking()
def ablate(
    asked: Asked,
    model: Model,
    k: Doses = None,
    phase: Phase = "decode",
    method: Method = "zero",
    control: ControlNames = "random",
    draws: Draws = 20,
    by: Annotated[
        Literal["head", "kv_group"], typer.Option(help="Single heads, or all that share keys and values.")
    ] = "head",
    preset: Annotated[
        Literal["wu2024"] | None, typer.Option(help="Method and phase of published code, over --method and --phase.")
    ] = None,
    heads: HeadNames = None,
    scores: ScoreFile = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Measure recall without the top retrieval heads, and without as many random others.

    Examples:
      rhlens ablate nano-qwen2 --k 0,2,4,8 --draws 10 --out runs/nano
      rhlens ablate nano-qwen2 --heads L4H1,L5H0 --control random,layer-matched --json
    """
    from rhlens.claims.causal import causal
    from rhlens.measure.ablate import ablate as run_ablate
    from rhlens.show.tables import curve_table

    chosen, (ks, controls) = chosen_heads(heads, scores, out, asked.shard), doses_and_controls(k, control, draws)
    bridge, trials, folder = asked.of(model, out)
    chosen = chosen or detected(bridge, trials, folder)
    curve = run_ablate(bridge, trials, chosen, ks, method, phase, controls, draws, asked.seed, by, preset, out=folder)
    claim, names = causal(curve) if max(curve.ks) > 0 else None, ["answers.csv", "dose_curve.png"]
    if as_json:
        measured: tuple[Measure, ...] = ("recall", "exact", "logprob")
        print_json(
            "ablate", model=curve.model, run=curve.run, method=curve.method, phase=curve.phase,
            **{m: curve.summary(m) for m in measured}, claim=vars(claim) if claim else None, written=paths(out, names),
        )  # fmt: skip
    else:
        print_rich(curve_table(curve))
        if claim is not None:
            print(claim)
    if out is not None:
        from rhlens.show.canvas import save_figure
        from rhlens.show.figures import dose_curve

        curve.save(out / "answers.csv")
        save_figure(dose_curve(curve), out / "dose_curve.png")
        print_written(out, names, as_json)


@command("map")
@asking(depths="3")
def causal_map(
    asked: Asked,
    model: Model,
    method: Method = "zero",
    phase: Phase = "both",
    scores: ScoreFile = None,
    top: Annotated[int, typer.Option(min=1, help="Heads to list.")] = 10,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Ablate every head alone: what each is worth to the right answer, beside its retrieval score.

    Examples:
      rhlens map nano-qwen2 --phase decode --out runs/nano
      rhlens map planted-llama --method mean --json
    """
    from rhlens.measure.causal_map import causal_map as run_map
    from rhlens.show.tables import map_table

    chosen: Any = chosen_heads(None, scores, out, asked.shard, listed=False)
    bridge, trials, folder = asked.of(model, out)
    chosen = chosen or detected(bridge, trials, folder)
    found = run_map(bridge, trials, method, phase, asked.seed, out=folder)
    names = ["causal_map.csv", "causal_map.png"]
    if as_json:
        print_json(
            "map", model=found.model, run=found.run, method=found.method, phase=found.phase, trials=len(found.effects),
            spearman=found.spearman(chosen), heads=found.frame(chosen), written=paths(out, names),
        )  # fmt: skip
    else:
        print_rich(map_table(found, chosen, top))
    if out is not None:
        from rhlens.show.canvas import save_figure
        from rhlens.show.maps import causal_map_figure

        found.frame(chosen).to_csv(out / "causal_map.csv", index=False)
        save_figure(causal_map_figure(found, chosen), out / "causal_map.png")
        print_written(out, names, as_json)


def doses_and_controls(k: str | None, control: str, draws: int) -> tuple[list[int] | None, Any]:
    """How many heads (None: up to all that retrieve) and which controls, checked before anything is loaded."""
    from rhlens.measure.ablate import check_dose
    from rhlens.results.controls import Control
    from rhlens.zoo.registry import known

    ks, controls = numbers(k, "k", int) if k else None, [name.strip() for name in control.split(",")]
    check_dose(ks or [0], draws)
    for name in controls:
        known(name, get_args(Control), "control")
    return ks, controls


def chosen_heads(
    heads: str | None, scores: Path | None, out: Path | None, shard: str | None, listed: bool = True
) -> Any:
    """The heads that the options name, as scores or (if `listed` will do) a list; None where they must be detected."""
    from rhlens.results.head_tables import HeadList
    from rhlens.results.heads import Head
    from rhlens.results.interop import SCORES, read_scores
    from rhlens.results.scores import HeadScores

    if not heads and not scores and out is not None and (out / SCORES).exists():
        scores = out / SCORES
        print(f"heads from {scores}", file=sys.stderr)
    if heads:
        return [Head.parse(h) for h in heads.split(",")]
    if shard and not scores:
        raise ValueError(
            "--shard is of a run whose heads are known: let rhlens detect finish in this --out first, or give --scores"
        )
    return read_scores(scores, *([HeadScores, HeadList] if listed else [HeadScores])) if scores else None


def detected(bridge: Any, trials: Any, folder: Folder | None) -> HeadScores:
    """Scores of the trials that are asked anyway."""
    from rhlens.measure.detect import detect as run_detect

    return run_detect(bridge, trials, out=folder)


def _show_scores(scores: HeadScores, top: int, as_json: bool, written: list[str]) -> None:
    from rhlens.results.stats import mean_ci
    from rhlens.show.tables import score_table

    asked = scores.trials
    recall, exact = (mean_ci(asked[c].to_numpy(dtype=float), list(asked["needle"])) for c in ("recall", "exact"))
    if as_json:
        print_json(
            "detect", model=scores.model, run=scores.run, protocol=scores.protocol, trials=scores.n_trials,
            recall=recall, exact=exact, retrieval_heads=[str(h) for h in scores.retrieval_heads()],
            heads=scores.frame(), written=written,
        )  # fmt: skip
        return
    print_rich(score_table(scores, top))
    print(f"needle recall (ROUGE-1): {recall}\nanswers exactly right:   {exact}")
