"""Options that several verbs share, written once: which trials to ask of which model."""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from rhlens.cli.completion import complete_models
from rhlens.tasks.forms import DAY
from rhlens.tasks.turns import MAX_REASONING_TOKENS

if TYPE_CHECKING:
    from rhlens.results.share import Out as Folder
    from rhlens.tasks.trials import Grid, Trial

PhaseName = Literal["prefill", "decode", "both"]
MethodName = Literal["zero", "mean", "uniform", "window", "resample"]
Model = Annotated[
    str,
    typer.Argument(help="An embedded model, a Hugging Face folder, or a hub id.", autocompletion=complete_models),
]
Out = Annotated[Path | None, typer.Option(help="Folder for results; the same command goes on where it stopped.")]
Phase = Annotated[PhaseName, typer.Option(help="While answering (decode), reading the prompt, or both.")]
Method = Annotated[
    MethodName, typer.Option(help="Output zero, mean, or another prompt's (resample), or attention uniform.")
]


@dataclass(frozen=True)
class Asked:
    """The trials that a verb asks, and how the model is loaded that they are asked of."""

    lengths: Annotated[str, typer.Option(help="Prompt lengths in tokens, like 256,512.")] = "256"
    depths: Annotated[str, typer.Option(help="How many depths, spaced evenly, or the depths: 0,0.5,1.")] = "5"
    needles: Annotated[str, typer.Option(help="How many needles to draw, 'bundled', or a JSON file.")] = "14"
    seed: Annotated[int, typer.Option(help="Seed of haystack, needles, distractors and controls.")] = 0
    haystack: Annotated[
        str | None, typer.Option(help="Text file, folder, or python-docs; generated English by default.")
    ] = None
    distractors: Annotated[int, typer.Option(help="Other needles of the same kind in every haystack.")] = 0
    restate: Annotated[bool, typer.Option(help="End prompts with the needle's words before the answer.")] = True
    chat: Annotated[bool, typer.Option("--chat", help="Wrap the prompt in the tokenizer's chat template.")] = False
    system: Annotated[str | None, typer.Option(help="With --chat: a system message.")] = None
    chat_template_args: Annotated[
        str | None, typer.Option(help="""With --chat: JSON for the template, like '{"enable_thinking": false}'.""")
    ] = None
    date: Annotated[str, typer.Option(help="What a chat template prints for today.")] = DAY
    template: Annotated[
        str | None, typer.Option(help="Prompt text, or a file of it, with {haystack}, {question} and {cue}.")
    ] = None
    reasoning: Annotated[str | None, typer.Option(help="Pattern of what comes before an answer; known by default.")] = (
        None
    )
    max_reasoning_tokens: Annotated[int, typer.Option(help="Tokens to reason for, before the answer.")] = (
        MAX_REASONING_TOKENS
    )
    stop: Annotated[
        list[str] | None, typer.Option(help="Text that ends an answer, instead of its line's end; may be repeated.")
    ] = None
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto"
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto"
    revision: Annotated[str | None, typer.Option(help="Revision of a hub id.")] = None
    device_map: Annotated[str | None, typer.Option(help="Spread a model over several GPUs: auto or balanced.")] = None
    shard: Annotated[str | None, typer.Option(help="Measure one part of all only, like 2/8; needs --out.")] = None
    engine: Annotated[Literal["local", "ray"], typer.Option(help="This process, or workers on Ray.")] = "local"
    workers: Annotated[int | None, typer.Option(help="On Ray; by default one a GPU, or one a machine.")] = None
    gpus: Annotated[float | None, typer.Option(help="Of each worker on Ray; by default 1 if there are any.")] = None
    address: Annotated[str | None, typer.Option(help="Of a running Ray cluster, or auto; else one is started.")] = None
    _open: ExitStack = field(init=False, default_factory=ExitStack)

    def of(self, model: str, out: Path | None) -> tuple[Any, list[Trial], Folder | None]:
        """The loaded model or its workers, its trials, and where finished units are kept: `out` or a share of it.

        The options are checked before anything is loaded.
        """
        grid, folder = self._grid(), self._folder(out)
        options: dict[str, Any] = {name: getattr(self, name) for name in ("device", "dtype", "revision", "device_map")}
        if self.engine == "ray":
            from rhlens.scale.workers import ray_workers

            bridge = self._open.enter_context(ray_workers(model, self.workers, self.address, self.gpus, **options))
        else:
            from rhlens.model.load import load

            bridge = load(model, **options)
        return bridge, grid.trials(bridge.tokenizer, bridge.cfg.n_ctx), folder

    def close(self) -> None:
        """Send workers home, if there are any."""
        self._open.close()

    def _folder(self, out: Path | None) -> Folder | None:
        from rhlens.results.share import Share

        if self.engine == "ray" and self.shard:
            raise ValueError("--engine ray divides a run itself: leave out --shard")
        if self.engine == "local" and (self.workers, self.gpus, self.address) != (None, None, None):
            raise ValueError("--workers, --gpus and --address are of Ray: add --engine ray")
        if out is None and (self.shard or self.engine == "ray"):
            option = "--shard" if self.shard else "--engine ray"
            raise ValueError(f"{option} needs --out, a folder that all processes see: they meet there")
        return Share.parse(out, self.shard) if out is not None and self.shard else out

    def _grid(self) -> Grid:
        from rhlens.tasks.needles import read_needles
        from rhlens.tasks.trials import Grid

        chosen: Any = None
        if self.needles != "bundled":
            count = _whole(self.needles)
            chosen = read_needles(_needle_file(self.needles)) if count is None else count
        count = _whole(self.depths)
        positions = numbers(self.depths, "depths", float) if count is None else count
        return Grid(
            numbers(self.lengths, "lengths", int), positions, chosen, self.seed, self.haystack, self.distractors,
            self.restate, self.chat, _text(self.template), self.system, _arguments(self.chat_template_args), self.date,
            self.reasoning, tuple(map(_unescaped, self.stop or ())), self.max_reasoning_tokens,
        )  # fmt: skip


def asking(**defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb every option of `Asked`, with these defaults; the verb gets them as one argument `asked`.

    Typer reads options from a function's signature, so that is what is composed here.
    """

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        own, shared = (inspect.signature(f).parameters for f in (verb, Asked))
        hints = get_type_hints(verb, include_extras=True) | get_type_hints(Asked, include_extras=True)
        parameters = [p.replace(annotation=hints[name]) for name, p in own.items() if name != "asked"]
        for name, p in shared.items():
            default = defaults.get(name, p.default)
            parameters.append(p.replace(annotation=hints[name], default=default, kind=inspect.Parameter.KEYWORD_ONLY))

        @functools.wraps(verb)
        def command(**options: Any) -> None:
            own_options = {name: options.pop(name) for name in own if name != "asked"}
            with closing(Asked(**options)) as asked:
                verb(**own_options, asked=asked)

        command.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue] (a function may have one)
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate


def _needle_file(name: str) -> str:
    """`name`, unless it looks like the bundled set misspelt."""
    from rhlens.zoo.registry import closest

    if closest(name, ["bundled"]) and not Path(name).exists():
        raise ValueError(f"no needles {name!r}: did you mean bundled? Give that, a number, or a JSON file")
    return name


def _text(template: str | None) -> str | None:
    """A template as it was typed, or what stands in the file that it names."""
    if template is None or "{" in template:
        return template and _unescaped(template)
    from rhlens.results.files import MIB, read_text

    return read_text(template, MIB, "a template with {haystack} and {question}, or a file of one").removesuffix("\n")


def _unescaped(text: str) -> str:
    """Line ends and tabs as shells pass them on."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def _arguments(text: str | None) -> dict[str, Any]:
    """The arguments of a chat template, from JSON."""
    from rhlens.results.files import brief

    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        wanted = """a JSON object like '{"enable_thinking": false}'"""
        raise ValueError(f"--chat-template-args must be {wanted}, not {brief(repr(text))}")
    return found


def numbers(text: str, name: str, kind: type) -> list[Any]:
    """The numbers of a list with commas, as options take them.

    Raises:
        ValueError: it is no such list; the sentence names the option.
    """
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        from rhlens.results.files import brief

        raise ValueError(f"--{name} must be numbers with commas between them, not {brief(repr(text))}") from None


def _whole(text: str) -> int | None:
    """The number that an option gives; None if it gives something else."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else None
