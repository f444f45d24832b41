"""The command line. Heavy imports happen inside the verbs, so that `--help` is quick."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rhlens.cli_zoo import app as zoo_app

if TYPE_CHECKING:
    from rhlens.results.scores import HeadScores
    from rhlens.tasks.trials import Trial

app = typer.Typer(
    help="Find the attention heads that fetch facts from a language model's context, and see what breaks without them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(zoo_app, name="zoo")

PhaseName = Literal["prefill", "decode", "both"]
MethodName = Literal["zero", "mean", "uniform", "resample"]
Model = Annotated[str, typer.Argument(help="An embedded model, a Hugging Face folder, or a hub id.")]
Lengths = Annotated[str, typer.Option(help="Prompt lengths in tokens, like 256,512.")]
Depths = Annotated[str, typer.Option(help="How many depths to space evenly, like 5, or the depths: 0,0.5,1.")]
Needles = Annotated[str, typer.Option(help="How many needles to draw, 'bundled', or a JSON file of your own.")]
Seed = Annotated[int, typer.Option(help="Seed of haystack, needles, distractors and controls.")]
HaystackPath = Annotated[Path | None, typer.Option(help="Text file or folder; generated English by default.")]
Distractors = Annotated[int, typer.Option(help="Other needles of the same kind in every haystack.")]
Restate = Annotated[bool, typer.Option(help="End the prompt with the needle's own words before the answer.")]
Chat = Annotated[bool, typer.Option("--chat", help="Wrap the prompt in the tokenizer's chat template.")]
Out = Annotated[Path | None, typer.Option(help="Folder for results; the same command goes on where it stopped.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Revision = Annotated[str | None, typer.Option(help="Revision of a hub id.")]


@app.command()
def detect(
    model: Model,
    lengths: Lengths = "256,512",
    depths: Depths = "5",
    needles: Needles = "14",
    protocol: Annotated[
        Literal["paper", "wu2024"], typer.Option(help="Set score of all trials, or sum score behind a ROUGE gate.")
    ] = "paper",
    top: Annotated[int, typer.Option(min=1, help="Heads to list.")] = 10,
    seed: Seed = 0,
    haystack: HaystackPath = None,
    distractors: Distractors = 0,
    restate: Restate = True,
    chat: Chat = False,
    out: Out = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    revision: Revision = None,
) -> None:
    """Score every head on what it copies from needles.

    Example: rhlens detect nano-qwen2 --lengths 256,512 --depths 5 --out runs/nano
    """
    from rhlens.measure.detect import detect as run_detect

    grid = _grid(lengths, depths, needles, seed, haystack, distractors, restate, chat)
    bridge, trials = _load(model, grid, device, dtype, revision)
    scores = run_detect(bridge, trials, protocol, out=out)
    if out is not None:
        from rhlens.show.figures import needle_heatmap, save_figure, score_map

        scores.save(out / "scores.safetensors")
        scores.trials.to_csv(out / "trials.csv", index=False)
        save_figure(needle_heatmap(scores), out / "needle_heatmap.png")
        scores.frame().to_csv(out / "heads.csv", index=False)
        save_figure(score_map(scores), out / "score_map.png")
        print(f"written to {out}: scores.safetensors, heads.csv, trials.csv, score_map.png, needle_heatmap.png")
    _show_scores(scores, top)


@app.command()
def ablate(
    model: Model,
    k: Annotated[
        str | None, typer.Option(help="How many heads to ablate, like 0,2,4; by default up to all that retrieve.")
    ] = None,
    phase: Annotated[PhaseName, typer.Option(help="While answering, while reading the prompt, or both.")] = "decode",
    method: Annotated[
        MethodName, typer.Option(help="Output zero, mean, or another prompt's (resample), or attention uniform.")
    ] = "zero",
    control: Annotated[
        str, typer.Option(help="random, layer-matched, score-bottom, or several: random,layer-matched.")
    ] = "random",
    draws: Annotated[int, typer.Option(help="Control sets of each kind for each k.")] = 20,
    by: Annotated[
        Literal["head", "kv_group"], typer.Option(help="Single heads, or all that share keys and values.")
    ] = "head",
    preset: Annotated[
        Literal["wu2024"] | None, typer.Option(help="Method and phase of published code, over --method and --phase.")
    ] = None,
    heads: Annotated[
        str | None, typer.Option(help="Heads to ablate, like L16H19,L11H15; detected if not given.")
    ] = None,
    scores: Annotated[Path | None, typer.Option(help="A score file to take the heads from.")] = None,
    lengths: Lengths = "256",
    depths: Depths = "5",
    needles: Needles = "14",
    seed: Seed = 0,
    haystack: HaystackPath = None,
    distractors: Distractors = 0,
    restate: Restate = True,
    chat: Chat = False,
    out: Out = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    revision: Revision = None,
) -> None:
    """Measure recall without the top retrieval heads, and without as many random others.

    Example: rhlens ablate nano-qwen2 --k 0,2,4,8 --draws 10 --out runs/nano
    """
    from rhlens.claims.causal import causal
    from rhlens.measure.ablate import ablate as run_ablate
    from rhlens.measure.ablate import check_dose
    from rhlens.measure.detect import detect as run_detect
    from rhlens.results.heads import Head
    from rhlens.results.interop import read_scores
    from rhlens.show.tables import curve_table

    grid = _grid(lengths, depths, needles, seed, haystack, distractors, restate, chat)
    if not heads and not scores and out is not None and (out / "scores.safetensors").exists():
        scores = out / "scores.safetensors"
        print(f"heads from {scores}", file=sys.stderr)
    chosen: Any = [Head.parse(h) for h in heads.split(",")] if heads else read_scores(scores) if scores else None
    ks = numbers(k, "k", int) if k else None
    check_dose(ks or [0], draws)
    bridge, trials = _load(model, grid, device, dtype, revision)
    if chosen is None:
        chosen = run_detect(bridge, trials, out=out)
    controls: Any = [name.strip() for name in control.split(",")]
    curve = run_ablate(bridge, trials, chosen, ks, method, phase, controls, draws, seed, by, preset, out=out)
    _print_rich(curve_table(curve))
    if max(curve.ks) > 0:
        print(causal(curve))
    if out is not None:
        from rhlens.show.figures import dose_curve, save_figure

        curve.save(out / "answers.csv")
        save_figure(dose_curve(curve), out / "dose_curve.png")
        print(f"written to {out}: answers.csv, dose_curve.png")


def main() -> None:
    """The console script."""
    run(app)


def run(command: Callable[..., Any]) -> None:
    """Run a typer app or a function as a command: exit code 2 and one sentence for bad input, never a traceback."""
    if not isinstance(command, typer.Typer):
        single = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
        single.command()(command)
        command = single
    try:
        command()
    except (ValueError, TypeError, RuntimeError, ArithmeticError, OSError) as error:
        print(f"rhlens: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == 130:  # Ctrl-C, which typer turns into an exit
            print("rhlens: stopped; with --out, what is finished is kept and the same command goes on", file=sys.stderr)
        raise


def _grid(
    lengths: str,
    depths: str,
    needles: str,
    seed: int,
    haystack: Path | None,
    distractors: int,
    restate: bool,
    chat: bool,
) -> Any:
    from rhlens.tasks.needles import read_needles
    from rhlens.tasks.trials import Grid

    chosen: Any = (
        None if needles == "bundled" else int(needles) if needles.lstrip("-").isdigit() else read_needles(needles)
    )
    positions = int(depths) if depths.lstrip("-").isdigit() else numbers(depths, "depths", float)
    return Grid(numbers(lengths, "lengths", int), positions, chosen, seed, haystack, distractors, restate, chat)


def numbers(text: str, name: str, kind: type) -> list[Any]:
    """The numbers of a list with commas, as options take them.

    Raises:
        ValueError: it is no such list; the sentence names the option.
    """
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--{name} must be numbers with commas between them, not {text!r}") from None


def _load(model: str, grid: Any, device: str, dtype: str, revision: str | None) -> tuple[Any, list[Trial]]:
    from rhlens.model.load import load

    bridge = load(model, device, dtype, revision)
    return bridge, grid.trials(bridge.tokenizer, bridge.cfg.n_ctx)


def _show_scores(scores: HeadScores, top: int) -> None:
    from rhlens.results.stats import mean_ci
    from rhlens.show.tables import score_table

    _print_rich(score_table(scores, top))
    asked = scores.trials
    recall, exact = (mean_ci(asked[c].to_numpy(dtype=float), list(asked["needle"])) for c in ("recall", "exact"))
    print(f"needle recall (ROUGE-1): {recall}\nanswers exactly right:   {exact}")


def _print_rich(table: Any) -> None:
    from rich.console import Console

    Console().print(table)


if __name__ == "__main__":
    main()
