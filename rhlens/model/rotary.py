"""Rotary frequencies that depend on how long the input is: every pass uses those that `generate` would.

Two kinds do. *longrope* (Phi-3 with 128k) has short factors up to a length, and long ones for all positions of whatever
is longer: when an answer crosses it, everything is read again. *dynamic* scales with each token beyond a length; what
is in the cache stays as it was, and nothing but one token at a time gives that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

_LENGTH = "original_max_position_embeddings"


def rope_settings(config: Any) -> list[dict[str, Any]]:
    """A model's rotary settings; several where kinds of layers have their own."""
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    nested: list[Any] = [value for value in found.values() if isinstance(value, Mapping)]
    return nested or ([found] if found else [])


def length_of(config: Any, kind: str) -> int | None:
    """The length up to which a model of this kind (`longrope`, `dynamic`) reads as if it were of none."""
    for settings in rope_settings(config):
        if settings.get("rope_type", settings.get("type")) == kind:
            own = settings.get(_LENGTH) or getattr(config, _LENGTH, None)
            return int(own or config.max_position_embeddings)
    return None


@contextmanager
def long_factors(runner: nn.Module, long: bool) -> Iterator[None]:
    """A longrope model that uses its long factors however short its input is, while inside; if `long`."""
    own = {id(s): s for module in _rotary(runner, "longrope") for s in rope_settings(module.config)} if long else {}
    lengths = [(settings, settings[_LENGTH]) for settings in own.values() if _LENGTH in settings]
    for settings, _ in lengths:
        settings[_LENGTH] = 0
    try:
        yield
    finally:
        for settings, length in lengths:
            settings[_LENGTH] = length


def grown_to(runner: nn.Module, n_read: int) -> None:
    """Put the dynamic frequencies of a model where they are once so many tokens were read one by one, and no others."""
    for module in _rotary(runner, "dynamic"):
        own = isinstance(module.rope_type, str)
        kinds: dict[str, str] = {"": module.rope_type} if own else module.rope_type
        for name, kind in kinds.items():
            prefix = f"{name}_" if name else ""
            frequencies = getattr(module, f"{prefix}original_inv_freq")
            length = max(n_read, module.original_max_seq_len)
            if n_read > module.original_max_seq_len:
                at = torch.tensor(n_read, device=frequencies.device)
                options = {"layer_type": name} if name else {}
                make: Any = ROPE_INIT_FUNCTIONS[kind]
                frequencies, _ = make(module.config, frequencies.device, seq_len=at, **options)
            current = getattr(module, f"{prefix}inv_freq")
            module.register_buffer(f"{prefix}inv_freq", frequencies.to(current.device), persistent=False)
            setattr(module, f"{prefix}max_seq_len_cached", length)


def _rotary(runner: nn.Module, kind: str) -> list[Any]:
    """A model's rotary modules of this kind."""
    found = []
    for module in runner.modules():
        kinds = vars(module).get("rope_type")
        kinds = kinds.values() if isinstance(kinds, Mapping) else [kinds]
        if any(isinstance(own, str) and kind in own for own in kinds):
            found.append(module)
    return found
