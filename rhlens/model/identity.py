"""Which model a result is of: a name that changes with all that can change a result, and with nothing else."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch

from rhlens.model.placement import weights
from rhlens.results.store import content_key

if TYPE_CHECKING:
    from torch import Tensor

    from rhlens.model.engine import Engine

_NAMES = ("_name_or_path", "transformers_version", "model_name", "tokenizer_name", "device", "n_devices")
"""What configurations say besides: names, versions and places."""
_CALLS = ("truncation", "padding")
"""What a fast tokenizer keeps of its last call: the file holds it, but tokens and texts do not depend on it."""


def identity(engine: Engine) -> str:
    """A checksum of weights, configuration and tokenizer, and of where and how the model runs; no name is in it.

    Weights are read byte by byte, so any edit shows, and it is the same with any number of threads.

    Raises:
        ValueError: the model has hooks or modules of the user's own, and what they do cannot be told.
    """
    hooks = [name.removeprefix("a hook on ") for name in engine.changed if name.startswith("a hook on ")]
    if hooks := [*engine.hooked, *hooks]:
        raise ValueError(
            f"hooks of your own, as at {hooks[0]}, change results in ways that a run folder cannot tell apart: "
            "take them off, or leave out=None"
        )
    if modules := [name for name in engine.changed if name.startswith("the module ")]:
        raise ValueError(
            f"{modules[0]} is not as it was when this model was loaded, and what it does a run folder cannot tell: "
            "load the model as it is now, or leave out=None"
        )
    config = json.loads(json.dumps(engine.config.to_dict(), default=str))
    about = {name: value for name, value in engine.about.items() if name != "rhlens"}
    return content_key(
        {name: value for name, value in config.items() if name not in _NAMES},
        about | {"device": engine.device.type, "matmul": torch.get_float32_matmul_precision()},
        sorted(engine.eos_tokens),
        engine.n_ctx,
        _spelling(engine.tokenizer),
        {name: _checksum(weights(engine.model.original_model, name, t)) for name, t in _tensors(engine).items()},
    )


def _tensors(engine: Engine) -> dict[str, Tensor]:
    """Parameters, and buffers unless they are rotary tables that change, or grow, with what was read last."""
    model, derived = engine.model.original_model, engine.one_piece or engine.kind == "HookedTransformer"
    return dict(model.named_parameters()) | ({} if derived else dict(model.named_buffers()))


def _checksum(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().flatten()
    return f"{tuple(tensor.shape)} {tensor.dtype} {hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()}"


def _spelling(tokenizer: Any) -> Any:
    """What decides how tokens read."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    cleaned = getattr(tokenizer, "clean_up_tokenization_spaces", None)
    return type(tokenizer).__name__, cleaned, {name: value for name, value in state.items() if name not in _CALLS}
