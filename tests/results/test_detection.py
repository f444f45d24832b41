"""Made-up answers told by their support, counted by hand."""

import numpy as np
import pandas as pd
import pytest

import rhlens as rh
from rhlens.results.detection import Detection
from rhlens.results.prediction import auroc

NEEDLES = list("aabbccdd")
ABSENT = np.array([1, 0] * 4, dtype=bool)
SUPPORT = np.array([0.1, 0.9, 0.2, 0.4, 0.7, 0.8, 0.0, 0.5])
CONTROL = np.random.default_rng(0).random((3, 8))


def detection(support=SUPPORT, needles=NEEDLES, **about) -> Detection:
    trials = pd.DataFrame({"needle": needles, "absent": ABSENT, "support": support})
    return Detection(trials, CONTROL, [rh.Head(0, 0)], **about)


def test_an_alarm_is_an_answer_with_too_little_support():
    assert detection().alarms.tolist() == [True, False, True, True, False, False, True, False], "half is enough"
    assert detection(threshold=0.15).alarms.sum() == 2


def test_precision_counts_alarms_and_recall_counts_made_up_answers():
    assert detection().precision()[::3] == (3 / 4, 4)
    assert detection().recall()[::3] == (3 / 4, 4)
    assert detection(threshold=0.85).precision()[::3] == (4 / 7, 7)
    assert detection(threshold=0.85).recall()[::3] == (1, 4)
    silent = detection(np.ones(8))
    assert np.isnan(silent.precision().value)
    assert silent.recall().value == 0


def test_needles_are_what_is_resampled():
    one = detection(needles=["a"] * 8)
    assert one.precision().high - one.precision().low > detection().precision().high - detection().precision().low
    for area in (one.area(), one.control_area(), one.advantage()):
        assert np.isnan(area.low), "a single needle has no interval"
        assert not np.isnan(area.value)


def test_less_support_tells_a_made_up_answer():
    pairs = [a < b for a in SUPPORT[ABSENT] for b in SUPPORT[~ABSENT]]
    assert detection().area().value == np.mean(pairs)
    assert detection(-SUPPORT).area().value == 1 - np.mean(pairs)
    by_chance = [a < b for draw in CONTROL for a in draw[ABSENT] for b in draw[~ABSENT]]
    assert detection().control_area().value == pytest.approx(np.mean(by_chance))
    assert detection().advantage().value == pytest.approx(np.mean(pairs) - np.mean(by_chance))
    assert detection().advantage() == auroc(ABSENT, -SUPPORT, NEEDLES, minus=-CONTROL)


def test_the_summary_has_every_number_with_its_interval():
    found = detection(threshold=0.25)
    table = found.summary().set_index("measure")
    expected = {
        "precision (support below 0.25)": found.precision(),
        "recall (support below 0.25)": found.recall(),
        "AUROC": found.area(),
        "AUROC of random heads": found.control_area(),
    }
    assert list(table.index) == list(expected)
    for name, interval in expected.items():
        assert tuple(table.loc[name, ["value", "low", "high", "n", "clusters"]]) == interval
