"""What can be counted of a model from its configuration alone; those of the README's walkthrough need no hub."""

import re
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

ROPE = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192}  # fmt: skip
NAMES = "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"
KNOWN = {  # NAMES and what else, as published, so that no hub is asked
    "Qwen/Qwen2.5-0.5B": ("qwen2", 151_936, 896, 4864, 24, 14, {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "EleutherAI/pythia-1.4b": ("gpt_neox", 50_304, 2048, 8192, 24, 16, {}),
    "meta-llama/Llama-3.1-8B": ("llama", 128_256, 4096, 14_336, 32, 32,
                                {"num_key_value_heads": 8, "max_position_embeddings": 131_072,
                                 "rope_parameters": ROPE}),
}  # fmt: skip


def config_of(name: str) -> Any:
    """The configuration of a model: known here, in a folder, or on the hub.

    Raises:
        ValueError: there is none.
    """
    if name not in KNOWN:
        try:
            return AutoConfig.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise ValueError(f"no configuration of {name!r} was found: {str(error).splitlines()[0]}") from None
    architecture, *sizes, more = KNOWN[name]
    return AutoConfig.for_model(architecture, **dict(zip(NAMES, sizes, strict=True)), **more)


class Size:
    """How many numbers a model holds, and what it takes it to read a prompt and to answer it.

    Attributes:
        weights: numbers in all of them.
        blocks: numbers in the matrices of its layers.
    """

    def __init__(self, config: Any) -> None:
        with torch.device("meta"):
            weights = dict(AutoModelForCausalLM.from_config(config).named_parameters())
        self.layers, self._d = config.num_hidden_layers, config.hidden_size
        self.weights = sum(w.numel() for w in weights.values())
        self.blocks = sum(w.numel() for name, w in weights.items() if w.ndim > 1 and re.search(r"\.\d+\.", name))
        self._out, heads = config.vocab_size * self._d, config.num_attention_heads
        self._d_head = getattr(config, "head_dim", None) or self._d // heads
        self._heads, self._kv = heads, getattr(config, "num_key_value_heads", None) or heads

    def cache(self, tokens: int) -> float:
        """Numbers in the keys and values of a prompt."""
        return 2.0 * self.layers * self._kv * self._d_head * tokens

    def operations(self, tokens: int) -> float:
        """Floating-point operations to read a prompt; causal attention has half a matrix to compute."""
        return 2.0 * self.blocks * tokens + 2.0 * self.layers * self._heads * self._d_head * tokens**2

    def operations_to_read(self, tokens: int) -> float:
        """Those of `Engine.prefill`, which ends with the last layer's queries, keys and values."""
        last = 2.0 * self._d * (self._heads + 2 * self._kv) * self._d_head * tokens
        return self.operations(tokens) * (self.layers - 1) / self.layers + last

    def moved(self, tokens: int) -> float:
        """Numbers that go through the processor for each token of an answer."""
        return self.blocks + self._out + self.cache(tokens)
