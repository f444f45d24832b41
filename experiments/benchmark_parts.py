"""What `benchmark.py` measures beside workloads: the machine, memory, prefill, start-up, and one large GPU."""

import copy
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch
import transformers
from model_sizes import Size
from peak_memory import LARGE, NANO, measured

from rhlens.model.engine import Engine
from rhlens.tasks.needles import draw_needles
from rhlens.tasks.trials import niah
from rhlens.zoo.tokenizer import zoo_tokenizer

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
    engine = random_engine(config := _medium(n_tokens), torch.device("cpu"), torch.float32)
    tokens = torch.randint(2, 2048, (1, n_tokens))
    seconds = statistics.median(seconds_of(lambda: engine.prefill(tokens)) for _ in range(3))
    return Size(config).operations_to_read(n_tokens) / seconds / 1e9 / peak


def _medium(n_tokens: int) -> Any:
    return transformers.LlamaConfig(vocab_size=2048, hidden_size=768, intermediate_size=2048, num_hidden_layers=7,
                                    num_attention_heads=12, max_position_embeddings=n_tokens + 1)  # fmt: skip


def seconds_of(run: Any) -> float:
    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def parts(reading: tuple[int, ...], memory: tuple[int, ...], repeats: int) -> pd.DataFrame:
    """Everything but workloads, one row a measurement: lengths at which heads are read, and memory is measured."""
    found = [reading_ratios(reading, repeats), memory_ratios(memory), start_times(max(3, repeats))]
    return pd.concat([*found, prompt_times((*reading, *memory))], ignore_index=True)


def reading_ratios(lengths: tuple[int, ...], repeats: int, n_new: int = 16) -> pd.DataFrame:
    """Seconds a token of decoding with every head read, as a multiple of bare SDPA decoding, in turns."""
    engine, rows = random_engine(_medium(max(lengths) + n_new), torch.device("cpu"), torch.float32), []
    twin: Any = engine.twin
    plain = copy.deepcopy(twin, {id(t): t for t in [*twin.parameters(), *twin.buffers()]})
    plain.set_attn_implementation("sdpa")
    for n in lengths:
        tokens, ratios = torch.randint(2, 2048, (1, n)), []
        prefix = engine.prefill(tokens)
        for _ in range(repeats):
            with torch.inference_mode():
                cache = transformers.DynamicCache()
                plain(tokens[:, :-1], past_key_values=cache, logits_to_keep=1)
            bare = seconds_of(lambda cache=cache, last=tokens[:, -1:]: _go_on(plain, cache, last, n_new)) / n_new
            said: list[Any] = []
            read = seconds_of(lambda prefix=prefix, said=said: said.extend(engine.decode(prefix, n_new)))
            ratios.append(read / max(1, len(said[0].tokens)) / bare)
        rows.append(_part("reading every head / bare SDPA decode", n, ratios))
    return pd.DataFrame(rows)


@torch.inference_mode()
def _go_on(model: Any, cache: Any, token: torch.Tensor, n_new: int) -> None:
    for _ in range(n_new):
        token = model(token, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)


def memory_ratios(lengths: tuple[int, ...]) -> pd.DataFrame:
    """Peak memory as a multiple of weights, KV cache and one chunk, for the nano and the 100M shape."""
    rows = []
    for name, shape in {"nano": NANO, "100M": LARGE}.items():
        for n in lengths:
            found = measured(shape, n)
            held = found["weights"] + found["cache"] + found["chunk"]
            rows.append(_part(f"peak memory / (weights + cache + chunk), {name}", n, [found["peak"] / held]))
    return pd.DataFrame(rows)


def _part(what: str, tokens: int, values: list[float]) -> dict[str, Any]:
    return {"what": what, "tokens": tokens, "n": len(values), "median": statistics.median(values),
            "least": min(values), "most": max(values)}  # fmt: skip


def prompt_times(lengths: tuple[int, ...], needles: int = 7) -> pd.DataFrame:
    """Seconds to build a prompt of exactly so many tokens, and how many texts are encoded for it."""
    tokenizer, rows = zoo_tokenizer(), []
    call, calls = type(tokenizer).__call__, []
    with patch.object(type(tokenizer), "__call__", lambda *args, **options: calls.append(1) or call(*args, **options)):
        for n in lengths:
            seconds: list[float] = []
            encodings: list[float] = []
            for needle in draw_needles(needles):
                calls.clear()
                seconds.append(seconds_of(lambda n=n, needle=needle: niah(tokenizer, [n], [0.5], needles=[needle])))
                encodings.append(len(calls))
            rows += [_part("seconds to build a prompt", n, seconds), _part("encodings of a prompt", n, encodings)]
    return pd.DataFrame(rows)


def start_times(repeats: int) -> pd.DataFrame:
    """Seconds of `rhlens --help` and of `import rhlens`, in turns."""
    script = str(Path(sys.executable).with_name("rhlens"))
    commands = {"rhlens --help": [script, "--help"], "import rhlens": [sys.executable, "-c", "import rhlens"]}
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            found[name].append(seconds_of(lambda args=command: subprocess.run(args, check=True, capture_output=True)))
    return pd.DataFrame([_part(f"seconds of {name}", 0, s) for name, s in found.items()])


def random_engine(config: Any, device: torch.device, dtype: torch.dtype) -> Engine:
    """A random model, as `rhlens.load` makes one of a folder."""
    from rhlens.model.load import proven_bridge

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
    engine, size = random_engine(config, torch.device("cuda"), torch.bfloat16), Size(config)
    a = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")
    peak, rows = 2 * 8192**3 / min(seconds_of(lambda: a @ a) for _ in range(9)), []
    for n in lengths:
        tokens = torch.randint(2, 2048, (1, n))
        torch.cuda.reset_peak_memory_stats()
        read = seconds_of(lambda tokens=tokens: engine.prefill(tokens))
        prefix = engine.prefill(tokens)
        decode = seconds_of(lambda prefix=prefix: engine.decode(prefix, 16)) / 16
        gb, share = torch.cuda.max_memory_allocated() / 1e9, size.operations_to_read(n) / read / peak
        rows.append({"tokens": n, "prefill_s": read, "decode_s_a_token": decode, "gb": gb, "share": share})
    return rows
