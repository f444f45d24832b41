"""Scores against what other projects publish: what can be compared is, and what is odd about it is said."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats as scipy_stats

from rhlens.results.anomalies import anomalies, differences
from rhlens.results.compare import compare
from rhlens.results.head_tables import HeadList, KVHeadScores
from rhlens.results.heads import Head
from rhlens.results.interop import read_scores
from rhlens.results.scores import HeadScores

MISTRAL = "Mistral-7B-Instruct-v0.2"


def scores_of(values, labels: dict | None = None, **options) -> HeadScores:
    values = np.asarray(values, dtype=float)
    trials = pd.DataFrame(labels or {"needle": range(len(values))}).assign(recall=1.0)
    return HeadScores(np.minimum(values, 1), values, trials, "toy", **options)


def published_scores(values) -> HeadScores:
    """As a file of Wu 2024 is read: sums, gated, without labels."""
    values = np.asarray(values, dtype=float)
    trials = pd.DataFrame({"trial": range(len(values))})
    return HeadScores(None, values, trials, "toy", protocol="wu2024", gated=True)


def has(sentences: list[str], *parts: str) -> bool:
    return any(all(part in sentence for part in parts) for sentence in sentences)


def test_query_heads_are_pooled_to_the_key_value_heads_that_they_share():
    values = np.random.default_rng(0).random((6, 3, 8))
    gates = KVHeadScores(np.random.default_rng(1).random((3, 2)))
    scores, best = scores_of(values), np.zeros((3, 2))
    for layer, head in itertools.product(range(3), range(8)):
        best[layer, head // 4] = max(best[layer, head // 4], values[:, layer, head].mean())
    found = compare(scores, gates, k=2)
    assert found.unit == "key-value head"
    assert found.pearson.value == pytest.approx(np.corrcoef(best.ravel(), gates.values.ravel())[0, 1])
    assert found.spearman == pytest.approx(scipy_stats.spearmanr(best.ravel(), gates.values.ravel()).statistic)
    top = {tuple(np.argwhere(m == v)[0]) for m in (best,) for v in np.sort(m.ravel())[-2:]}
    assert found.overlap == len(top & {tuple(h) for h in gates.top(2)}) / 2
    assert found.expected == 2 / 6
    assert found.pearson.low < found.pearson.value < found.pearson.high
    swapped = compare(gates, scores, k=2)
    assert (swapped.pearson.value, swapped.overlap) == (pytest.approx(found.pearson.value), found.overlap)
    assert compare(gates, scores).k == compare(scores, gates).k == 6, "all groups score above .1"


def test_gates_alone_have_no_interval_and_count_from_a_half():
    one, two = KVHeadScores(np.array([[1.0, 0.6, 0.1]])), KVHeadScores(np.array([[0.9, 0.2, 0.5]]))
    found = compare(one, two)
    assert found.k == 2
    assert found.overlap == 0.5
    assert np.isnan([found.pearson.low, found.pearson.high]).all()
    assert found.pearson.n == 0


@pytest.mark.parametrize(("shape", "gates"), [((2, 8), (2, 3)), ((2, 8), (3, 4)), ((2, 4), (2, 8))])
def test_tables_of_other_models_are_refused(shape, gates):
    scores, table = (
        scores_of(np.random.default_rng(0).random((2, *shape))),
        KVHeadScores(np.random.default_rng(1).random(gates)),
    )
    for pair in ((scores, table), (table, scores)):
        with pytest.raises(ValueError, match="key-value heads cannot be compared head by head"):
            compare(*pair)


@given(arrays(float, 5, elements=st.sampled_from([0.0, 0.5, 1.0])), st.permutations(range(5)), st.integers(1, 5))
def test_ties_for_the_last_places_are_broken_in_every_way(values, listed, k):
    orders = [order for order in itertools.permutations(range(5)) if (np.diff(values[list(order)]) <= 0).all()]
    overlaps = [len(set(order[:k]) & set(listed[:k])) / k for order in orders]
    heads = HeadList(tuple(Head(0, head) for head in listed))
    assert compare(scores_of(values[None, None]), heads, k).overlap == pytest.approx(np.mean(overlaps))


def test_gates_that_tie_have_no_order_among_them():
    gates, scores = KVHeadScores(np.array([[1.0, 1.0, 1.0, 0.0]])), scores_of([[[0.0, 0.2, 0.4, 0.9]]])
    assert [compare(gates, scores, k).overlap for k in (1, 2, 3, 4)] == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_a_list_is_compared_at_the_top_only():
    values = np.zeros((2, 2, 4))
    values[:, 0, 1], values[:, 1, 3], values[:, 1, 0] = 0.9, 0.8, 0.7
    heads = HeadList((Head(0, 1), Head(1, 0), Head(0, 0)))
    found = compare(scores_of(values), heads, k=2)
    assert (found.overlap, found.k, found.expected) == (0.5, 2, 2 / 8)
    assert np.isnan([found.pearson.value, found.spearman, found.p, found.chance]).all()
    assert found.pearson.n == 0
    assert compare(heads, scores_of(values)).overlap == pytest.approx(2 / 3), "the whole list by default"
    other = HeadList((Head(1, 0), Head(0, 1)))
    assert compare(heads, other).overlap == 1
    assert np.isnan(compare(heads, other).expected)
    with pytest.raises(ValueError, match=r"L1H0 is not a head of this model"):
        compare(heads, scores_of(values[:, :1]))
    with pytest.raises(ValueError, match="from 1 to the 3"):
        compare(heads, scores_of(values), k=4)
    with pytest.raises(ValueError, match="neither says which query heads share"):
        compare(KVHeadScores(np.eye(2)), heads)
    with pytest.raises(ValueError, match="not a head"):
        compare(HeadList((Head(1, 10**9),)), scores_of(values))


# FACTS.md, section 2, and counted in the files themselves.
@pytest.mark.parametrize(
    ("name", "silent", "above", "most", "mean", "distinct"),
    [
        ("wu2024/llama-2-7b-80k", 0, 0, "", "", "6 of 586 trials equal another one in every head (580 are"),
        ("wu2024/Mistral-7B-v0.2-hf", 0, 0, "", "", "288 of 362 trials equal another one in every head (74 are"),
        ("wu2024/Mixtral-8x7B-v0.1", 0, 13, "1.79", "", "312 of 390 trials equal another one in every head (78 are"),
        ("wu2024/Qwen1.5-14B", 8, 81, "1.65", "L12H2 1.003", "271 of 390 trials equal another one in every head (111"),
        (
            f"headkv/{MISTRAL}_retrieval_heads",
            0,
            3,
            "1.20",
            "",
            "27 of 148 trials equal another one in every head (121",
        ),
    ],
)
def test_anomalies_of_the_published_scores(published, name, silent, above, most, mean, distinct):
    scores = read_scores(published.parent / f"{name}.json", HeadScores)
    said = anomalies(scores)
    n = scores.n_trials
    assert has(said, f"passed the recall gate are there ({n})")
    assert has(said, "no labels")
    assert has(said, "score 0 in every head") is (silent > 0)
    assert has(said, f"{silent} of {n} trials score 0 in every head", "needle that was not found") is (silent > 0)
    assert has(said, "exceed 1") is (above > 0)
    assert has(said, f"in {above} of {n} trials exceed 1 (up to {most})", "repeats too") is (above > 0)
    assert has(said, "so do means") is bool(mean)
    assert has(said, mean)
    assert has(said, distinct)


@pytest.mark.parametrize(
    ("name", "size", "below", "tied"), [(MISTRAL, 8, 5, 110), ("Llama-2-7B-32K-Instruct", 32, 274, 145)]
)
def test_anomalies_of_published_gates(published, name, size, below, tied):
    said = anomalies(read_scores(published.parent / "duo_attention" / f"{name}.tsv"))
    assert has(said, f"{size} key-value heads a layer")
    assert has(said, f"{below} of {32 * size} values are below 0")
    assert has(said, f"{tied} of {32 * size} values are the highest (1)")


def test_scores_of_our_own_with_nothing_odd_have_no_anomaly():
    values = np.random.default_rng(0).random((4, 2, 3))
    assert anomalies(scores_of(values)) == []
    assert anomalies(KVHeadScores(np.array([[0.1, 0.2]]))) == [anomalies(KVHeadScores(np.array([[0.9, 0.2]])))[0]]
    assert has(anomalies(HeadList((Head(0, 0), Head(1, 1)))), "2 heads without scores")


def test_each_anomaly_is_told_from_its_absence():
    plain = np.random.default_rng(0).random((4, 2, 3))
    above, silent, repeated = plain.copy(), plain.copy(), plain.copy()
    above[1, 0, 2], silent[2], repeated[3] = 1.5, 0, plain[0]
    assert len(usual := anomalies(published_scores(plain))) == 2
    for values, sentence in (
        (above, "scores in 1 of 4 trials exceed 1 (up to 1.50)"),
        (silent, "1 of 4 trials score 0 in every head"),
        (repeated, "1 of 4 trials equal another one in every head (3 are distinct)"),
    ):
        said = anomalies(published_scores(values))
        assert len(said) == len(usual) + 1
        assert has(said, sentence)
    always = above.copy()
    always[:, 0, 2], always[:, 1, 1] = 1.25, 1.0
    assert has(anomalies(published_scores(always)), "(up to 1.25)", "; so do means (L0H2 1.250)")
    assert has(anomalies(scores_of(silent)), "no head copied anything")
    assert not has(anomalies(scores_of(above)), "exceed 1"), "set scores are read, and they do not"
    assert not has(anomalies(scores_of(repeated)), "equal another"), "trials with labels are known to be others"
    unanswered = scores_of(plain).trials.assign(recall=[1.0, 0.5, 0.2, 0.9])
    own = replace(scores_of(plain), trials=unanswered, protocol="wu2024")
    assert has(anomalies(own), "2 of 4 trials do not count")
    none = replace(own, trials=unanswered.assign(recall=0.0))
    assert has(anomalies(none), "no trial counts")


def test_differences_between_two_files():
    values = np.random.default_rng(0).random((4, 2, 4))
    labels = {"needle": list("abcd"), "length": [256] * 4, "depth": [0.0] * 4}
    own, sums = scores_of(values, labels), published_scores(values)
    assert differences(own, scores_of(values * 0.5, labels)) == []
    assert has(differences(own, scores_of(values, labels | {"depth": [0.5] * 4})), "4 in each, but with other")
    assert has(differences(own, scores_of(values[:3])), "4 in the first, 3 in the second")
    assert has(differences(sums, published_scores(values)), "unknown whether they are the same")
    assert has(differences(own, sums), "protocols differ (paper, wu2024)")
    assert has(differences(own.under("wu2024"), sums), "only one is cut to answered trials")
    gates = KVHeadScores(np.ones((2, 2)))
    for pair in ((own, gates), (gates, own)):
        assert has(differences(*pair), "4 query heads a layer against 2 key-value heads", "best of the 2")
        assert has(differences(*pair), "only one has trials")
    assert has(differences(own, KVHeadScores(np.ones((2, 4)))), "there are 4 a layer of both")
    assert has(differences(gates, gates), "no interval")
    assert has(differences(HeadList((Head(0, 0),)), own), "only the heads at the top")


def test_published_mistral_gates_rank_other_heads_than_retrieval_scores(published):
    scores = read_scores(published.parent / "headkv" / f"{MISTRAL}_retrieval_heads.json", HeadScores)
    found = compare(scores, read_scores(published.parent / "duo_attention" / f"{MISTRAL}.tsv"))
    assert f"{found.pearson.value:.3f}" == "0.144"
    assert f"{found.spearman:.2f}" == "0.52"
    assert found.k == 32
    assert found.overlap == pytest.approx(24 / 110), "24 groups that retrieve are among 110 that tie at the top"
