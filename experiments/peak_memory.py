"""Peak memory: of what is done here, or of reading one prompt in a process of its own.

python experiments/peak_memory.py FOLDER TOKENS
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

NANO = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 8, "num_attention_heads": 8}
LARGE = {"hidden_size": 768, "intermediate_size": 8192, "num_hidden_layers": 4, "num_attention_heads": 12,
         "num_key_value_heads": 4, "vocab_size": 32000}  # fmt: skip
"""Shapes of random Llamas: one of the size of the nano models, one of 100M parameters."""


def measured(shape: dict[str, int], n_tokens: int) -> dict[str, int]:
    """Bytes at the peak, and of what has to be held, for a random Llama of this shape.

    Raises:
        RuntimeError: the process failed.
    """
    import transformers

    from rhlens.zoo.tokenizer import zoo_tokenizer

    options: dict[str, Any] = {"vocab_size": 2048, "max_position_embeddings": 40_000, "tie_word_embeddings": True}
    options |= shape
    config = transformers.LlamaConfig(**options)
    config.architectures = ["LlamaForCausalLM"]
    with tempfile.TemporaryDirectory() as folder:
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
        zoo_tokenizer().save_pretrained(folder)
        command = [sys.executable, __file__, folder, str(n_tokens)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


@contextmanager
def peak_memory() -> Iterator[SimpleNamespace]:
    """MB by which a GPU's memory grows at most while inside, or main memory where there is none; nan if unknown."""
    import torch

    found = SimpleNamespace(mb=float("nan"))
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield found
        found.mb = (torch.cuda.max_memory_allocated() - before) / 2**20
    elif Path("/proc/self/clear_refs").exists():
        ctypes.CDLL(None).malloc_trim(0)  # what was left before would hide what comes
        forget_peak()
        before = status("VmRSS")
        yield found
        found.mb = (status("VmHWM") - before) / 2**20
    else:
        yield found


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def status(key: str) -> int:
    """Bytes, of what Linux says of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))


def main(folder: str, n_tokens: int) -> dict[str, int]:
    import torch

    import rhlens as rh
    from rhlens.model.engine import TWIN_CHUNK, Engine

    small = Engine(rh.load("nano-llama", quiet=True))  # what libraries allocate once is not the model's
    small.decode(small.prefill(torch.randint(2, 2000, (1, 500))), 4)
    before = status("VmRSS")
    engine = Engine(rh.load(folder, quiet=True))
    forget_peak()
    prefix = engine.prefill(torch.randint(2, 2000, (1, n_tokens)))
    prefix.guesses = [[5] * 8]
    engine.decode(prefix, 8)
    cfg, layers = engine.model.cfg, list[Any](prefix.cache.layers)
    return {
        "tokens": n_tokens,
        "peak": status("VmHWM") - before,
        "weights": 4 * sum(p.numel() for p in engine.model.original_model.parameters()),
        "cache": 4 * sum(x.numel() for layer in layers for x in (layer.keys, layer.values)),
        "chunk": 4 * min(n_tokens, TWIN_CHUNK) * (3 * int(cfg.d_mlp or 0) + 8 * int(cfg.d_model)),
    }


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
