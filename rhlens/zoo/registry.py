"""The embedded models: what `rh.load` finds by name, offline."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class EmbeddedModel:
    """One embedded model. `trained` ones ship as weights; `planted` and `random` ones are built when loaded."""

    origin: Literal["trained", "planted", "random"]
    about: str
    recipe: tuple[tuple[str, Any], ...] = ()


_COPY_HEADS = ((2, 3), (2, 6), (3, 1))
MODELS = {
    "nano-qwen2": EmbeddedModel(
        "trained", "Qwen2, 8 layers x 8 heads, trained here on facts hidden in generated English"
    ),
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


@contextmanager
def folder_of(name: str) -> Iterator[Path | None]:
    """A Hugging Face folder with the embedded model `name`, for as long as the context lasts; None if there is none."""
    model = MODELS.get(name)
    if model is None:
        yield None
    elif model.origin == "trained":
        with resources.as_file(resources.files("rhlens.zoo") / "models" / name) as folder:
            yield folder
    else:
        from rhlens.zoo import planted

        build = planted.planted if model.origin == "planted" else planted.random_model
        with tempfile.TemporaryDirectory() as folder:
            yield build(**dict(model.recipe)).save(folder)
