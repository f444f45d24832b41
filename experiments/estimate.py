"""What a run on a large model will cost on your machine, before you fetch its weights.

    python experiments/estimate.py                                # the three models of the README
    python experiments/estimate.py Qwen/Qwen2.5-7B my_model/ --lengths 4096,32768 --dtype bfloat16

Two random layers of the model's width are timed, in the given type: operations a second while a prompt is read, and
bytes of weights and cache a second while it is answered. The rest is counted: layers, tokens, and what the prompts of
the grid begin with alike. Answers are taken to be 16 tokens long, and not guessed: right ones cost less.
"""

import copy
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pandas as pd
import torch
import typer
from benchmark_parts import DEVICE, machine, random_engine, seconds_of
from model_sizes import KNOWN, Size, config_of
from peak_memory import peak_memory

import rhlens as rh
from rhlens.cli import numbers, run
from rhlens.measure.detect import batches
from rhlens.model.engine import Engine
from rhlens.model.reading import PromptReader

ANSWER, GIB = 16, 2**30


def main(
    models: Annotated[list[str] | None, typer.Argument(help="Hub ids or folders, of which the config is read.")] = None,
    lengths: Annotated[str, typer.Option(help="Prompt lengths in tokens.")] = "1024,4096",
    depths: Annotated[int, typer.Option(help="Needle depths.")] = 10,
    needles: Annotated[int, typer.Option(help="Needles.")] = 6,
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], typer.Option(help="Of weights and cache.")] = "float32",
    timed: Annotated[int, typer.Option(help="Length of the prompt that is timed.")] = 1024,
    out: Annotated[Path | None, typer.Option(help="Folder for estimates.csv.")] = None,
) -> None:
    number, share, rows = getattr(torch, dtype).itemsize, share_read(depths, needles), []
    for name in models or KNOWN:
        config = config_of(name)
        size, speed = Size(config), rates(config, getattr(torch, dtype), timed)
        for n in (n for n in numbers(lengths, "lengths", int) if n <= config.max_position_embeddings):
            read, answer = size.operations_to_read(n) / speed.operations, size.moved(n) * ANSWER / speed.moved
            gib = {"weights": size.weights * number / GIB, "cache": size.cache(n) * number / GIB, "other": speed.spare}
            rows.append({"model": name, "tokens": n, "s a prompt": read, "s an answer": answer,
                         "minutes": depths * needles * (share * read + answer) / 60, **gib,
                         "GiB in all": sum(gib.values())})  # fmt: skip
    table = pd.DataFrame(rows)
    if out:
        table.assign(dtype=dtype, machine=machine()).to_csv(out / "estimates.csv", index=False, float_format="%.3g")
    print(table.to_string(index=False, float_format="{:.2f}".format))
    print(f"Estimates; {depths} depths x {needles} needles, {share:.0%} of their tokens are read; {dtype}, {machine()}")


class Rates(NamedTuple):
    """What this machine does in a second, in operations and in numbers moved, and GiB beside weights and cache."""

    operations: float
    moved: float
    spare: float


def rates(config: Any, dtype: torch.dtype, n_tokens: int) -> Rates:
    """Measured on two random layers; the best of three."""
    (two := copy.deepcopy(config)).num_hidden_layers = 2
    size, tokens = Size(two), torch.randint(2, 2000, (1, n_tokens))
    engine = random_engine(two, DEVICE, dtype)
    with peak_memory() as peak:
        prefix = engine.prefill(tokens)
    read = min(seconds_of(lambda: engine.prefill(tokens)) for _ in range(3))
    answer = min(seconds_of(lambda: engine.decode(prefix, ANSWER)) for _ in range(3))
    spare = peak.mb / 1024 - size.cache(n_tokens) * dtype.itemsize / GIB
    return Rates(size.operations_to_read(n_tokens) / read, size.moved(n_tokens) * ANSWER / answer, max(0.0, spare))


def share_read(depths: int, needles: int) -> float:
    """Share of the tokens of a grid's prompts that are read, since many begin alike: counted on an embedded model."""
    model = rh.load("random-llama", quiet=True)
    trials, reader = rh.niah(model, [512], depths, needles=needles), PromptReader(Engine(model))
    for group in batches(trials):
        reader.read([trial.tokens for trial in group])
    return reader.n_read / sum(trial.length for trial in trials)


if __name__ == "__main__":
    run(main)
