import json

import numpy as np
import pandas as pd
import pytest

from rhlens.results.cache import Window
from rhlens.results.head_tables import HeadList, KVHeadScores
from rhlens.results.heads import Head
from rhlens.results.interop import read_scores, write_duo_attention, write_scores
from rhlens.results.scores import HeadScores

# FACTS.md, section 2: computed from the released files.
TABLE = {
    "llama-2-7b-80k": (32, 586, 33, "3.22", 6, 12,
                       {"L16H19": 0.943, "L11H15": 0.920, "L8H26": 0.800, "L6H9": 0.618, "L7H12": 0.614}),
    "Mistral-7B-v0.2-hf": (32, 362, 43, "4.20", 5, 31, {"L18H0": 0.943, "L12H7": 0.928, "L12H6": 0.774}),
    "Mixtral-8x7B-v0.1": (32, 390, 63, "6.15", 7, 40, {"L12H7": 0.945, "L18H0": 0.926, "L18H2": 0.923}),
    "Qwen1.5-14B": (40, 390, 61, "3.81", 10, 0, {"L12H2": 1.003, "L14H12": 1.000, "L23H16": 0.923}),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_published_files_give_the_published_numbers(published, name):
    size, trials, at_tenth, share, at_half, always_on, top = TABLE[name]
    scores = read_scores(published / f"{name}.json")
    assert (scores.n_layers, scores.n_heads, scores.n_trials) == (size, size, trials)
    found = scores.retrieval_heads()
    assert len(found) == at_tenth
    assert f"{100 * len(found) / size**2:.2f}" == share
    assert len(scores.retrieval_heads(0.5)) == at_half
    assert (scores.activation_frequency() == 1).sum() == always_on
    mean = scores.mean()
    assert {str(h): f"{mean[h]:.3f}" for h in scores.top(len(top))} == {h: f"{s:.3f}" for h, s in top.items()}


def test_related_models_correlate_and_unrelated_ones_do_not(published):
    mean = {name: read_scores(published / f"{name}.json").mean().ravel() for name in list(TABLE)[:3]}
    llama, mistral, mixtral = mean.values()
    assert f"{np.corrcoef(mistral, mixtral)[0, 1]:.3f}" == "0.964"
    assert abs(np.corrcoef(llama, mistral)[0, 1]) <= 0.024


def test_one_kind_of_object_whatever_the_file(tmp_path):
    path = tmp_path / "toy.json"
    path.write_text(json.dumps({"0-0": [0.5, 1.5], "0-1": [0, 0], "1-0": [1, 1], "1-1": [0, 0.1]}))
    scores = read_scores(path)
    np.testing.assert_allclose(scores.mean(), [[1.0, 0.0], [1.0, 0.05]])
    assert scores.top(1) == [Head(0, 0)]
    assert scores.protocol == "wu2024"
    again = read_scores(scores.save(tmp_path / "toy.safetensors"))
    np.testing.assert_array_equal(again.mean(), scores.mean())
    with pytest.raises(ValueError, match="sums only"):
        scores.under("paper")


@pytest.mark.parametrize(
    "text",
    [
        "", "[", "[]", "{}", "3", '{"a": [1]}', '{"0-0": 1}', '{"0-0": [1], "0-1": [1, 2]}', '{"0-0": ["x"]}',
        '{"0-1": [1]}', '{"0-0": [[1]]}', '{"0-0": [NaN]}', '{"0-0": [-1]}', "[" * 100_000, '{"0-0": []}',
    ],
)  # fmt: skip
def test_files_of_another_form_are_one_clear_sentence(tmp_path, text):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.json"):
        read_scores(path)


def test_headkv_publishes_the_same_form(published):
    scores = read_scores(published.parent / "headkv" / "Mistral-7B-Instruct-v0.2_retrieval_heads.json", HeadScores)
    assert scores.values.shape == (148, 32, 32)
    assert f"{scores.mean()[scores.top(1)[0]]:.3f}" == "0.885"


@pytest.mark.parametrize(("name", "size"), [("Mistral-7B-Instruct-v0.2", 8), ("Llama-2-7B-32K-Instruct", 32)])
def test_published_gates_are_values_of_key_value_heads_and_no_scores(published, name, size):
    path = published.parent / "duo_attention" / f"{name}.tsv"
    gates = read_scores(path)
    assert isinstance(gates, KVHeadScores)
    assert (gates.n_layers, gates.n_kv_heads, gates.model) == (32, size, name)
    np.testing.assert_array_equal(gates.values, np.loadtxt(path, delimiter="\t"))
    assert gates.top(3) == [Head(*divmod(int(i), size)) for i in np.argsort(-gates.values.ravel(), kind="stable")[:3]]
    with pytest.raises(
        ValueError, match=f"{name}.tsv holds values of key-value heads .* give a file of scores of query"
    ):
        read_scores(path, HeadScores)


def test_a_published_list_keeps_its_order_and_gets_no_scores(published):
    path = published.parent / "qrhead" / "Llama-3.1-8B-Instruct_qr_head_LME.yaml"
    heads = read_scores(path, HeadScores, HeadList)
    assert isinstance(heads, HeadList)
    assert (len(heads), heads.model) == (16, "Llama-3.1-8B-Instruct")
    assert heads.top(3) == list(heads[:3]) == [Head(13, 18), Head(13, 21), Head(8, 11)]
    assert repr(heads) == "HeadList(Llama-3.1-8B-Instruct: 16 heads; L13H18, L13H21, L8H11, ...)"
    with pytest.raises(ValueError, match="holds a list of heads without scores: give a file of scores of query heads"):
        read_scores(path, HeadScores)


@pytest.mark.parametrize(
    ("content", "suffix", "kind"),
    [
        ('\ufeff {"0-0": [1, 0]}', "json", HeadScores), ("0.5\t-0.1\r\n1\t0\r\n", "tsv", KVHeadScores),
        ('attn_head_set: "1-2, 0-3" # top', "yaml", HeadList),
    ],
)  # fmt: skip
def test_the_form_is_told_by_the_suffix_or_by_what_is_there(tmp_path, content, suffix, kind):
    for name in (f"a.{suffix}", f"a.{suffix.upper()}", "a.txt", "a"):
        (tmp_path / name).write_bytes(content.encode())
        assert type(read_scores(tmp_path / name)) is kind
        assert read_scores(tmp_path / name).model == "a"
    (tmp_path / "a.txt").write_text("what?")
    with pytest.raises(ValueError, match=r"a\.txt is no score file of a known form"):
        read_scores(tmp_path / "a.txt")


def test_duo_attentions_own_file_name_says_nothing_so_the_folder_does(tmp_path):
    scores = scores_of(np.full((2, 3, 4), 0.5))
    folder = write_duo_attention(scores, tmp_path / "mine", 2, Window())
    for path in (folder / "full_attention_heads.tsv", folder):
        back = read_scores(path, KVHeadScores)
        assert back.model == "mine"
        np.testing.assert_array_equal(back.values, np.full((3, 2), 0.5))


@pytest.mark.parametrize("found", [KVHeadScores(np.eye(2)), HeadList((Head(0, 0),))])
def test_k_is_never_counted_from_the_end(found):
    assert found.top(1) == [Head(0, 0)]
    assert found.top(0) == []
    with pytest.raises(ValueError, match="0 or more"):
        found.top(-1)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_scores(tmp_path / "no.json")


def scores_of(values) -> HeadScores:
    trials = pd.DataFrame({"trial": range(len(values)), "recall": [1.0] * (len(values) - 1) + [0.0]})
    return HeadScores(np.minimum(values, 1), values, trials, "toy")


def test_written_scores_are_read_back_as_published_ones_are(tmp_path):
    values = np.random.default_rng(0).random((5, 3, 4)) * 1.2
    back = read_scores(write_scores(scores_of(values), tmp_path / "head_score.json"))
    assert back.protocol == "wu2024"
    assert back.n_trials == 4, "the unanswered trial is left out, as published files do"
    np.testing.assert_array_equal(back.mean(), values[:4].mean(0))
    with pytest.raises(ValueError, match="no trial was answered"):
        write_scores(scores_of(values[4:]), tmp_path / "none.json")


def test_duo_attention_is_given_the_best_query_head_of_each_key_value_head(tmp_path):
    values = np.random.default_rng(0).random((5, 3, 4)) * 1.2
    scores = scores_of(values)
    folder = write_duo_attention(scores, tmp_path, 2, Window(3, 40))
    table = np.loadtxt(folder / "full_attention_heads.tsv", dtype=float, delimiter="\t")
    mean = scores.mean()
    expected = [[max(mean[layer, 2 * group], mean[layer, 2 * group + 1]) for group in range(2)] for layer in range(3)]
    np.testing.assert_allclose(table, np.minimum(expected, 1))
    assert json.loads((folder / "config.json").read_text()) == {"sink_size": 3, "recent_size": 40}
    with pytest.raises(ValueError, match="cannot share 3"):
        write_duo_attention(scores, tmp_path, 3, Window())


def test_the_duo_attention_form_is_that_of_the_published_files(tmp_path, published):
    for name in ("Mistral-7B-Instruct-v0.2", "Llama-2-7B-32K-Instruct"):
        table = np.loadtxt(published.parent / "duo_attention" / f"{name}.tsv", dtype=float, delimiter="\t")
        ours = write_duo_attention(scores_of(np.ones((2, 32, 32))), tmp_path, table.shape[1], Window())
        assert np.loadtxt(ours / "full_attention_heads.tsv", dtype=float, delimiter="\t").shape == table.shape
