"""The shipped, trained model does what the README says of it, on needles it has never seen."""

import pytest

import rhlens as rh
from rhlens.results.curves import TOP
from rhlens.results.stats import mean_ci


@pytest.fixture(scope="module")
def nano():
    return rh.load("nano-qwen2", quiet=True)


@pytest.fixture(scope="module", params=[256, 512])
def detected(request, nano):
    trials = rh.niah(nano, [request.param], 5, needles=28, distractors=1, seed=request.param)
    assert all(t.needle.held_out for t in trials)
    return trials, rh.detect(nano, trials)


def test_it_answers_held_out_needles_beside_a_distractor(detected):
    trials, scores = detected
    exact = mean_ci(scores.trials["exact"].to_numpy(dtype=float), scores.needles)
    assert exact.n == 140
    assert exact.value >= (0.90 if trials[0].length == 256 else 0.85), exact
    by_kind = scores.trials.groupby("kind")["exact"].mean()
    assert len(by_kind) == 7
    assert by_kind.min() >= 0.75, by_kind


def test_few_of_its_64_heads_retrieve(detected):
    _, scores = detected
    assert scores.n_layers * scores.n_heads == 64
    assert 1 <= len(scores.retrieval_heads()) <= 16


def test_retrieval_heads_emerge_at_the_same_places_at_both_lengths(nano):
    a, b = (rh.detect(nano, rh.niah(nano, [n], 2, needles=14, seed=n)) for n in (200, 400))
    assert set(a.retrieval_heads(0.5)) == set(b.retrieval_heads(0.5))


def test_without_them_it_cannot_answer_and_without_others_it_can(nano):
    trials = rh.niah(nano, [256], 3, needles=14, distractors=1)
    scores = rh.detect(nano, trials)
    k = max(10, len(scores.retrieval_heads()))
    curve = rh.ablate(nano, trials, scores, [k], phase="both", draws=5)
    assert rh.causal(curve, k).holds, rh.causal(curve, k)
    assert curve.level(TOP, k, "exact").value <= 0.1
    assert curve.level("random", k, "exact").value >= 0.6
