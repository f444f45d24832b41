"""What the command line says of score files, ours and published ones: no model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rhlens.cli.output import Json, print_json, print_rich
from rhlens.cli.verbs import command


@command()
def compare(
    a: Annotated[
        Path,
        typer.Argument(metavar="A", help="Scores: a run's folder, or a file of ours, Wu 2024, DuoAttention, QRHead."),
    ],
    b: Annotated[Path, typer.Argument(metavar="B", help="Others, of a model of the same shape.")],
    k: Annotated[
        int | None, typer.Option(min=1, help="Heads for the overlap; by default as many as retrieve in A.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare two score files head by head, and say what is odd about each.

    Examples:
      rhlens compare Mistral-7B-v0.2-hf.json Mixtral-8x7B-v0.1.json
      rhlens compare runs/nano qrhead.yaml --k 5 --json
    """
    from rhlens.results.anomalies import anomalies, differences
    from rhlens.results.compare import compare as run_compare
    from rhlens.results.interop import read_scores
    from rhlens.show.tables import anomaly_table, comparison_table

    one, two = read_scores(a), read_scores(b)
    found = run_compare(one, two, k)
    of_a, of_b, of_both = anomalies(one), anomalies(two), differences(one, two)
    if as_json:
        print_json("compare", a=a, b=b, comparison=found, anomalies={"a": of_a, "b": of_b, "both": of_both})
        return
    print(f"A: {a}\nB: {b}")
    print_rich(comparison_table(found))
    print_rich(anomaly_table({"A": of_a, "B": of_b, "A and B": of_both}))
