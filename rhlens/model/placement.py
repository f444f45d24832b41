"""Where the parts of a model are: on one device, on several, or out of memory until they are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

DeviceMap = str | dict[str, Any]
"""How accelerate spreads a model: a word, or the device of each module by name."""
WORDS = ("auto", "balanced", "balanced_low_0", "sequential")
OFFLOADED = ("cpu", "disk")


def check_device_map(device_map: DeviceMap) -> None:
    """Raise ValueError for a word that accelerate does not know."""
    if isinstance(device_map, str) and device_map not in WORDS:
        raise ValueError(f"unknown device map {device_map!r}: use {', '.join(WORDS)}, or a dict of devices by module")


def stays_on_cpu(device_map: DeviceMap) -> bool:
    """Whether no part of a model goes to a GPU."""
    return isinstance(device_map, dict) and all(str(place) in OFFLOADED for place in device_map.values())


def device_of(model: nn.Module) -> torch.device:
    """The device that a model takes tokens on; of weights that come from elsewhere, the one they are brought to."""
    name, first = next(iter(model.named_parameters()))
    if first.device.type != "meta":
        return first.device
    hook: Any = getattr(model.get_submodule(name.rpartition(".")[0]), "_hf_hook", None)
    return torch.device(getattr(hook, "execution_device", None) or "cpu")


def devices_of(model: nn.Module) -> list[torch.device]:
    """All devices that hold weights, each once, in the order of the layers."""
    return list(dict.fromkeys(p.device for p in model.parameters() if p.device.type != "meta")) or [device_of(model)]


def weights(model: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """A parameter or buffer of a model by its name, read in if it is out of memory."""
    if tensor.device.type != "meta":
        return tensor
    from accelerate.utils import align_module_device

    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    with align_module_device(module):
        return getattr(module, leaf).detach().cpu().clone()


def stacked(of_layers: Sequence[Tensor]) -> Tensor:
    """One tensor of what layers gave, wherever they are, on the first one's device."""
    return torch.stack([x.to(of_layers[0].device) for x in of_layers])
