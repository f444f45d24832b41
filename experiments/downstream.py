"""What are retrieval heads needed for? Needles, extractive QA, chains of thought, direct answers, closed-book facts.

    python experiments/downstream.py                                    # the embedded, trained nano-llama
    python experiments/downstream.py --model meta-llama/Llama-3.1-8B --squad dev-v1.1.json --problems gsm8k.jsonl \
        --facts facts.jsonl --shots 4 --k 50

Files of the user's stand in for the generated tasks. Writes a figure and its data to OUT/downstream-MODEL.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

import rhlens as rh
from rhlens.claims.factuality import ordering
from rhlens.cli import PhaseName, numbers, run
from rhlens.measure.ablate import doubling
from rhlens.results.ordering import NEEDLE, drops
from rhlens.show.factuality import drops_figure
from rhlens.show.publish import Drawn, publish
from rhlens.tasks.cot import read_problems
from rhlens.tasks.facts import read_facts
from rhlens.tasks.prompts import CHAIN, CLOSED_BOOK, DIRECT, QA, closed_book_prompts, fact_prompts, problem_prompts
from rhlens.tasks.qa import qa_prompts, read_squad


def main(
    model: Annotated[str, typer.Option(help="An embedded model, a folder, or a hub id.")] = "nano-llama",
    k: Annotated[int | None, typer.Option(help="Heads to ablate; by default all that retrieve.")] = None,
    n: Annotated[int, typer.Option(help="Prompts a task.")] = 42,
    lengths: Annotated[str, typer.Option(help="Lengths of needle prompts in tokens.")] = "256",
    squad: Annotated[Path | None, typer.Option(help="Passages with questions, in SQuAD's JSON.")] = None,
    problems: Annotated[Path | None, typer.Option(help="GSM8K, MMLU or MuSiQue.")] = None,
    shots: Annotated[int, typer.Option(help="Solved problems shown first.")] = 0,
    facts: Annotated[Path | None, typer.Option(help="JSONL with prompt and answer.")] = None,
    phase: Annotated[PhaseName, typer.Option(help="When heads are ablated.")] = "decode",
    draws: Annotated[int, typer.Option(help="Control sets of heads.")] = 20,
    max_new_tokens: Annotated[int | None, typer.Option(help="Of an answer, for chains of no known length.")] = None,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="Folder for figures and data.")] = Path("figures"),
) -> None:
    bridge, long = rh.load(model), numbers(lengths, "lengths", int)
    scores = rh.detect(bridge, rh.niah(bridge, long, 3, needles=28, distractors=1, seed=seed + 1))
    k = k or len(scores.retrieval_heads())
    solved = (read_problems(problems)[: n + shots], None) if problems else (n + shots, long[0])
    asks: dict[str, Any] = {
        NEEDLE: rh.niah(bridge, long, 1, needles=n, distractors=1, seed=seed),
        QA: qa_prompts(bridge, read_squad(squad)[:n] if squad else n, seed=seed),
        CHAIN: problem_prompts(bridge, *solved, True, seed, shots=shots),
        DIRECT: problem_prompts(bridge, *solved, False, seed, shots=shots),
        CLOSED_BOOK: fact_prompts(bridge, read_facts(facts)[:n]) if facts else closed_book_prompts(bridge, n, long[0]),
    }
    curves = {
        task: rh.ablate(bridge, asked, scores, doubling(k) if task == QA else [k], phase=phase, draws=draws, seed=seed,
                        max_new_tokens=max_new_tokens)
        for task, asked in asks.items()
    }  # fmt: skip
    lost, claim, name = drops(curves, k), ordering(curves, k), curves[NEEDLE].model
    drawn = {
        "drops": Drawn(drops_figure(curves, k), lost, f"What each task loses without {k} heads."),
        "qa": Drawn(rh.dose_curve(curves[QA], "f1", f"Extractive QA without heads: {name}"), curves[QA].summary("f1"),
            f"F1 {curves[QA].level('top', 0, 'f1')}; without the top {k} heads {curves[QA].level('top', k, 'f1')}."),
    }  # fmt: skip
    settings = {"model": name, "k": k, "phase": phase, "draws": draws, "seed": seed, "squad": squad, "facts": facts,
                "problems": problems, "shots": shots, "prompts": n, "lengths": lengths} | scores.run  # fmt: skip
    folder = publish(out / f"downstream-{name}", f"What heads are needed for: {name}", drawn, [claim], settings)
    for task, curve in curves.items():
        curve.save(folder / f"{task.replace(' ', '-')}.csv")
    print(lost.round(3).to_string(index=False), claim, f"figures and data: {folder}", sep="\n")


if __name__ == "__main__":
    run(main)
