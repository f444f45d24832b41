"""Chains of thought: which token does each retrieval head copy from where, and what is a chain worth without them?

    python experiments/cot.py                                           # the embedded, trained nano-llama
    python experiments/cot.py --model Qwen/Qwen2.5-0.5B --problems gsm8k.jsonl --shots 4

The same problems are asked with and without a chain, under the same ablations. Writes to OUT/cot-MODEL.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

import rhlens as rh
from rhlens.claims.factuality import ordering
from rhlens.cli import PhaseName, run
from rhlens.measure.support import supports
from rhlens.results.ordering import drops
from rhlens.show.factuality import chain_figure, drops_figure
from rhlens.show.publish import Drawn, publish
from rhlens.tasks.cot import read_problems
from rhlens.tasks.prompts import CHAIN, DIRECT, problem_prompts


def main(
    model: Annotated[str, typer.Option(help="An embedded model, a folder, or a hub id.")] = "nano-llama",
    problems: Annotated[Path | None, typer.Option(help="GSM8K, MMLU or MuSiQue.")] = None,
    n: Annotated[int, typer.Option(help="Problems to ask.")] = 60,
    shots: Annotated[int, typer.Option(help="Solved problems shown first.")] = 0,
    k: Annotated[int | None, typer.Option(help="Heads to ablate; by default all that retrieve.")] = None,
    phase: Annotated[PhaseName, typer.Option(help="When heads are ablated.")] = "decode",
    draws: Annotated[int, typer.Option(help="Control sets of heads.")] = 20,
    max_new_tokens: Annotated[int | None, typer.Option(help="Of an answer, for chains of no known length.")] = None,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="Folder for figures and data.")] = Path("figures"),
) -> None:
    bridge = rh.load(model)
    scores = rh.detect(bridge, rh.niah(bridge, [256], 3, needles=28, distractors=1, seed=seed + 1))
    k = k or len(scores.retrieval_heads())
    solved = (read_problems(problems)[: n + shots], None) if problems else (n + shots, 256)
    asks = {kind: problem_prompts(bridge, *solved, kind == CHAIN, seed, shots=shots) for kind in (CHAIN, DIRECT)}
    options: dict[str, Any] = {"phase": phase, "draws": draws, "seed": seed, "max_new_tokens": max_new_tokens}
    curves = {kind: rh.ablate(bridge, asked, scores, [k], **options) for kind, asked in asks.items()}
    traces = supports(bridge, asks[CHAIN], scores.top(k), max_new_tokens)
    right = curves[CHAIN].matrix("top", 0, "exact")[0] > 0
    shown = traces[int(right.argmax())]
    lost, claim, name = drops(curves, k, "exact"), ordering(curves, k, "exact"), curves[CHAIN].model
    copying = [float(trace.from_prompt().any(axis=1).mean()) for trace in traces]
    drawn = {
        "trace": Drawn(chain_figure(shown), shown.frame(),
            f"One chain, step by step. Over all chains {sum(copying) / len(copying):.0%} of the tokens are copied from "
            "the prompt by a retrieval head."),
        "drops": Drawn(drops_figure(curves, k, "exact"), lost, f"What both forms lose without {k} heads."),
    }  # fmt: skip
    settings = {"model": name, "k": k, "problems": problems, "prompts": n, "shots": shots} | options | scores.run
    folder = publish(out / f"cot-{name}", f"Chain of thought: {name}", drawn, [claim], settings)
    rh.support(shown).save(folder / "chain.html")
    for kind, curve in curves.items():
        curve.save(folder / f"{kind.replace(' ', '-')}.csv")
    print(lost.round(3).to_string(index=False), claim, f"figures and data: {folder}", sep="\n")


if __name__ == "__main__":
    run(main)
