"""rhlens's own file of scores: one safetensors file a run, versioned, and checked through when it is read.

Tensors (heads are query heads):

- `sum_scores`: float [trial, layer, head]. Copy steps per answer token, repeats counted (the reference code's score).
- `set_scores`: float [trial, layer, head], in 0..1. Share of the answer's set of tokens (Eq. 1); absent where unknown.
- `copies`: int32 [event, 5]. Every copy event: trial, step of the answer, layer, head, token of the needle's answer;
  absent where unknown.

Metadata, as JSON under the key `rhlens`:

- `version`: of this form, an integer. Readers refuse newer ones, and read all older ones.
- `model`: its name. `protocol`: "paper" or "wu2024", which of the two scores is meant.
- `gated`: whether only trials that passed the recall gate are there (published files).
- `run`: device, dtype and versions it was measured with, texts by name.
- `trials`: the labels, one list by column name, one entry a trial: `recall`, `exact`, `output`, and what the trial was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rhlens.results.files import MIB, brief, check_file, parse_json

FORMAT_VERSION = 1
MAX_BYTES = 2048 * MIB
MAX_SCORE = 1e6
"""Beyond it nothing is a score: an answer of a million tokens would have to be copied from one."""
_FIELDS = {"model": str, "protocol": str, "gated": bool, "run": dict, "trials": dict}
_LABEL = (str, int, float, bool, type(None))


def write_score_file(path: str | Path, arrays: Mapping[str, np.ndarray | None], meta: dict[str, Any]) -> Path:
    """Write the arrays that are there, and the metadata with the version of the form.

    Raises:
        ValueError: they are not what can be read back, or larger.
    """
    known = {
        name: np.ascontiguousarray(values, np.int32 if name == "copies" else np.float64)
        for name, values in arrays.items()
        if values is not None
    }
    _check(known, meta)
    if (size := sum(values.nbytes for values in known.values())) > MAX_BYTES - 64 * MIB:  # the rest is for labels
        raise ValueError(f"{size / MIB:,.0f} MiB of scores are too many for one file: save them in parts of the trials")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(known, path, {"rhlens": json.dumps({"version": FORMAT_VERSION, **meta})})
    return path


def read_score_file(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the metadata of a file, once both are known to be sound.

    Raises:
        ValueError: the file is missing, too large, damaged, of a newer form, or says what no run can have found.
    """
    path = check_file(path, MAX_BYTES)
    try:
        with safe_open(path, framework="np") as file:
            meta = parse_json((file.metadata() or {})["rhlens"])
            if (version := _version(meta)) <= FORMAT_VERSION:
                arrays = {name: file.get_tensor(name) for name in ("sum_scores", *_optional(file.keys()))}
                _check(arrays, meta)
                return arrays, meta
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a file of rhlens scores ({brief(error)})") from None
    raise ValueError(
        f"{path} was written by a newer rhlens (format {version}, and this one reads up to {FORMAT_VERSION}): "
        "upgrade rhlens"
    )


def _version(meta: Any) -> int:
    version = meta.get("version") if isinstance(meta, dict) else None
    if type(version) is not int or version < 1:
        raise ValueError("its metadata has no version")
    return version


def _optional(names: Iterable[str]) -> list[str]:
    return [name for name in ("set_scores", "copies") if name in names]


def _check(arrays: Mapping[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Raise ValueError unless these are scores of trials, with a label of every trial in every column."""
    for name, kind in _FIELDS.items():
        if not isinstance(meta.get(name), kind):
            raise ValueError(f"its metadata has no {name}, or one of another type")
    shape = arrays["sum_scores"].shape
    if len(shape) != 3 or 0 in shape:
        raise ValueError(f"its scores are of shape {shape}, not [trial, layer, head]")
    for name, most in (("sum_scores", MAX_SCORE), ("set_scores", 1.0)):
        if name in arrays:
            _check_scores(name, arrays[name], shape, most)
    _check_labels(meta["trials"], shape[0])
    _check_copies(arrays.get("copies", np.empty((0, 5), np.int32)), shape)


def _check_scores(name: str, values: np.ndarray, shape: tuple[int, ...], most: float) -> None:
    if values.dtype.kind != "f" or values.shape != shape:
        raise ValueError(f"its {name} are {values.dtype} of shape {values.shape}, not numbers of shape {shape}")
    if not ((values >= 0) & (values <= most)).all():  # nan is neither
        raise ValueError(f"its {name} are not all from 0 to {most:g}")


def _check_labels(trials: dict[str, Any], n: int) -> None:
    for name, column in trials.items():
        if not isinstance(column, list) or len(column) != n or not all(isinstance(x, _LABEL) for x in column):
            raise ValueError(f"the column {name!r} of its trials is no list of {n} texts or numbers")
    if not trials:
        raise ValueError("its trials have no labels")
    if any(isinstance(x, bool) or not isinstance(x, int | float) for x in trials.get("recall", [])):
        raise ValueError("the column 'recall' of its trials holds what is no number")


def _check_copies(copies: np.ndarray, shape: tuple[int, ...]) -> None:
    if copies.dtype != np.int32 or copies.ndim != 2 or copies.shape[1] != 5:
        raise ValueError(f"its copies are {copies.dtype} of shape {copies.shape}, not int32 of [event, 5]")
    trial, _, layer, head, _ = copies.T
    inside = all((index < size).all() for index, size in zip((trial, layer, head), shape, strict=True))
    if not inside or (copies < 0).any():
        raise ValueError("its copies name trials, steps, heads or tokens that are not there")
