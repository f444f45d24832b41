"""What the command line says of score files, ours and published ones: no model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rhlens.cli.verbs import app, print_rich


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A score file: ours, Wu 2024's, DuoAttention's or QRHead's.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one, of a model of the same shape.")],
    k: Annotated[
        int | None, typer.Option(min=1, help="Heads for the overlap; by default as many as retrieve in A.")
    ] = None,
) -> None:
    """Compare two score files head by head, and say what is odd about each.

    Example: rhlens compare Mistral-7B-v0.2-hf.json Mixtral-8x7B-v0.1.json
    """
    from rhlens.results.anomalies import anomalies, differences
    from rhlens.results.compare import compare as run_compare
    from rhlens.results.interop import read_scores
    from rhlens.show.tables import anomaly_table, comparison_table

    one, two = read_scores(a), read_scores(b)
    found = run_compare(one, two, k)
    print(f"A: {a}\nB: {b}")
    print_rich(comparison_table(found))
    print_rich(anomaly_table({"A": anomalies(one), "B": anomalies(two), "A and B": differences(one, two)}))
