"""On a GPU (`make test-gpu`): the engine gives there what it gives on a CPU."""

import numpy as np
import pytest
import torch

import rhlens as rh
from rhlens.results.curves import TOP

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_planted_heads_are_found_and_ablated_on_the_gpu(dtype):
    model = rh.load("planted-llama", device="cuda", dtype=dtype, quiet=True)
    trials = rh.niah(model, [256, 1024], 3, needles=7)
    scores = rh.detect(model, trials)
    assert set(scores.retrieval_heads()) == {(2, 3), (2, 6), (3, 1)}
    assert rh.ablate(model, trials, scores, [3], phase="both", draws=1).level(TOP, 3).value <= 0.05


def test_fp32_scores_equal_the_cpus():
    trials = rh.niah(rh.load("nano-qwen2", device="cpu", quiet=True), [256], 3, needles=7)
    cpu, gpu = (rh.detect(rh.load("nano-qwen2", device=d, quiet=True), trials) for d in ("cpu", "cuda"))
    np.testing.assert_array_equal(cpu.sum_scores, gpu.sum_scores)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_model_over_two_gpus_scores_as_on_one():
    parts = ("model.embed_tokens", "model.rotary_emb", "model.layers.0", "model.layers.1")
    after = ("model.layers.2", "model.layers.3", "model.norm", "lm_head")
    spread = rh.load("planted-llama", quiet=True, device_map=dict.fromkeys(parts, 0) | dict.fromkeys(after, 1))
    one = rh.load("planted-llama", "cuda:0", quiet=True)
    trials = rh.niah(spread, [200], 2, needles=2)
    scores = rh.detect(one, trials)
    assert np.array_equal(rh.detect(spread, trials).values, scores.values)
    for verb in (rh.ablate, rh.patch_top):
        verb(spread, trials, scores, k=3, draws=1)
    rh.ablate(spread, trials, scores, k=3, method="mean", phase="both", draws=1)
    rh.patch(spread, trials, attribution=True)
    rh.path_patch(spread, trials, [(2, 3)])
