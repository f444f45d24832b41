"""Memory grows with the prompt and no faster: weights, KV cache, and one chunk of activations."""

import sys

import numpy as np
import pytest

from experiments.peak_memory import LARGE, NANO, measured

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads peak memory the Linux way"),
]


def test_memory_grows_by_the_cache_alone_and_an_8b_model_fits_a_gpu_at_128k(capsys):
    rows = [measured(NANO, n) for n in (4_000, 8_000, 16_000, 32_000)]
    per_token = np.polyfit([r["tokens"] for r in rows], [r["peak"] for r in rows], 1)[0]
    growth = per_token / (rows[-1]["cache"] / rows[-1]["tokens"])
    weights, cache, chunk = 16.1e9, 131_072 * 2 * 32 * 8 * 128 * 2, 2048 * (3 * 14_336 + 8 * 4096) * 2
    patterns = 3 * 4 * 16 * 32 * 131_072
    gpu = weights + growth * cache + chunk + patterns
    with capsys.disabled():
        print(f"\npeak grows {growth:.2f} times as fast as the cache; 8B in bf16 at 128k tokens: {gpu / 1e9:.0f} GB")
    assert growth <= 1.2
    assert gpu < 80e9
    for row in rows[1:]:
        assert row["peak"] <= 1.3 * (row["weights"] + row["cache"] + row["chunk"]), row


def test_32k_tokens_of_a_model_of_100m_parameters():
    row = measured(LARGE, 32_000)
    assert row["weights"] > 4e8
    assert row["peak"] <= 1.3 * (row["weights"] + row["cache"] + row["chunk"]), row
