"""What `benchmark.py` measures beside workloads: the machine, memory, prefill, start-up, and one large GPU."""

import ctypes
import gc
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch
import transformers

from rhlens.model.engine import Engine

HF, TL, RHLENS = "Hugging Face", "TransformerLens", "rhlens"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def machine() -> str:
    """Processor, threads and versions."""
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} cores{load}, {versions}, fp32"


def matmul_peak(n: int = 1536, repeats: int = 5) -> float:
    """The machine's matrix product in GFLOP/s: the best of some."""
    a = torch.randn(n, n)
    best = min(seconds_of(lambda: a @ a) for _ in range(repeats))
    return 2 * n**3 / best / 1e9


def prefill_share(n_tokens: int, peak: float) -> float:
    """Share of the matmul peak that prefill of a random Llama of 50M parameters reaches."""
    config = transformers.LlamaConfig(vocab_size=2048, hidden_size=768, intermediate_size=2048, num_hidden_layers=7,
                                      num_attention_heads=12, max_position_embeddings=8192)  # fmt: skip
    engine = random_engine(config, torch.device("cpu"), torch.float32)
    tokens = torch.randint(2, 2048, (1, n_tokens))
    seconds = statistics.median(seconds_of(lambda: engine.prefill(tokens)) for _ in range(3))
    return _flops(config, n_tokens) / seconds / 1e9 / peak


def _flops(config: Any, n: int) -> float:
    d, layers, kv = config.hidden_size, config.num_hidden_layers, config.num_key_value_heads * config.head_dim
    weights = layers * (2 * d * d + 2 * d * kv + 3 * d * config.intermediate_size)
    return 2.0 * weights * n + layers * 2.0 * d * n * n  # half of the attention matrix


def seconds_of(run: Any) -> float:
    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


@contextmanager
def peak_memory() -> Iterator[SimpleNamespace]:
    """MB by which a GPU's memory grows at most while inside, or main memory where there is none; nan if unknown."""
    found, clear, status = SimpleNamespace(mb=float("nan")), Path("/proc/self/clear_refs"), Path("/proc/self/status")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield found
        found.mb = (torch.cuda.max_memory_allocated() - before) / 2**20
    elif clear.exists():
        ctypes.CDLL(None).malloc_trim(0)  # what the last tool left would hide what this one takes
        clear.write_text("5")
        before = _kb(status, "VmRSS")
        yield found
        found.mb = (_kb(status, "VmHWM") - before) / 1024
    else:
        yield found


def _kb(status: Path, key: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(key))


def start_times(repeats: int) -> pd.DataFrame:
    """Seconds of `rhlens --help` and of `import rhlens`, in turns."""
    script = str(Path(sys.executable).with_name("rhlens"))
    commands = {"rhlens --help": [script, "--help"], "import rhlens": [sys.executable, "-c", "import rhlens"]}
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            found[name].append(seconds_of(lambda args=command: subprocess.run(args, check=True, capture_output=True)))
    return pd.DataFrame(
        [{"command": name, "seconds": statistics.median(s), "most": max(s)} for name, s in found.items()]
    )


def random_engine(config: Any, device: torch.device, dtype: torch.dtype) -> Engine:
    """A random model, as `rhlens.load` makes one of a folder."""
    from rhlens.model.load import proven_bridge
    from rhlens.zoo.tokenizer import zoo_tokenizer

    torch.set_default_dtype(dtype)
    with device:
        hf = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    torch.set_default_dtype(torch.float32)
    hf.config.architectures = [type(hf).__name__]
    with tempfile.TemporaryDirectory() as folder:
        zoo_tokenizer().save_pretrained(folder)
        return Engine(proven_bridge(folder, hf, transformers.AutoTokenizer.from_pretrained(folder)))


def gpu_rows(lengths: tuple[int, ...] = (8_192, 32_768, 131_072)) -> list[dict[str, float]]:
    """Prefill and decode of an 8B shape in bf16: seconds, GB, and the share of the GPU's own matmul peak.

    Raises:
        ValueError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise ValueError("no GPU was found: leave --gpu out")
    config = transformers.LlamaConfig(
        vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=140_000,
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
    )  # fmt: skip
    engine = random_engine(config, torch.device("cuda"), torch.bfloat16)
    a = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")
    peak, rows = 2 * 8192**3 / min(seconds_of(lambda: a @ a) for _ in range(9)), []
    for n in lengths:
        tokens = torch.randint(2, 2048, (1, n))
        torch.cuda.reset_peak_memory_stats()
        read = seconds_of(lambda tokens=tokens: engine.prefill(tokens))
        prefix = engine.prefill(tokens)
        decode = seconds_of(lambda prefix=prefix: engine.decode(prefix, 16)) / 16
        gb, share = torch.cuda.max_memory_allocated() / 1e9, _flops(config, n) / read / peak
        rows.append({"tokens": n, "prefill_s": read, "decode_s_a_token": decode, "gb": gb, "share": share})
    return rows
