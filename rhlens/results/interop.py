"""Score files of other projects: published ones read into `HeadScores`, and ours written as they read them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from rhlens.results.cache import Window
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


def write_scores(scores: HeadScores, path: str | Path) -> Path:
    """Write the published JSON form, which HeadKV and DeCoRe read: sum scores of the answered trials of every head.

    Raises:
        ValueError: no trial was answered.
    """
    answered = scores.under("wu2024")
    answered.mean()
    lists = {f"{layer}-{head}": answered.values[:, layer, head].tolist() for layer, head in sorted(scores.ranked())}
    return _written(path, json.dumps(lists))


def write_duo_attention(scores: HeadScores, folder: str | Path, kv_heads: int, window: Window) -> Path:
    """Write `full_attention_heads.tsv` and `config.json` as DuoAttention loads them; returns the folder.

    The table has one row a layer and one column a key-value head, whose value is the mean score (at most 1) of its best
    query head. DuoAttention keeps the highest in full, as many as the sparsity it is given leaves.

    Raises:
        ValueError: the query heads are not a multiple of `kv_heads`.
    """
    if kv_heads < 1 or scores.n_heads % kv_heads:
        raise ValueError(
            f"{scores.n_heads} query heads cannot share {kv_heads} key-value heads: give the model's number"
        )
    best = np.minimum(1.0, scores.mean()).reshape(scores.n_layers, kv_heads, -1).max(-1)
    _written(Path(folder) / "full_attention_heads.tsv", "\n".join("\t".join(f"{x:.18e}" for x in row) for row in best))
    return _written(
        Path(folder) / "config.json", json.dumps({"sink_size": window.sink, "recent_size": window.recent})
    ).parent


def _written(path: str | Path, text: str) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    return path


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
