import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats as scipy_stats

from rhlens.claims.intrinsic import intrinsic
from rhlens.claims.sparse import sparse
from rhlens.results.compare import RESAMPLES, compare
from rhlens.results.interop import read_scores
from rhlens.results.scores import HeadScores
from rhlens.results.sparsity import bins, by_threshold, gini, gini_ci, retrieval_share, share_ci
from tests.support import shown

# FACTS.md, section 2; the paper's text: 3-6 % of heads retrieve, 45-73 % score exactly 0.
SHARES = {"llama-2-7b-80k": 3.22, "Mistral-7B-v0.2-hf": 4.20, "Mixtral-8x7B-v0.1": 6.15, "Qwen1.5-14B": 3.81}


def scores_of(means, n_trials: int = 20, noise: float = 0.0, seed: int = 0) -> HeadScores:
    rng = np.random.default_rng(seed)
    values = np.repeat(np.asarray(means, float)[None], n_trials, 0)
    values = np.clip(values + noise * rng.normal(size=values.shape) * (values > 0), 0, 1)
    return HeadScores(values, values, pd.DataFrame({"needle": np.arange(n_trials) // 2}), "toy")


@given(arrays.arrays(float, (4, 5), elements=st.floats(0, 1)))
def test_bins_hold_every_head_once(means):
    table = bins(scores_of(means))
    assert table["heads"].sum() == 20
    assert table["share"].sum() == pytest.approx(1)
    assert table["heads"][0] == (means == 0).sum()
    assert table["heads"][2:].sum() == len(scores_of(means).retrieval_heads())


@given(arrays.arrays(float, 12, elements=st.floats(0.01, 1)), st.floats(0.1, 10))
def test_gini_is_that_of_all_pairs_and_knows_no_unit(values, unit):
    pairs = np.abs(values[:, None] - values[None]).mean() / (2 * values.mean())
    assert gini(values) == pytest.approx(pairs, abs=1e-9)
    assert gini(unit * values) == pytest.approx(gini(values), abs=1e-9)


def test_a_head_at_the_edge_of_a_bin_is_in_the_upper_one():
    assert bins(scores_of([[0.0, 0.05, 0.1], [0.1 - 1e-6, 0.5, 1.0]]))["heads"].tolist() == [1, 2, 1, 2]


def test_gini_at_its_ends():
    assert gini(np.ones(10)) == pytest.approx(0)
    assert gini(np.eye(1, 100)) == pytest.approx(0.99)
    assert np.isnan(gini(np.zeros(5)))


@pytest.mark.parametrize("name", SHARES)
def test_published_models_give_the_papers_shares(published, name):
    scores = read_scores(published / f"{name}.json")
    assert 100 * retrieval_share(scores).value == pytest.approx(SHARES[name], abs=0.2)
    assert 0.45 <= bins(scores)["share"][0] <= 0.73
    assert sparse(scores).holds is (name != "Mixtral-8x7B-v0.1"), "5 % is broken by Mixtral"


def test_sparse_says_no_where_many_heads_retrieve_or_none_does():
    many, few = np.zeros((8, 16)), np.zeros((8, 16))
    many[:, :4], few[0, :3] = 0.6, 0.6
    assert not sparse(scores_of(many)).holds
    assert sparse(scores_of(few)).holds
    assert not sparse(scores_of(np.zeros((8, 16)))).holds
    assert "NO, some heads" in str(sparse(scores_of(np.zeros((8, 16)))))


def test_the_share_falls_with_the_threshold(published):
    table = by_threshold(read_scores(published / "llama-2-7b-80k.json"))
    assert (np.diff(table["share"]) <= 0).all()
    assert (table["low"] <= table["share"]).all()


def test_published_families(published):
    llama, mistral, mixtral = (read_scores(published / f"{name}.json") for name in list(SHARES)[:3])
    found = compare(mistral, mixtral)
    assert f"{found.pearson.value:.3f}" == "0.964"
    assert found.pearson.low <= found.pearson.value <= found.pearson.high
    assert found.spearman == pytest.approx(
        scipy_stats.spearmanr(mistral.mean().ravel(), mixtral.mean().ravel()).statistic, abs=1e-9
    )
    assert found.overlap == pytest.approx(32 / 43)
    assert intrinsic(mistral, mixtral, related=True).holds
    assert intrinsic(llama, mistral, related=False).holds
    assert not intrinsic(llama, mistral, related=True).holds
    assert not intrinsic(mistral, mixtral, related=False).holds
    assert "does NOT hold" in str(intrinsic(llama, mistral, related=True))


def test_chance_is_rarely_called_kinship():
    rng = np.random.default_rng(0)
    ps = [compare(scores_of(rng.random((4, 8)) ** 4), scores_of(rng.random((4, 8)) ** 4)).p for _ in range(20)]
    assert np.mean(np.array(ps) < 0.05) <= 0.2
    same = rng.random((4, 8)) ** 4
    assert compare(scores_of(same, noise=0.05), scores_of(same, noise=0.05, seed=1)).pearson.low > 0.8


def test_maps_that_cannot_be_compared_are_one_clear_sentence():
    with pytest.raises(ValueError, match="take models of one shape"):
        compare(scores_of(np.eye(2)), scores_of(np.eye(3)))
    with pytest.raises(ValueError, match="nothing to correlate"):
        compare(scores_of(np.eye(2)), scores_of(np.zeros((2, 2))))
    with pytest.raises(ValueError, match="from 1 to the 4 heads there are, not 5"):
        compare(scores_of(np.eye(2)), scores_of(np.eye(2)), k=5)
    with pytest.raises(ValueError, match="from 1 to"):
        compare(scores_of(np.eye(2)), scores_of(np.eye(2)), k=0)


def test_the_share_at_a_threshold_counts_heads_at_or_above_it():
    scores = scores_of([[0.0, 0.05, 0.1, 0.3], [0.5, 0.5, 0.9, 1.0]])
    table = by_threshold(scores, np.array([0.1, 0.5, 1.0]))
    assert list(table) == ["threshold", "share", "low", "high", "n", "clusters"]
    assert table["threshold"].tolist() == [0.1, 0.5, 1.0]
    assert table["share"].tolist() == [6 / 8, 4 / 8, 1 / 8]
    assert (table[["low", "high", "n"]] == table[["share", "share"]].assign(n=20).to_numpy()).all(None), "no noise"
    assert share_ci(scores, 0.1, 0.5).value == 2 / 8, "up to the next threshold, without it"
    usual = by_threshold(scores)["threshold"]
    assert (usual.iloc[0], usual.iloc[4], usual.iloc[-1], len(usual)) == (0.02, 0.1, 0.9, 45)


def test_intervals_of_spread_resample_needles():
    scores = scores_of(np.linspace(0, 0.4, 20).reshape(4, 5), noise=0.2)
    for found in (retrieval_share(scores), gini_ci(scores)):
        assert found.low < found.value < found.high
        assert found.n == 20
    assert gini_ci(scores).value == pytest.approx(gini(scores.mean()))
    of_bins = bins(scores)
    assert list(of_bins) == ["score", "heads", "share", "low", "high"]
    assert (of_bins["low"] <= of_bins["share"]).all()
    assert (of_bins["share"] <= of_bins["high"]).all()


def test_a_comparison_says_how_rare_it_is_among_random_pairings():
    rng = np.random.default_rng(0)
    values = rng.random((4, 8)) ** 4
    same, opposite = compare(scores_of(values), scores_of(values)), compare(scores_of(values), scores_of(1 - values))
    assert same.pearson[:3] == (pytest.approx(1), pytest.approx(1), pytest.approx(1))
    assert (same.pearson.n, same.spearman, same.overlap, same.unit) == (20, pytest.approx(1), 1, "query head")
    assert same.p == 1 / (1 + RESAMPLES)
    assert opposite.p == 1
    assert opposite.spearman == pytest.approx(-1)
    assert same.k == len(scores_of(values).retrieval_heads())
    assert same.expected == same.k / 32
    assert 0.1 < same.chance < 0.6, "about 1.6 / sqrt(31)"
    pairings = np.array([np.corrcoef(values.ravel(), rng.permutation(values.ravel()))[0, 1] for _ in range(2000)])
    assert same.chance == pytest.approx(np.quantile(pairings, 0.95), abs=0.08)


def test_a_comparison_is_seeded_and_resamples_both_models():
    a, b = (scores_of(np.random.default_rng(i).random((4, 8)), noise=0.3, seed=i) for i in (0, 1))
    assert compare(a, b) == compare(a, b) != compare(a, b, seed=1)
    sure = scores_of(b.mean())
    width = {name: compare(*pair).pearson for name, pair in {"both": (a, b), "one": (a, sure)}.items()}
    assert 0 < width["one"].high - width["one"].low < width["both"].high - width["both"].low
    few = HeadScores(b.values[:6], b.values[:6], b.trials[:6])
    assert compare(a, few).pearson.n == compare(few, a).pearson.n == 6


def test_a_comparison_shows_its_numbers():
    found = compare(scores_of(np.eye(2)), scores_of(np.eye(2)))
    page = shown(found)
    assert page.line == "Comparison of query heads: the top 2 share 100%"
    assert page.headings == ["statistic", "value", "low", "high"]
    assert [row[0] for row in page.rows] == ["pearson", "spearman", "overlap", "chance", "p", "expected"]
    assert page.rows[0][1:] == ["1.000"] * 3
    assert page.rows[5][1:] == ["0.500", "", ""]
