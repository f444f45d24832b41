"""Is a KV cache enough that keeps everything for the retrieval heads only, and a window for all others?

    python experiments/kv_cache.py                                      # the embedded, trained nano-llama
    python experiments/kv_cache.py --model Qwen/Qwen2.5-0.5B --lengths 4096 --sink 16 --recent 256

Writes a figure, its data, and the heads in the forms that cache compression reads, to OUT/kv-cache-MODEL:
`full_attention_heads.tsv` with `config.json` (DuoAttention) and `head_score.json` (HeadKV).
"""

from pathlib import Path
from typing import Annotated

import typer

import rhlens as rh
from rhlens.claims.factuality import suffices
from rhlens.cli import PhaseName, numbers, run
from rhlens.measure.cache import cut_cache
from rhlens.results.cache import Window
from rhlens.results.interop import write_duo_attention, write_scores
from rhlens.show.factuality import cache_figure
from rhlens.show.publish import Drawn, publish


def main(
    model: Annotated[str, typer.Option(help="An embedded model, a folder, or a hub id.")] = "nano-llama",
    lengths: Annotated[str, typer.Option(help="Prompt lengths in tokens.")] = "512",
    depths: Annotated[int, typer.Option(help="Needle depths, evenly spaced.")] = 3,
    needles: Annotated[int, typer.Option(help="Needles to draw, evenly over the kinds.")] = 14,
    full: Annotated[str | None, typer.Option(help="Key-value heads kept in full; 0, 1, 2, 4, ... by default.")] = None,
    sink: Annotated[int, typer.Option(help="First positions that every head keeps.")] = 4,
    recent: Annotated[int, typer.Option(help="Latest positions that every head keeps.")] = 64,
    phase: Annotated[
        PhaseName, typer.Option(help="Cut after the prompt (decode), or while it is read too.")
    ] = "decode",
    draws: Annotated[int, typer.Option(help="Sets of random heads.")] = 10,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="Folder for figures and data.")] = Path("figures"),
) -> None:
    bridge, long = rh.load(model), numbers(lengths, "lengths", int)
    scores = rh.detect(bridge, rh.niah(bridge, long, 3, needles=28, distractors=1, seed=seed + 1))
    trials = rh.niah(bridge, long, depths, needles=needles, distractors=1, seed=seed)
    window = Window(sink, recent)
    curve = cut_cache(bridge, trials, scores, numbers(full, "full", int) if full else None, window, phase, draws, seed)
    name, every = curve.model, curve.size.groups
    enough = curve.retrieving if curve.retrieving in curve.fulls else min(curve.fulls)
    claim, share = suffices(curve, enough), curve.share(enough)
    longest = max(long)
    saved = curve.size.bytes(longest, every, window) - curve.size.bytes(longest, enough, window)
    drawn = {"cache": Drawn(cache_figure(curve), curve.summary(),
        f"With {enough} of {every} key-value heads kept in full, {share:.0%} of the cache, recall is "
        f"{curve.level('retrieval', enough)}; with as many random ones {curve.level('random', enough)}.")}  # fmt: skip
    settings = {"model": name, "lengths": lengths, "depths": depths, "needles": needles, "window": window,
                "phase": phase, "draws": draws, "seed": seed} | curve.run  # fmt: skip
    folder = publish(out / f"kv-cache-{name}", f"KV cache: {name}", drawn, [claim], settings)
    write_scores(scores, folder / "head_score.json")
    write_duo_attention(scores, folder, curve.size.kv_heads, window)
    print(curve.summary().round(3).to_string(index=False), claim, sep="\n")
    print(f"  saved:     {saved:,} bytes a prompt of {longest:,} tokens\nfigures and data: {folder}")


if __name__ == "__main__":
    run(main)
