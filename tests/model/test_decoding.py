"""Guessed answers, shared caches and halved batches change how long it takes, and nothing else."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rhlens as rh
from rhlens.model import engine as engine_module
from rhlens.model.ablation import Ablation
from rhlens.model.engine import Engine
from rhlens.model.memory import OutOfMemoryError, free_bytes, in_parts, rows_that_fit
from rhlens.results.cache import Window
from rhlens.results.heads import Head
from tests.support import tiny_checkpoint

N = 60


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return Engine(rh.load(tiny_checkpoint("llama-gqa", tmp_path_factory.mktemp("gqa")), quiet=True))


def prompts(batch: int, n: int = N) -> torch.Tensor:
    return torch.randint(2, 2048, (batch, n), generator=torch.Generator().manual_seed(5))


def same(traces, expected) -> None:
    for got, want in zip(traces, expected, strict=True):
        np.testing.assert_array_equal(got.tokens, want.tokens)
        np.testing.assert_array_equal(got.position, want.position)
        np.testing.assert_allclose(got.weight, want.weight, atol=1e-5)


def on_the_bridge(engine: Engine) -> Engine:
    bridge = Engine(engine.model)
    bridge.twin = None
    return bridge


@pytest.mark.parametrize("path", ["twin", "bridge"])
@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), min_size=4, max_size=4), st.integers(1, 9))
def test_guesses_right_and_wrong_change_nothing(engine, path, shapes, most):
    engine = engine if path == "twin" else on_the_bridge(engine)
    prefix = engine.prefill(prompts(4))
    prefix.guesses = []
    said = engine.decode(prefix, most)
    prefix.guesses = [
        [*trace.tokens[:right], *range(3, 3 + wrong)] for trace, (right, wrong) in zip(said, shapes, strict=True)
    ]
    same(engine.decode(prefix, most), said)


def test_a_right_guess_takes_one_pass(engine, monkeypatch):
    prefix = engine.prefill(prompts(3))
    said = engine.decode(prefix, 8)
    passes, forward = [], engine.decoder.forward
    monkeypatch.setattr(engine.decoder, "forward", lambda *args, **kw: passes.append(1) or forward(*args, **kw))
    engine.decode(prefix, 8)
    assert len(passes) == max(len(trace.tokens) for trace in said)
    passes.clear()
    prefix.guesses = [trace.tokens.tolist() for trace in said]
    same(engine.decode(prefix, 8), said)
    assert len(passes) == 1


@pytest.mark.parametrize("method", ["zero", "mean", "uniform", "window", "resample"])
@pytest.mark.parametrize("phase", ["decode", "both"])
def test_ablated_rows_over_one_cache_say_what_each_says_alone_on_the_bridge(engine, method, phase):
    tokens = prompts(4)
    sets = [(Head(0, 1),), (Head(1, 2), Head(1, 3)), (Head(0, 0), Head(1, 1)), (Head(1, 0),)]
    ablations = [Ablation(heads, phase, method, window=Window(2, 9)) for heads in sets]
    rows, donors = [1, 0, 1, 1], [2, 3, 3, 2] if method == "resample" else None
    means = engine.mean_outputs([tokens])

    def under(engine, some):
        clean = engine.prefill(tokens)
        picked = donors and [donors[i] for i in some]
        return engine.under(clean, [ablations[i] for i in some], [rows[i] for i in some], picked, means)

    bridge = on_the_bridge(engine)
    alone = [engine.decode(under(bridge, [i]), 6)[0] for i in range(4)]
    together = under(engine, range(4))
    same(engine.decode(together, 6), alone)
    pads = [[9, 9]] * 4 if donors else []
    together.guesses = [*([*trace.tokens[:i], 7] for i, trace in enumerate(alone)), *pads]
    same(engine.decode(together, 6), alone)


def test_without_reading_heads_only_tokens_are_kept(engine):
    prefix = engine.prefill(prompts(2))
    for with_heads, without in zip(engine.decode(prefix, 5), engine.decode(prefix, 5, read_heads=False), strict=True):
        np.testing.assert_array_equal(with_heads.tokens, without.tokens)
        assert without.position.shape == (0, 2, 4)


@settings(max_examples=10)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 50))
def test_parts_shrink_until_they_fit(n, fits, most):
    tried = []

    def run(part):
        tried.append(len(part))
        if len(part) > fits:
            raise MemoryError
        return [2 * x for x in part]

    results = [y for part, result in in_parts(range(n), run, most) for y in result if len(part) == len(result)]
    assert results == [2 * x for x in range(n)]
    assert sum(size > fits for size in tried) <= max(0, (min(n, most) - 1).bit_length()), (
        "what did not fit is not tried again"
    )


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def run(part):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="do not match"):
        list(in_parts([1, 2], run))

    def too_much(part):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(OutOfMemoryError, match=r"a single prompt .*use shorter prompts"):
        list(in_parts([1, 2], too_much))


def test_a_batch_that_is_too_large_is_decoded_in_halves(engine, monkeypatch):
    prefix = engine.prefill(prompts(5))
    said, real = engine.decode(prefix, 5), engine_module.Decoding.traces
    replies = [[3, 4]] * 5
    scored = engine.log_probs(prefix, replies)

    def small(self, asked):
        if len(asked) > 2:
            raise torch.OutOfMemoryError
        return real(self, asked)

    monkeypatch.setattr(engine_module.Decoding, "traces", small)
    same(engine.decode(prefix, 5), said)
    inner = Engine._log_probs
    monkeypatch.setattr(
        Engine, "_log_probs", lambda self, p, asked, r: [x for row in asked for x in inner(self, p, [row], r)]
    )
    np.testing.assert_allclose(engine.log_probs(prefix, replies), scored, atol=1e-5)


def test_rows_are_planned_from_free_memory(engine, monkeypatch):
    cpu = torch.device("cpu")
    assert 2**20 < free_bytes(cpu) < 2**50
    assert rows_that_fit(2**60, [cpu]) == 1
    monkeypatch.setattr("rhlens.model.memory.free_bytes", lambda device: 2**30)
    many, few = engine.rows_at_once(256), engine.rows_at_once(8192)
    assert engine.rows_at_once(8192, shared=True) > few
    assert many > 10 * few >= 10


SMALL_MACHINE = """
import os, resource, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import torch; torch.set_num_threads(1)
import rhlens as rh
from rhlens.model import memory
model = rh.load("planted-llama", quiet=True)
trials = rh.niah(model, [1024], 1, needles=8)
first = rh.detect(model, trials)
memory.free_bytes = lambda device: 2**40  # the estimate fails: only the halving is left
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
tries, real = [], rh.measure.detect.PromptReader.read
rh.measure.detect.PromptReader.read = lambda self, prompts: tries.append(len(prompts)) or real(self, prompts)
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]), -1))
again = rh.detect(model, trials)
assert (first.sum_scores == again.sum_scores).all()
print(tries, flush=True)
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
long = rh.niah(model, [8000], 1, needles=1)
def none_left():
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used, -1))
    rh.detect(model, long)
from rhlens.cli import run
sys.argv = ["small"]
run(none_left)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory the Linux way")
def test_a_machine_with_little_memory_gives_the_same_scores_and_one_without_any_a_sentence():
    little = subprocess.run(
        [sys.executable, "-c", SMALL_MACHINE, str(100 << 20)], capture_output=True, text=True, check=False
    )
    assert "[8, 4" in little.stdout, little.stderr
    assert little.returncode == 1
    assert little.stderr.splitlines()[-1].startswith("rhlens: out of memory with a single prompt ")
    assert "Traceback" not in little.stderr
