"""Property 5, causal: find the retrieval heads of a model, show them, and take them away.

    python experiments/causal.py                          # the embedded, trained nano-llama
    python experiments/causal.py --model planted-llama    # heads set by construction: the answer is known
    python experiments/causal.py --model Qwen/Qwen2.5-0.5B --lengths 1024,4096 --haystack my_texts/

Writes figures and the data behind them to OUT/causal-MODEL, and prints the verdict with its control.
"""

from pathlib import Path
from typing import Annotated

import typer

import rhlens as rh
from rhlens.cli import MethodName, PhaseName, numbers, run
from rhlens.cli.output import print_rich
from rhlens.measure.ablate import possible_controls
from rhlens.results.errors import errors_by_k
from rhlens.show.figures import error_shares, needle_heatmaps
from rhlens.show.publish import Drawn, publish
from rhlens.show.tables import curve_table, map_table, patch_table, score_table


def main(
    model: Annotated[str, typer.Option(help="An embedded model, a folder, or a hub id.")] = "nano-llama",
    lengths: Annotated[str, typer.Option(help="Prompt lengths in tokens.")] = "256,512",
    depths: Annotated[int, typer.Option(help="Needle depths, evenly spaced.")] = 5,
    needles: Annotated[int, typer.Option(help="Needles to draw, evenly over the kinds.")] = 21,
    distractors: Annotated[int, typer.Option(help="Other needles of the same kind in each haystack.")] = 1,
    k: Annotated[str | None, typer.Option(help="Numbers of heads to ablate; up to all that retrieve.")] = None,
    phase: Annotated[PhaseName, typer.Option(help="When heads are ablated.")] = "both",
    method: Annotated[MethodName, typer.Option(help="How heads are ablated.")] = "zero",
    draws: Annotated[int, typer.Option(help="Control sets of each kind.")] = 20,
    haystack: Annotated[Path | None, typer.Option(help="Text file or folder.")] = None,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="Folder for figures and data.")] = Path("figures"),
) -> None:
    bridge = rh.load(model)
    trials = rh.niah(bridge, numbers(lengths, "lengths", int), depths, needles=needles, distractors=distractors,
                     haystack=haystack, seed=seed)  # fmt: skip
    scores = rh.detect(bridge, trials)
    # Single heads and small doses are judged in one place: conditions, not trials, are what they need many of.
    one = [
        t for t in trials if (t.length, t.depth) == (trials[0].length, sorted({t.depth for t in trials})[depths // 2])
    ]
    ks = numbers(k, "k", int) if k else None
    controls, why = possible_controls(bridge, scores, ks)
    curve = rh.ablate(bridge, one, scores, ks, method, phase, controls, draws, seed)
    most, claim = max(curve.ks), rh.causal(curve)
    everywhere = rh.ablate(bridge, trials, scores, most, method, phase, draws=1, seed=seed)
    effects = rh.causal_map(bridge, one, method, phase)
    patches, fast = (rh.patch(bridge, one, attribution=fast, seed=seed) for fast in (False, True))
    together = rh.patch_top(bridge, one, scores, curve.ks, draws=draws, seed=seed)
    name, rest = bridge.cfg.model_name, f"{curve.level('random', most)} without as many random others"
    drawn = {
        "score_map": Drawn(rh.score_map(scores), scores.frame(),
            f"{len(scores.retrieval_heads())} of {scores.n_layers * scores.n_heads} heads score 0.1 or more."),
        "dose_curve": Drawn(rh.dose_curve(curve), curve.frame(),
            f"Recall {curve.level('top', most)} without the top {most} heads, {rest}."),
        "needle_heatmaps": Drawn(needle_heatmaps(everywhere, most), everywhere.frame(),
            f"Recall by length and depth: of the whole model, without the top {most} heads, without {most} others."),
        "errors": Drawn(error_shares(curve), errors_by_k(curve), "What kind of answers are given without heads."),
        "causal_map": Drawn(rh.plot(effects, scores=scores), effects.frame(scores),
            f"What each head alone is worth; rank correlation with its score {effects.spearman(scores)}."),
        "patching": Drawn(rh.plot(patches), patches.frame(),
            f"Each head's output from another prompt; attribution correlates with it at {patches.pearson(fast):.3f}."),
        "patching_together": Drawn(rh.plot(together), together.summary(),
            f"The top {most} heads bring back {together.level('top', most)} of the answer."),
    }  # fmt: skip
    settings = {"model": name, "seed": seed, "phase": phase, "method": method, "draws": draws} | scores.run
    folder = publish(out / f"causal-{name}", f"Causal: {name}", drawn, [claim], settings)
    rh.attention(bridge, one[0], scores.top(4)).save(folder / "attention.html")
    print_rich(score_table(scores), curve_table(curve), map_table(effects, scores, 5), patch_table(patches, 5))
    print(*filter(None, [why and f"no layer-matched control: {why}", claim, f"figures and data: {folder}"]), sep="\n")


if __name__ == "__main__":
    run(main)
