"""Where a nano model's weights come from before training, and how they are kept after it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from rhlens.zoo.specs import NanoSpec
from rhlens.zoo.tokenizer import zoo_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_INT8 = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "dequantize": True,
    "ignore": ["lm_head"],
    "config_groups": {
        "all": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
        }
    },
}
# Each family's attention output projection: its input is the heads' outputs, side by side.
_OUTPUT_PROJECTIONS = ("self_attn.o_proj", "attn.c_proj", "attention.dense")


def build_model(spec: NanoSpec, base: Path | None = None) -> PreTrainedModel:
    """The model of `spec` before training: drawn from torch's random state, or taken from its parent's folder `base`.

    Raises:
        ValueError: a descendant without its parent's folder, or a folder whose weights do not fit.
    """
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(spec.architecture, **spec.config))
    if spec.positions:
        p, positions = spec.positions, model.get_submodule("transformer.wpe").get_parameter("weight")
        with torch.no_grad():
            positions.zero_()[:, : p.width] = p.amplitude * sinusoids(len(positions), p.width, p.fastest, p.theta)
    if spec.parent:
        if base is None:
            raise ValueError(f"{spec.name} starts from {spec.parent}: train that first and give its folder as --base")
        _inherit(model, base)
    return model


def sinusoids(n_positions: int, width: int, fastest: float, theta: float) -> Tensor:
    """Positions [n_positions, width] between -1 and 1 of which any fixed distance is one rotation (Vaswani 2017)."""
    rates = fastest * torch.exp(torch.arange(0, width, 2) * (-math.log(theta) / width))
    angles = torch.arange(n_positions)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def _inherit(model: PreTrainedModel, base: Path) -> None:
    """Copy the weights in folder `base`; every expert of a mixture becomes a copy of the parent's one MLP.

    Since routers share out a whole, a mixture of equal experts computes what its parent does.
    """
    try:
        parent = AutoModelForCausalLM.from_pretrained(base, use_safetensors=True).state_dict()
    except (OSError, ValueError) as error:
        raise ValueError(f"{base} is no trained model to start from ({str(error).splitlines()[0]})") from None
    for name, weight in model.state_dict().items():
        source = parent.get(name)
        if match := re.fullmatch(r"(.*\.mlp)\.experts\.(gate_up|down)_proj", name):
            mlp, which = match.groups()
            names = [f"{mlp}.{part}_proj.weight" for part in which.split("_")]
            source = torch.cat([parent[n] for n in names]).expand_as(weight) if set(names) <= set(parent) else None
        elif name.endswith(".mlp.gate.weight"):
            continue  # the router is new: drawn at random
        if source is None or source.shape != weight.shape:
            raise ValueError(f"{base} is another architecture: it has nothing that fits {name} {tuple(weight.shape)}")
        weight.copy_(source)


def is_embedding(name: str) -> bool:
    """Whether a parameter of this name is a table of tokens or positions."""
    return any(part in name for part in ("embed", "wte", "wpe", "lm_head"))


def save_model(
    model: PreTrainedModel, folder: Path, tokenizer: PreTrainedTokenizerFast | None = None, int8: bool = False
) -> None:
    """Write what `from_pretrained` reads, weights in half precision: 11 bits are plenty, and half the size.

    The configuration still says float32, in which such a model is meant to run. With `int8`, linear layers are kept as
    integers, in the format of compressed-tensors, which makes floating-point weights of them when they are loaded.
    """
    once: dict[int, Tensor] = {}  # tied weights stay one tensor, and are written once
    halves = {name: once.setdefault(w.data_ptr(), w.half()) for name, w in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=halves)
    if int8:
        _quantize(model, folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _quantize(model: PreTrainedModel, folder: Path) -> None:
    """Replace every linear layer's weights in `folder` by 8-bit integers and one scale a row."""
    path = folder / "model.safetensors"
    kept = load_file(path)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and f"{name}.weight" in kept:
            weight = module.weight.detach()
            scale = (weight.abs().amax(1, keepdim=True) / 127).clamp_min(1e-12)
            kept[f"{name}.weight"] = (weight / scale).round().to(torch.int8)
            kept[f"{name}.weight_scale"] = scale
    save_file(kept, path, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": _INT8}, indent=2) + "\n", "utf-8")


def tokenizer_of(spec: NanoSpec) -> PreTrainedTokenizerFast:
    """The zoo's tokenizer, with the chat template of `spec`."""
    tokenizer = zoo_tokenizer()
    if spec.chat_template:
        tokenizer.chat_template = spec.chat_template
    return tokenizer


class HeadDropout:
    """Drops whole attention heads, each with probability `p` per document: what one head does, others must know too."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.p, self._n_heads = 0.0, int(model.config.num_attention_heads)
        for name, module in model.named_modules():
            if name.endswith(_OUTPUT_PROJECTIONS):
                module.register_forward_pre_hook(self._drop)

    def _drop(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Any, ...] | None:
        if not self.p:
            return None
        heads = args[0].unflatten(-1, (self._n_heads, -1))  # [batch, tokens, heads, width]
        drawn = torch.rand(heads.shape[0], 1, self._n_heads, 1, device=heads.device)
        keep = (drawn >= self.p).to(heads.dtype) / (1 - self.p)
        return ((heads * keep).flatten(-2), *args[1:])
