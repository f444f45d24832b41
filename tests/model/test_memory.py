"""Memory grows with the prompt and no faster: weights, cache, and one chunk of activations; with trials not at all."""

import json
import subprocess
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


# Long runs

SWEEP = """
import ctypes, gc, json, os, resource, sys, time
os.environ["HF_HUB_OFFLINE"] = "1"
import torch; torch.set_num_threads(1)
import rhlens as rh
from rhlens.measure import asker, detect
from rhlens.results.store import RunFolder
verb, n, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
detect.BATCH_TOKENS = asker.BATCH_TOKENS = 1600  # few rows side by side: what they hold is no trial's to keep
model = rh.load("planted-llama", quiet=True)
samples, real = [], RunFolder.append

def append(self, *unit):
    kept = real(self, *unit)
    if len(self.records) % 250 == 0:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what is free, but not given back, is nobody's
        resident = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
        samples.append((len(self.records), resident, time.process_time()))
    return kept

RunFolder.append = append
trials = rh.niah(model, [100], 4, needles=n // 4 if verb == "detect" else 4)
heads = [(2, 3), (2, 6), (3, 1)]

def run():
    if verb == "detect":
        return rh.detect(model, trials, out=out).trials
    return rh.ablate(model, trials, heads, k=[2, 3], draws=n // 32, out=out).answers

first = run()
began, done = time.process_time(), len(samples)
again = run()
assert first.equals(again) and len(samples) == done, "a finished run is only read"
print(json.dumps({"samples": samples, "answers": len(first), "taken_up": time.process_time() - began}))
"""


@pytest.mark.parametrize(("verb", "n"), [("detect", 10_000), ("ablate", 6_000)])
def test_a_sweep_of_thousands_of_trials_holds_memory_and_pace(tmp_path, capsys, verb, n):
    """The bound is the size of some records. A trial's keys and values take a hundred times as much."""
    command = [sys.executable, "-c", SWEEP, verb, str(n), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    units, resident, spent = np.array(found["samples"], dtype=float).T
    assert found["answers"] >= n
    assert units[-1] > 0.5 * n, "most conditions are asked by themselves"
    later = units >= units[-1] / 10
    growth = np.polyfit(units[later], resident[later], 1)[0]
    pace = np.diff(spent) / np.diff(units)
    third = len(pace) // 3
    slower = np.median(pace[-third:]) / np.median(pace[third:-third])
    with capsys.disabled():
        print(
            f"\n{verb}, {units[-1]:.0f} units: {growth / 1024:.1f} KB and {1e3 * np.median(pace):.1f} ms each, "
            f"{slower:.2f} times as long in the last third; taken up again in {found['taken_up']:.1f} s"
        )
    assert growth <= 8 * 1024
    assert slower <= 1.3
    assert found["taken_up"] <= 0.2 * (spent[-1] - spent[0])
