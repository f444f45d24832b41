"""The universal property, judged on models whose answers and scores were made up to be of each kind."""

import numpy as np
import pandas as pd
import pytest

import rhlens as rh
from rhlens.claims.universal import CONTROL, recall_of, universal, universal_overall
from rhlens.measure.recall import chance_recall, rouge1_recall
from rhlens.results.curves import AblationCurve
from rhlens.results.interop import read_scores
from rhlens.results.scores import HeadScores

NEEDLES, EACH = 20, 3
ANSWERS = [f"word{i} thing{i}" for i in range(NEEDLES)]
HEADS, NONE = [0.8, 0.3, 0.0, 0.0], [0.02, 0.0, 0.0, 0.0]


def model(share: float, means, said="nothing at all") -> HeadScores:
    """A model that answers this share of needles rightly, and `said` else; all trials score the same."""
    rows = [
        {"needle": f"needle {i}", "kind": f"kind {i % 4}", "answer": answer,
         "output": answer if i < share * NEEDLES else said}
        for i, answer in enumerate(ANSWERS) for _ in range(EACH)
    ]  # fmt: skip
    trials = pd.DataFrame(rows)
    trials["recall"] = [rouge1_recall(row["answer"], row["output"]) for row in rows]
    values = np.broadcast_to(np.reshape(means, (2, 2)), (len(rows), 2, 2)).copy()
    return HeadScores(values, values, trials, "toy")


def ablated(top: float, others: float, k: int = 2, draws: int = 4) -> AblationCurve:
    """Recall without the top heads and without others, alike for all needles but for a little noise."""
    rng = np.random.default_rng(0)
    rows = [
        {"heads": heads, "k": n, "draw": draw, "trial": i, "needle": f"needle {i}", "exact": False,
         "recall": float(np.clip(level + 0.05 * rng.normal(), 0, 1))}
        for heads, n, level, sets in (("top", 0, others, 1), ("top", k, top, 1), ("random", k, others, draws))
        for draw in range(sets) for i in range(NEEDLES)
    ]  # fmt: skip
    return AblationCurve(pd.DataFrame(rows), "toy")


@pytest.mark.parametrize(
    ("scores", "curve", "name", "holds"),
    [
        (model(1.0, HEADS), ablated(0.0, 0.9), "universal", True),
        (model(1.0, HEADS), ablated(0.6, 0.9), "universal", True),  # needed is enough, destroyed is another claim
        (model(1.0, HEADS), ablated(0.9, 0.9), "universal", False),  # it has heads, and does not need them
        (model(1.0, HEADS), ablated(0.1, 0.1), "universal", False),  # any damage breaks it: the control refutes
        (model(1.0, HEADS), None, "universal", False),  # that it needs them was not measured
        (model(1.0, NONE), None, "universal", False),  # it retrieves without such heads
        (model(0.0, NONE), None, CONTROL, True),
        (model(0.0, HEADS), ablated(0.0, 0.0), CONTROL, True),  # heads that copy to no avail
        (model(0.0, HEADS), ablated(0.0, 0.4), CONTROL, False),  # it cannot, but needs them: refuted
        (model(0.0, HEADS), None, CONTROL, False),
        (model(0.4, HEADS), ablated(0.0, 0.4), "universal", False),  # retrieves a little: neither
    ],
)
def test_the_claim_says_yes_and_no_rightly(scores, curve, name, holds):
    claim = universal(scores, curve)
    assert (claim.property, claim.holds) == (name, holds)
    assert ("does NOT hold" in str(claim)) is not holds
    assert ("NO, " in claim.criterion) is not holds


def test_style_alone_is_no_retrieval():
    """Answers that fit any needle of the kind have recall, and no more than chance gives."""
    scores = model(0.0, NONE)
    trials = scores.trials.assign(answer=[f"the {a}" for a in scores.trials["answer"]], output="the end")
    trials["recall"] = [rouge1_recall(a, o) for a, o in zip(trials["answer"], trials["output"], strict=True)]
    found = recall_of(HeadScores(scores.set_scores, scores.sum_scores, trials, "toy"))
    assert found.level.value == pytest.approx(1 / 3)
    assert found.gain.value == 0
    assert found.cannot


def test_chance_is_the_recall_of_another_needle_of_the_kind():
    trials = pd.DataFrame(
        {
            "needle": ["n1", "n2", "n3", "n4"],
            "kind": ["a", "a", "b", "a"],
            "answer": ["red", "blue", "green", "white"],
            "output": ["red blue", "white", "red", "white"],
        }
    )
    others = {"n1": "blue", "n2": "white", "n4": "red", "n3": "red"}  # n3 is alone: the next of all
    expected = [rouge1_recall(others[n], o) for n, o in zip(trials["needle"], trials["output"], strict=True)]
    assert list(chance_recall(trials)) == expected == [1, 1, 1, 0]
    turned = trials.iloc[::-1]
    assert list(chance_recall(turned)) == expected[::-1], "the order of trials does not matter"
    assert np.isnan(chance_recall(trials[:1])).all()


def test_all_models_together_need_both_sides():
    holds, control = universal(model(1.0, HEADS), ablated(0, 0.9)), universal(model(0.0, NONE))
    fails = universal(model(1.0, NONE))
    assert universal_overall([holds, control]).holds
    assert not universal_overall([holds, holds]).holds, "no control"
    assert not universal_overall([control, control]).holds, "nothing that retrieves"
    refuted = universal_overall([holds, control, fails])
    assert not refuted.holds
    assert refuted.statistic.value == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="name one or more"):
        universal_overall([])


def test_published_scores_say_what_they_do_not_test(published):
    for path in sorted(published.glob("*.json")):
        claim = universal(read_scores(path))
        assert claim.holds
        assert claim.property == "universal, by scores alone"
        assert "not tested" in claim.control


def test_planted_and_random_models(planted_llama, tiny_llama):
    llama, heads = planted_llama
    trials = rh.niah(llama, [256], [0.5], needles=7, distractors=1)
    scores = rh.detect(llama, trials)
    curve = rh.ablate(llama, trials, scores, [len(heads)], phase="both", draws=2)
    claim = universal(scores, curve)
    assert (claim.property, claim.holds) == ("universal", True)
    untrained = rh.detect(tiny_llama, rh.niah(tiny_llama, [256], [0.5], needles=7, distractors=1))
    claim = universal(untrained)
    assert (claim.property, claim.holds) == (CONTROL, True)


@pytest.mark.slow
def test_the_interval_of_what_is_needed_covers_the_truth():
    """Recall that varies with needle, with control draw and from trial to trial."""
    covered, truth, needles, draws = 0, 0.5, 14, 10
    for seed in range(500):
        rng = np.random.default_rng(seed)
        of_needle, of_draw = rng.normal(0, 0.1, needles), rng.normal(0, 0.05, draws)
        top = [("top", 0, i, 0.3 + x + rng.normal(0, 0.05)) for i, x in enumerate(of_needle)]
        others = [
            ("random", d, i, 0.3 + truth - x + y + rng.normal(0, 0.05))
            for d, y in enumerate(of_draw) for i, x in enumerate(of_needle)
        ]  # fmt: skip
        answers = pd.DataFrame([*top, *others], columns=["heads", "draw", "trial", "recall"]).assign(k=4)
        ci = AblationCurve(answers.assign(needle=answers["trial"])).contrast(4)
        covered += ci.low <= truth <= ci.high
    assert covered / 500 >= 0.9
