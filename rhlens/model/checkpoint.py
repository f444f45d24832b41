"""What a checkpoint's files claim, checked before and after transformers opens them: names, counts, shapes, holes.

transformers opens a pickle where an index or a configuration names one, reads any path that they name, and draws at
random what the weights lack. None of that may pass for the model that was meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from rhlens.results.files import MIB, brief, check_file, parse_json, read_text
from rhlens.zoo.registry import WEIGHTS as WEIGHTS
from rhlens.zoo.registry import tensor_shapes

CONFIG, INDEX = "config.json", "model.safetensors.index.json"
LARGEST = 256 * MIB
"""Bytes of a file beside the weights; the largest tokenizers have a sixth of it."""
MOST = {"layer": 10_000, "expert": 100_000}
"""Layers and experts that a configuration may claim before its weights are seen: ten times those of any model."""
_BESIDE = re.compile(r"[^/\\]+\.safetensors")


class LoadError(ValueError):
    """A model that cannot be loaded; the message is one sentence that names the fix."""


def check_folder(folder: Path) -> None:
    """Raise LoadError unless a local folder holds a model's configuration and weights, of sizes that can be read."""
    if not (folder / CONFIG).is_file():
        raise LoadError(f"{folder} holds no {CONFIG}: give a Hugging Face model folder")
    if (folder / "adapter_config.json").exists():
        raise LoadError(f"{folder} holds an adapter: merge it into its model with merge_and_unload() and save that")
    if not (folder / WEIGHTS).is_file() and not (folder / INDEX).is_file():
        pickled = [*folder.glob("*.bin"), *folder.glob("*.pt*"), *folder.glob("*.ckpt")]
        fix = "only pickled weights, which rhlens never opens: convert them" if pickled else "no weights: save them"
        raise LoadError(f"{folder} holds {fix} with model.save_pretrained(folder, safe_serialization=True)")
    for path in (*folder.glob("*.json"), *folder.glob("*.jinja")):
        try:
            check_file(path, LARGEST, "a Hugging Face model folder")
        except ValueError as error:
            raise LoadError(str(error)) from None


def checked_config(source: str, revision: str | None) -> dict[str, Any]:
    """The configuration as it is written; empty if there is none to be had.

    Raises:
        LoadError: it is damaged, has code or weights of another place loaded, or claims impossible numbers.
    """
    path = file_of(source, CONFIG, revision)
    config = _object(path, source) if path else {}
    if "transformers_weights" in config:
        raise LoadError(f"{source}: its {CONFIG} names a file of weights: take 'transformers_weights' out of it")
    for key, value in _entries(config):
        if key.endswith("attn_implementation") and "/" in str(value):
            raise LoadError(f"{source}: its {CONFIG} asks for code from elsewhere ({brief(value)}): take {key!r} out")
        if (kind := _counted(key)) and _is_count(value) and value > MOST[kind]:
            raise LoadError(f"{source}: {value:.3g} {kind}s ({key}) are more than any model has: mend its {CONFIG}")
    return config


def check_weights(source: str, revision: str | None, config: dict[str, Any]) -> None:
    """Raise LoadError unless the weights are safetensors beside the configuration, and enough for what it claims."""
    shapes = [shape for path in _weight_files(source, revision) for shape in _shapes(path, source)]
    least = {"layer": len(shapes), "expert": max([len(shapes), *(size for shape in shapes for size in shape)])}
    for key, value in _entries(config):
        if (kind := _counted(key)) and _is_count(value) and value > least[kind]:
            raise LoadError(
                f"{source}: its {CONFIG} claims {value} {kind}s ({key}), too many for the {len(shapes)} tensors "
                "of its weights: give the files of one checkpoint"
            )


def check_whole(source: str, model: nn.Module, found: dict[str, Any]) -> None:
    """Raise LoadError unless every parameter was read from the weights, and no layer of theirs was left out.

    Args:
        found: what `from_pretrained` tells with `output_loading_info=True`.
    """
    if missing := sorted(found["missing_keys"]):
        why = f"its weights have no {missing[0]}" + (f", nor {len(missing) - 1} more tensors" if missing[1:] else "")
    else:
        known = {_numberless(name) for name in model.state_dict()}
        if not (extra := [name for name in sorted(found["unexpected_keys"]) if _numberless(name) in known]):
            return
        why = f"its weights have {extra[0]}, for which its {CONFIG} leaves no place"
    raise LoadError(f"{source} is not whole ({brief(why)}): give the files of one checkpoint")


def check_tokenizer(source: str, tokenizer: Any, n_rows: int) -> None:
    """Raise LoadError unless a tokenizer reads text, in tokens that a model of `n_rows` embeddings knows.

    Added tokens may be beyond: many tokenizers have some that their model was never given, and no text holds them.
    """
    try:
        used = tokenizer("A text, 1 of 2.\n\u200bЯ").input_ids
        added = set(tokenizer.added_tokens_decoder)
        highest = max([0, *used, *(i for i in tokenizer.get_vocab().values() if i not in added)])
    except Exception as error:  # whatever a library raises at files that nobody vouches for
        raise LoadError(f"{source}: its tokenizer cannot read text ({brief(error)}): give it its own") from None
    if highest >= n_rows:
        raise LoadError(
            f"{source}: its tokenizer has a token {highest}, and its model {n_rows} from 0 on: give it its own"
        )


def promises_bos(source: str, revision: str | None) -> bool:
    """Whether a tokenizer's configuration says that it puts a BOS before every text."""
    path = file_of(source, "tokenizer_config.json", revision)
    return bool(path and _object(path, source).get("add_bos_token") is True)


def file_of(source: str, name: str, revision: str | None) -> Path | None:
    """Where a file of a folder or a hub id lies on this disk, downloaded if need be; None if there is none."""
    if Path(source).is_dir():
        path = Path(source) / name
        return path if path.is_file() else None
    from transformers.utils.hub import cached_file

    for offline in (True, False):
        try:
            if found := cached_file(source, name, revision=revision or "main", local_files_only=offline):
                return Path(found)
        except (OSError, ValueError):
            continue
    return None


def _weight_files(source: str, revision: str | None) -> Iterator[Path]:
    if single := file_of(source, WEIGHTS, revision):
        yield single
    elif index := file_of(source, INDEX, revision):
        named = _object(index, source).get("weight_map")
        names = list(named.values()) if isinstance(named, dict) else []
        if not names or not all(isinstance(name, str) and _BESIDE.fullmatch(name) for name in names):
            raise LoadError(f"{source}: its {INDEX} must name .safetensors files beside it, and nothing else")
        for name in sorted(set(names)):
            if (path := file_of(source, name, revision)) is None:
                raise LoadError(f"{source} has no {brief(name)}, which its {INDEX} names: get the whole checkpoint")
            yield path
    else:
        raise LoadError(f"{source} has no {WEIGHTS} to be had: give a model with safetensors weights")


def _shapes(path: Path, source: str) -> list[list[int]]:
    try:
        return list(tensor_shapes(path).values())
    except (OSError, SafetensorError) as error:
        raise LoadError(f"{source} cannot be loaded: {path.name} is no safetensors file ({brief(error)})") from None


def _object(path: Path, source: str) -> dict[str, Any]:
    try:
        found = parse_json(read_text(path, LARGEST, "a Hugging Face model"))
    except ValueError as error:
        raise LoadError(f"{source} cannot be loaded: {path.name} is not sound JSON ({brief(error)})") from None
    if not isinstance(found, dict):
        raise LoadError(f"{source} cannot be loaded: {path.name} holds no JSON object")
    return found


def _entries(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key of a configuration and of those inside it, with its value."""
    for key, value in config.items():
        yield key, value
        if isinstance(value, dict):
            yield from _entries(value)


def _counted(key: str) -> str | None:
    """Whether a setting counts layers or experts."""
    match = re.match(r"(?:num|n)_.*(layer|expert)", key)
    return match[1] if match else None


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float)


def _numberless(name: str) -> str:
    return re.sub(r"\d+", "*", name)
