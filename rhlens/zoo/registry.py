"""The embedded models: what `rh.load` finds by name, offline.

A trained model is a folder in `models/` with a spec of its name; `NAME@TOKENS.safetensors` beside it is a snapshot: its
weights after so many tokens of training.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

from safetensors import SafetensorError, safe_open

from rhlens.results.files import MIB, brief, check_file, parse_json, read_text
from rhlens.zoo.specs import SPECS

T = TypeVar("T")

CARD, WEIGHTS = "card.json", "model.safetensors"
LARGEST, MOST_WEIGHTS = 16 * MIB, 65_536 * MIB
"""Bytes of a configuration or card, and of weights, that are read."""
_WANTED = "a trained model's folder"
_HEADS, _POSITIONS = ("num_attention_heads", "n_head"), ("max_position_embeddings", "n_positions")
SNAPSHOTS = 9
"""Snapshots of a model that ship, at most: nine of 3 MB leave room for all other models within 80 MB."""


@dataclass(frozen=True)
class EmbeddedModel:
    """One embedded model. `trained` ones ship as weights; `planted` and `random` ones are built when loaded."""

    origin: Literal["trained", "planted", "random"]
    about: str
    recipe: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Facts:
    """What a model's folder says of it: `parameters` counts shared ones once, `checksum` is of its weights' file."""

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    parameters: int
    positions: int
    checksum: str


_COPY_HEADS = ((2, 3), (2, 6), (3, 1))
_BUILT = {
    "planted-llama": EmbeddedModel(
        "planted",
        "Llama, 4 x 8 heads, copy heads L2H3 L2H6 L3H1 set by construction",
        (("copy_heads", _COPY_HEADS), ("arch", "llama")),
    ),
    "planted-gpt2": EmbeddedModel(
        "planted",
        "GPT-2, 4 x 8 heads, copy heads L2H3 L2H6 L3H1 set by construction",
        (("copy_heads", _COPY_HEADS), ("arch", "gpt2")),
    ),
    "random-llama": EmbeddedModel(
        "random", "Llama, 4 x 8 heads, untrained: the control that retrieves nothing", (("arch", "llama"),)
    ),
}


def models_folder() -> Path:
    """Where the weights of trained models are."""
    return Path(str(resources.files("rhlens.zoo"))) / "models"


def _trained() -> dict[str, EmbeddedModel]:
    """The folders that ship, in the order of their specs; one without a spec is not the zoo's."""
    shipped = {name: SPECS[name] for name in SPECS if (models_folder() / name / "config.json").is_file()}
    return {
        name: EmbeddedModel("trained", f"{spec.parent or spec.architecture}: {spec.about}")
        for name, spec in shipped.items()
    }


MODELS: dict[str, EmbeddedModel] = {**_trained(), **_BUILT}


def trained_models(controls: bool = True) -> list[str]:
    """Names of the embedded models whose weights were trained, in the order of their specs.

    Args:
        controls: those too that were trained in a way that must give no retrieval head.
    """
    names = [name for name, model in MODELS.items() if model.origin == "trained"]
    return [name for name in names if controls or not SPECS[name].control]


def family_of(name: str) -> str:
    """The model that `name` descends from, if the zoo knows it; else the model itself."""
    base = name.partition("@")[0]
    while base in SPECS and (parent := SPECS[base].parent):
        base = parent
    return base


def snapshots(name: str) -> list[str]:
    """Names of the snapshots of a trained model, earliest first."""
    found = (path.stem for path in models_folder().glob(f"{name}@*.safetensors"))
    return sorted(found, key=lambda snapshot: int(snapshot.partition("@")[2]))


def trained_tokens(name: str) -> int:
    """Tokens that a snapshot, or a trained model, had been trained on.

    Raises:
        ValueError: `name` is no trained model that keeps its history.
    """
    base, is_snapshot, tokens = name.partition("@")
    if is_snapshot:
        return int(tokens)
    history = models_folder() / base / "history.jsonl"
    if not history.is_file():
        raise ValueError(f"{name} keeps no history of its training: choose from {', '.join(trained_models())}")
    last = json.loads(history.read_text("utf-8").splitlines()[-1])
    return int(last["takeoff_tokens"] + last["main_tokens"])


@contextmanager
def folder_of(name: str) -> Iterator[Path | None]:
    """A Hugging Face folder with the embedded model `name`, for as long as the context lasts; None if there is none.

    Raises:
        ValueError: `name` is a snapshot that its model does not have.
    """
    base, is_snapshot, _ = name.partition("@")
    model = MODELS.get(base)
    if model is None:
        yield None
    elif is_snapshot:
        if name not in snapshots(base):
            known = ", ".join(snapshots(base)) or "it has none"
            raise ValueError(f"no snapshot {name!r} of {base}: choose from {known}")
        with tempfile.TemporaryDirectory() as folder:
            _copy_but_weights(models_folder() / base, Path(folder))
            shutil.copyfile(models_folder() / f"{name}.safetensors", Path(folder) / WEIGHTS)
            yield Path(folder)
    elif model.origin == "trained":
        if SPECS[base].int8 and find_spec("compressed_tensors") is None:
            raise ValueError(f"{base} is kept in int8, which needs a package more: pip install compressed-tensors")
        yield models_folder() / base
    else:
        from rhlens.zoo import planted

        build = planted.planted if model.origin == "planted" else planted.random_model
        with tempfile.TemporaryDirectory() as folder:
            yield build(**dict(model.recipe)).save(folder)


def facts_of(folder: Path) -> Facts:
    """Read off a model's folder, without loading it.

    Raises:
        ValueError: it holds no configuration or no safetensors weights.
    """
    try:
        config = parse_json(read_text(folder / "config.json", LARGEST, _WANTED))
        shapes = tensor_shapes(check_file(folder / WEIGHTS, MOST_WEIGHTS, _WANTED))
        settings = [_first(config, names) for names in (("num_hidden_layers", "n_layer"), _HEADS, _POSITIONS)]
        layers, heads, positions = (int(found) for found in settings)
        return Facts(
            architecture=str(config["model_type"]),
            layers=layers,
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            parameters=sum(math.prod(shape) for name, shape in shapes.items() if not _is_scale(name)),
            positions=positions,
            checksum=hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
        )
    except (OSError, ValueError, LookupError, TypeError, OverflowError, AttributeError, SafetensorError) as error:
        raise ValueError(
            f"{folder} is no trained model ({brief(error)}): give a folder with config.json and {WEIGHTS}"
        ) from None


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    """The shape of every tensor in a safetensors file, by name; only its header is read.

    Raises:
        OSError, SafetensorError: it cannot be read, or is no such file.
    """
    with safe_open(path, framework="np") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (no mapping)


def of_card(folder: Path, read: Callable[[dict[str, Any]], T]) -> T | None:
    """What `read` makes of the card in a model's folder; None if it has none.

    Raises:
        ValueError: the card is damaged.
    """
    path = folder / CARD
    if not path.exists():
        return None
    try:
        return read(parse_json(read_text(path, LARGEST, "a card")))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({brief(error)}): measure it again with rhlens zoo card") from None


def _first(config: dict[str, Any], names: Iterable[str]) -> Any:
    """The first of some settings that there is."""
    return next((config[name] for name in names if config.get(name)), None)


def _is_scale(name: str) -> bool:
    """Whether a tensor belongs to quantised weights: it is no parameter, and must stay exact."""
    return name.endswith(".weight_scale")


def closest(name: str, names: Iterable[str]) -> str:
    """The one of `names` that `name` may be a misspelling of; empty if there is none."""
    return next(iter(get_close_matches(name, list(names), n=1)), "")


def known(name: str, names: Iterable[str], what: str) -> str:
    """`name`, if it is one of `names`.

    Raises:
        ValueError: it is not; the sentence says what it could have been.
    """
    names = list(names)
    if name in names:
        return name
    meant = closest(name, names)
    hint = f"did you mean {meant}? " if meant else ""
    raise ValueError(f"no {what} {name!r}: {hint}choose from {', '.join(names)}")


def ship(run: Path, name: str, into: Path | None = None) -> Path:
    """Copy a finished training run into the package; returns the model's folder.

    Weights go in half precision, and at most `SNAPSHOTS` snapshots go with them. A card of other weights than those
    that ship stays behind, or is removed.

    Args:
        into: the folder of all models; None is the package's.

    Raises:
        ValueError: no spec has this name, or the run is not finished.
    """
    known(name, SPECS, "spec")
    facts_of(run)
    models = into or models_folder()
    folder = models / name
    folder.mkdir(parents=True, exist_ok=True)
    _copy_but_weights(run, folder)
    _halve(run / WEIGHTS, folder / WEIGHTS)
    measured = of_card(folder, lambda card: card["checksum"])
    if measured is not None and measured != facts_of(folder).checksum:
        (folder / CARD).unlink()
        (folder / "README.md").unlink(missing_ok=True)
    for old in models.glob(f"{name}@*.safetensors"):
        old.unlink()
    kept = {int(path.name.removesuffix("-tokens")): path for path in (run / "snapshots").glob("*-tokens")}
    for tokens in log_spaced(kept, SNAPSHOTS):
        _halve(kept[tokens] / WEIGHTS, models / f"{name}@{tokens}.safetensors")
    return folder


def log_spaced(numbers: Iterable[int], n: int) -> list[int]:
    """At most `n` of these numbers, the least and the greatest among them, at ratios as equal as can be had."""
    left = sorted(numbers)
    if len(left) <= n:
        return left
    least, step, chosen = left[0], math.log(left[-1] / left[0]) / (n - 1), []
    # The ends first, so that nothing between them takes their places.
    for i in (0, n - 1, *range(1, n - 1)):
        nearest = min(left, key=lambda number: abs(math.log(number / least) - i * step))
        chosen.append(nearest)
        left.remove(nearest)
    return sorted(chosen)


def _halve(source: Path, target: Path) -> None:
    """Copy weights in half precision; those that are so already byte for byte, so that their checksum stays."""
    import torch
    from safetensors.torch import load_file, save

    weights = load_file(source)
    wide = {key for key, t in weights.items() if t.dtype == torch.float32 and not _is_scale(key)}
    if wide:
        target.write_bytes(save({k: t.half() if k in wide else t for k, t in weights.items()}, {"format": "pt"}))
    else:
        shutil.copyfile(source, target)


def _copy_but_weights(source: Path, target: Path) -> None:
    """Configuration, tokenizer, history and card: everything small."""
    for path in source.iterdir():
        if path.suffix in {".json", ".jsonl", ".jinja", ".md"}:
            shutil.copyfile(path, target / path.name)
