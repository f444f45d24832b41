"""What has changed in a model since it was loaded: its twin was proven equal to what it was then."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules import module as torch_module

_DERIVED = ("inv_freq", "cos", "sin")
"""Ends of the names of buffers that rotary embeddings make anew as they read."""


class State(NamedTuple):
    """All of a model that a copy of it does not follow: which tensors, modules, hooks and settings it has.

    Weights that are edited in place are the copy's, too.
    """

    tensors: dict[str, int]
    modules: dict[str, tuple[int, int]]
    hooks: dict[str, tuple[int, ...]]
    settings: str


def state_of(model: nn.Module) -> State:
    """The state of a model as it is now."""
    found = dict(model.named_parameters(remove_duplicate=False))
    found |= {name: tensor for name, tensor in model.named_buffers() if not name.endswith(_DERIVED)}
    # What is offloaded is put in place for each pass, as another tensor every time.
    tensors = {name: 0 if tensor.is_meta else id(tensor) for name, tensor in found.items()}
    modules, hooks = {}, {"": tuple(map(id, torch_module._global_forward_hooks.values()))}
    for name, module in model.named_modules():
        # Hook points of TransformerLens are looked at elsewhere: the bridge runs what hangs on them.
        if type(module).__name__ == "HookPoint":
            continue
        modules[name] = id(module), id(vars(module).get("forward"))
        hooks[name] = tuple(map(id, [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]))
    config: Any = getattr(model, "config", None)
    settings = json.dumps(config.to_dict(), default=str, sort_keys=True) if hasattr(config, "to_dict") else ""
    return State(tensors, modules, hooks, settings)


def changes(before: State, after: State) -> list[str]:
    """What is not as it was, each in a few words that name the place; the first is the outermost."""
    found = [f"a hook on {name or 'all modules'}" for name in _others(before.hooks, after.hooks) if name in after.hooks]
    found += [f"the module {name}" for name in _others(before.modules, after.modules)]
    found += [f"the tensor {name}" for name in _others(before.tensors, after.tensors)]
    return found + (["its configuration"] if before.settings != after.settings else [])


def _others(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A model without dropout while inside; each of its modules is put back into the mode it was in."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
