"""Planted models: the truth is known, so the whole pipeline must find exactly it and prove it causal."""

import random

import pytest

import rhlens as rh
from rhlens.results.curves import TOP
from rhlens.zoo.planted import planted, random_model

LAYERS, HEADS = 4, 8


def planting(seed: int):
    """A random planting: 1 to 6 copy heads anywhere above layer 0, both architectures, MHA and GQA."""
    rng = random.Random(seed)
    arch = "gpt2" if seed % 3 == 2 else "llama"
    kv_heads = rng.choice([2, 4, 8]) if arch == "llama" else None
    places = [(layer, head) for layer in range(1, LAYERS) for head in range(HEADS)]
    return sorted(rng.sample(places, seed % 6 + 1)), arch, kv_heads


@pytest.mark.parametrize("seed", [*range(21), *(pytest.param(s, marks=pytest.mark.slow) for s in range(21, 81))])
def test_detection_finds_exactly_the_planted_heads_and_only_they_matter(seed, tmp_path):
    copy_heads, arch, kv_heads = planting(seed)
    truth = planted(copy_heads, arch, LAYERS, HEADS, kv_heads, seed)
    model = rh.load(truth.save(tmp_path), quiet=True)
    trials = rh.niah(model, [256], [random.Random(seed).random()], needles=7, distractors=1, seed=seed)
    scores = rh.detect(model, trials)
    assert scores.trials["exact"].all()
    assert set(scores.retrieval_heads(0.1)) == set(truth.copy_heads) == set(copy_heads)

    k = len(copy_heads)
    noise = {rh.Head(a, b) for a in range(LAYERS) for b in range(HEADS)}
    noise -= {*truth.copy_heads, *truth.previous_token_heads}
    without = rh.ablate(model, trials, truth.copy_heads, [k], phase="both", draws=1)
    assert without.level(TOP, k, "exact").value <= 0.05
    rest = rh.ablate(model, trials, random.Random(seed).sample(sorted(noise), k), [k], phase="both", draws=1)
    assert rest.level(TOP, k, "exact").value >= 0.99


@pytest.mark.parametrize("name", ["planted-llama", "planted-gpt2"])
@pytest.mark.parametrize("length", [256, 1024, 2048])
def test_planted_models_answer_at_every_length(name, length):
    model = rh.load(name, quiet=True)
    n = 35 if length == 256 else 7
    trials = rh.niah(model, [length], [0.0, 0.5, 1.0], needles=n, distractors=1, seed=length)
    scores = rh.detect(model, trials)
    assert scores.trials["exact"].mean() >= 0.99


def test_planted_models_answer_the_hand_written_needles_too(planted_llama):
    model, copy_heads = planted_llama
    scores = rh.detect(model, rh.niah(model, [512], [0.2, 0.8]))
    assert scores.n_trials == 30
    assert scores.trials["exact"].all()
    assert set(scores.retrieval_heads()) == copy_heads


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_an_untrained_model_has_no_retrieval_head(arch, tmp_path):
    for seed in range(3):
        model = rh.load(random_model(arch, seed=seed).save(tmp_path / str(seed)), quiet=True)
        scores = rh.detect(model, rh.niah(model, [256], 3, needles=7, seed=seed), max_new_tokens=12)
        assert scores.retrieval_heads() == []
        assert scores.trials["recall"].mean() < 0.05


def test_more_ablation_never_helps_a_planted_model(planted_llama):
    model, copy_heads = planted_llama
    trials = rh.niah(model, [256], 1, needles=7)
    curve = rh.ablate(model, trials, sorted(copy_heads), range(4), phase="both", draws=3)
    levels = [curve.level(TOP, k).value for k in curve.ks]
    assert levels == sorted(levels, reverse=True)
    assert curve.matrix("random", 3).shape == (3, 7)
