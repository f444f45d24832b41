"""Claims about what retrieval heads are for, judged on tables whose truth was made up: both ways."""

import numpy as np
import pandas as pd
import pytest

from rhlens.claims.factuality import detects, ordering, predicts, suffices
from rhlens.results.cache import RANDOM, RETRIEVAL, CacheCurve, CacheSize, Window
from rhlens.results.curves import TOP, AblationCurve
from rhlens.results.detection import Detection
from rhlens.results.heads import Head
from rhlens.results.hits import Hits
from rhlens.results.ordering import drops
from rhlens.results.stats import Interval, difference

HEADS = [Head(0, 0), Head(1, 1)]


def hits_that(foretell: bool, everybody: bool = False, n: int = 200, seed: int = 0) -> Hits:
    """Trials of 20 needles; two heads of 32 aim right where the answer is right, or at random; or all heads do."""
    rng = np.random.default_rng(seed)
    right = rng.random(n) < 0.6
    trials = pd.DataFrame({"needle": [f"n{i % 20}" for i in range(n)], "kind": "k", "length": 64, "exact": right,
                           "confidence": rng.normal(size=n)})  # fmt: skip
    aimed = rng.random((n, 4, 8)) < 0.5
    told = (right if foretell else rng.random(n) < 0.6) ^ (rng.random(n) < 0.1)
    for head in [(i, j) for i in range(4) for j in range(8)] if everybody else HEADS:
        aimed[:, head[0], head[1]] = told
    return Hits(trials, aimed.astype(float), aimed, "toy")


def test_activation_predicts_where_it_does_and_only_there():
    assert predicts(hits_that(foretell=True), HEADS).holds
    assert not predicts(hits_that(foretell=False), HEADS).holds


def test_what_any_head_would_show_is_no_sign_of_retrieval_heads():
    claim = predicts(hits_that(foretell=True, everybody=True), HEADS)
    assert claim.statistic.low > 0.5
    assert not claim.holds
    assert "NO, it is above that of as many random heads" in claim.criterion


def curve_of(task: str, top: float, control: float = 0.9, clean: float = 0.9, n: int = 60, draws: int = 5):
    """Answers to n prompts, right with these chances: unablated, without two top heads, without two others."""
    rng, rows = np.random.default_rng(len(task) * 7), []
    for heads, k, count, chance in ((TOP, 0, 1, clean), (TOP, 2, 1, top), ("random", 2, draws, control)):
        for draw in range(count):
            for trial in range(n):
                right = float(rng.random() < chance)
                rows.append({"heads": heads, "k": k, "draw": draw, "trial": trial, "needle": f"{task} {trial}",
                             "recall": right, "exact": right > 0, "logprob": 0.0})  # fmt: skip
    return AblationCurve(pd.DataFrame(rows), "toy")


def test_the_order_holds_where_each_task_loses_more_than_the_next():
    curves = {name: curve_of(name, top) for name, top in (("needle", 0.0), ("chain", 0.4), ("facts", 0.9))}
    claim = ordering(curves, 2)
    assert claim.holds
    assert claim.criterion.count("yes, ") == 2
    assert claim.statistic.value == pytest.approx(
        curves["needle"].contrast(2).value - curves["facts"].contrast(2).value
    )
    backwards = ordering(dict(reversed(curves.items())), 2)
    assert not backwards.holds
    assert backwards.criterion.count("NO, ") == 2


def test_tasks_that_lose_alike_are_in_no_order():
    claim = ordering({name: curve_of(name, 0.3) for name in ("needle", "facts")}, 2)
    assert not claim.holds


def test_a_drop_is_what_goes_beyond_the_controls():
    """A task that any damage breaks loses nothing by the retrieval heads."""
    table = drops({"sums": curve_of("sums", 0.1, control=0.1)}, 2).set_index("task")
    assert table.loc["sums", "low"] < 0 < table.loc["sums", "high"]
    assert table.loc["sums", "unablated"] > 0.6
    with pytest.raises(ValueError, match="two tasks"):
        ordering({"needle": curve_of("needle", 0.1)}, 2)


def test_the_interval_of_a_difference_covers_it():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(300):
        means = [rng.normal(loc, 0.1, (40,)) for loc in (0.7, 0.4)]
        levels = [Interval(x.mean(), *(x.mean() + np.array([-1.96, 1.96]) * x.std() / 40**0.5), 40) for x in means]
        found = difference(*levels)
        covered += found.low <= 0.3 <= found.high
    assert 270 <= covered <= 297
    assert found.n == 80


def cache(retrieval: dict[int, float], random: dict[int, float], n: int = 60) -> CacheCurve:
    """Recall by how many of 8 key-value heads are kept."""
    rng, rows = np.random.default_rng(0), []
    for heads, levels, draws in ((RETRIEVAL, retrieval, 1), (RANDOM, random, 6)):
        for full, chance in levels.items():
            for draw in range(draws):
                for trial in range(n):
                    right = float(rng.random() < chance)
                    rows.append({"heads": heads, "full": full, "draw": draw, "trial": trial, "needle": f"n{trial}",
                                 "recall": right, "length": 100})  # fmt: skip
    return CacheCurve(pd.DataFrame(rows), CacheSize(2, 4, 16, 4), Window(2, 8), [], 2, "toy")


def test_a_small_cache_suffices_only_if_recall_stays_and_random_heads_keep_less():
    assert suffices(cache({2: 1.0, 8: 1.0}, {2: 0.2, 8: 1.0}), 2).holds
    lost = suffices(cache({2: 0.6, 8: 1.0}, {2: 0.2, 8: 1.0}), 2)
    assert not lost.holds
    assert "NO, recall stays" in lost.criterion
    any_heads = suffices(cache({2: 1.0, 8: 1.0}, {2: 1.0, 8: 1.0}), 2)
    assert not any_heads.holds
    assert "NO, more is left" in any_heads.criterion


def detection(absent_support: float, control: float | None = None, n: int = 60) -> Detection:
    """Answers whose needle is there with support around .9, the others around what is given; random heads likewise."""
    rng = np.random.default_rng(0)
    absent = np.arange(2 * n) >= n

    def around(level: float) -> np.ndarray:
        return np.clip(np.where(absent, level, 0.9) + 0.1 * rng.normal(size=2 * n), 0, 1)

    trials = pd.DataFrame({"needle": [f"n{i % n}" for i in range(2 * n)], "absent": absent,
                           "support": around(absent_support)})  # fmt: skip
    return Detection(trials, np.stack([around(0.9 if control is None else control) for _ in range(6)]), HEADS, "toy")


def test_made_up_answers_are_told_where_their_support_is_low():
    claim = detects(detection(0.1))
    assert claim.holds
    assert not detects(detection(0.9)).holds
    by_anybody = detects(detection(0.1, control=0.1))
    assert not by_anybody.holds
    assert "NO, it is above that of as many random heads" in by_anybody.criterion


def test_precision_and_recall_are_counted_at_the_threshold():
    found = detection(0.1)
    alarms = found.trials["support"] < 0.5
    assert found.precision().value == (alarms & found.trials["absent"]).sum() / alarms.sum()
    assert found.recall().value == (alarms & found.trials["absent"]).sum() / found.trials["absent"].sum()
    assert found.summary()["value"].between(0, 1).all()
    silent = detection(0.9)
    silent.trials["support"] = 1.0
    assert np.isnan(silent.precision().value)
    assert silent.recall().value == 0
