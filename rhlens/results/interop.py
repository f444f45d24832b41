"""Score files of other projects: published ones read, and ours written as they read them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np

from rhlens.results.cache import Window
from rhlens.results.files import MIB, brief, read_text
from rhlens.results.head_tables import HeadList, KVHeadScores, Ranking
from rhlens.results.published import HEADS_KEY, head_list, kv_head_scores, trial_scores
from rhlens.results.scores import HeadScores

Found = TypeVar("Found", bound=Ranking)
MAX_TEXT = 128 * MIB
"""Bytes of a published file that are read; 600 trials of the 5120 heads of a 70B model have half of that."""
SCORES, DUO_ATTENTION = "scores.safetensors", "full_attention_heads.tsv"
"""What a score file is called in a folder of its own: ours, and DuoAttention's."""
_HOLDS = {
    HeadScores: "scores of query heads on trials",
    KVHeadScores: "values of key-value heads without trials",
    HeadList: "a list of heads without scores",
}


@overload
def read_scores(path: str | Path) -> Ranking: ...
@overload
def read_scores(path: str | Path, *forms: type[Found]) -> Found: ...
def read_scores(path: str | Path, *forms: Any) -> Ranking:
    """What a file says of heads: rhlens's own, or one that another project published.

    ==============================  ===========================================  ==============
    file                            form                                         read as
    ==============================  ===========================================  ==============
    rhlens                          safetensors (`HeadScores.save`)              `HeadScores`
    Wu 2024, HeadKV, DeCoRe         JSON `{"layer-head": [score per trial]}`     `HeadScores`
    DuoAttention                    TSV, a row a layer, a column a KV head       `KVHeadScores`
    QRHead                          YAML, `attn_head_set: "13-18,8-11"`          `HeadList`
    ==============================  ===========================================  ==============

    The suffix tells them apart, or where it is another one, what is in the file. A folder stands for the file that
    we, or DuoAttention, keep in it: a run's `--out` folder is read as its scores. Wu's are sum scores of the trials
    that passed the recall gate, without labels (`protocol="wu2024"`). `rhlens.results.anomalies` says what else to
    know.

    Args:
        forms: the types that the caller can use; without any, all.

    Raises:
        ValueError: the file is none of these, or of another form than `forms`; the sentence says what is wrong with it.
    """
    path = _file_in(Path(path))
    found = HeadScores.load(path) if path.suffix.lower() == ".safetensors" else _published(path)
    if forms and not isinstance(found, forms):
        wanted = " or ".join(_HOLDS[form] for form in forms)
        raise ValueError(f"{path} holds {_HOLDS[type(found)]}: give a file of {wanted}")
    return found


def _file_in(path: Path) -> Path:
    """The score file in a folder; `path` itself if it is no folder, or one without."""
    try:
        return next((file for name in (SCORES, DUO_ATTENTION) if (file := path / name).is_file()), path)
    except OSError:  # a name that no file can have: reading it says so
        return path


def _published(path: Path) -> Ranking:
    text = read_text(path, MAX_TEXT)
    # DuoAttention calls every table by one name, in a folder that is named after the model.
    model = path.absolute().parent.name if path.stem == Path(DUO_ATTENTION).stem else path.stem
    try:
        return _reader(path.suffix.lower(), text)(text, model)
    except ValueError as error:
        raise ValueError(f"{path} is no score file of a known form ({brief(error)})") from None


def _reader(suffix: str, text: str) -> Callable[[str, str], Ranking]:
    known = {".json": trial_scores, ".tsv": kv_head_scores, ".yaml": head_list, ".yml": head_list}
    if suffix in known:
        return known[suffix]
    if text.lstrip().startswith("{"):
        return trial_scores
    return head_list if HEADS_KEY in text else kv_head_scores


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
    _written(Path(folder) / DUO_ATTENTION, "\n".join("\t".join(f"{x:.18e}" for x in row) for row in best))
    return _written(
        Path(folder) / "config.json", json.dumps({"sink_size": window.sink, "recent_size": window.recent})
    ).parent


def _written(path: str | Path, text: str) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    return path
