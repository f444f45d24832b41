"""Published score files, read into `HeadScores`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from rhlens.results.heads import Head
from rhlens.results.scores import HeadScores


def read_scores(path: str | Path) -> HeadScores:
    """Scores from rhlens's own file, or from the published JSON form `{"layer-head": [score per trial]}`.

    Published files (Wu 2024, HeadKV, DeCoRe) hold sum scores of the trials that passed the recall gate, without
    labels: they are read as `protocol="wu2024"`.

    Raises:
        ValueError: the file is neither; the sentence says what is wrong with it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give a score file")
    if path.suffix == ".safetensors":
        return HeadScores.load(path)
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        by_head = {Head.parse(name): np.asarray(scores, dtype=np.float64) for name, scores in entries.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f'{path} is not of the form {{"layer-head": [score per trial]}} ({error})') from None
    shape = _shape(by_head, path)
    sums = np.stack([by_head[h] for h in sorted(by_head)]).T.reshape(-1, *shape)
    if not np.isfinite(sums).all() or (sums < 0).any():
        raise ValueError(f"{path} holds scores that are negative or not finite")
    trials = pd.DataFrame({"trial": np.arange(len(sums))})
    return HeadScores(None, sums, trials, model=path.stem, protocol="wu2024", gated=True)


def _shape(by_head: dict[Head, np.ndarray], path: Path) -> tuple[int, int]:
    """Layers and heads of a complete rectangular file."""
    if not by_head:
        raise ValueError(f"{path} holds no head")
    n_layers, n_heads = max(h.layer for h in by_head) + 1, max(h.head for h in by_head) + 1
    lengths = {scores.shape for scores in by_head.values()}
    if lengths == {(0,)}:
        raise ValueError(f"{path} holds no trial: no answer passed its recall gate when it was written")
    if len(by_head) != n_layers * n_heads or len(lengths) != 1 or len(next(iter(lengths))) != 1:
        raise ValueError(f"{path} does not list every head of {n_layers} x {n_heads} with equally many trials")
    return n_layers, n_heads
