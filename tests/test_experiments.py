"""The experiments as a person runs them: on saved scores, without a model where that is possible."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rhlens.cli import run
from rhlens.results.scores import HeadScores
from rhlens.show.publish import publish
from rhlens.zoo.registry import trained_tokens

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.fixture
def saved(tmp_path):
    """Three score files: two alike, one not."""
    rng, paths = np.random.default_rng(0), []
    base = rng.permutation(np.r_[[0.9, 0.7, 0.6], np.zeros(97)]).reshape(10, 10)
    for name, mean in (("one", base), ("like-one", base * 0.9), ("other", rng.permuted(base))):
        values = np.clip(mean + (mean > 0) * 0.05 * rng.normal(size=(12, 10, 10)), 0, 1)
        trials = pd.DataFrame({"trial": range(12), "needle": [f"n{i // 2}" for i in range(12)]})
        paths.append(HeadScores(values, values, trials, name).save(tmp_path / f"{name}.safetensors"))
    return [argument for path in paths for argument in ("--scores", str(path))]


def experiment(monkeypatch, module, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        run(module.main)
    return int(stop.value.code or 0)


def claims_of(folder) -> list[dict]:
    return json.loads((folder / "findings.json").read_text())["claims"]


def test_sparse_needs_no_model_for_saved_scores(monkeypatch, capsys, tmp_path, saved):
    from experiments import sparse

    assert experiment(monkeypatch, sparse, *saved, "--out", tmp_path) == 0
    assert "sparse: holds on one" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "sparse-scores" / "sparsity.csv")) == 12
    assert len(claims_of(tmp_path / "sparse-scores")) == 3
    assert (tmp_path / "sparse-scores" / "sparsity.png").stat().st_size > 10_000


def test_intrinsic_judges_every_pair_by_its_families(monkeypatch, capsys, tmp_path, saved):
    from experiments import intrinsic

    assert experiment(monkeypatch, intrinsic, *saved, "--families", "a,a,b", "--out", tmp_path) == 0
    text = capsys.readouterr().out
    assert "intrinsic: holds on one and like-one" in text
    assert "intrinsic, across families: holds on one and other" in text
    table = pd.read_csv(tmp_path / "intrinsic-scores" / "similarity.csv").set_index("model")
    assert len(claims_of(tmp_path / "intrinsic-scores")) == 3
    assert table.loc["one", "like-one"] > 0.9
    assert experiment(monkeypatch, intrinsic, *saved, "--families", "a,b", "--out", tmp_path) == 2
    assert "names 2 families for 3 models" in capsys.readouterr().err


def test_universal_sets_a_model_that_retrieves_beside_one_that_cannot(monkeypatch, capsys, tmp_path):
    from experiments import universal

    small = ("--depths", 1, "--needles", 7, "--draws", 2, "--out", tmp_path)
    assert experiment(monkeypatch, universal, "--models", "planted-llama,random-llama", *small) == 0
    text = capsys.readouterr().out
    assert "universal: holds on planted-llama" in text
    assert "universal, control: holds on random-llama" in text
    assert "universal, overall: holds on 2 models" in text
    table = pd.read_csv(tmp_path / "universal-models" / "score_maps.csv").set_index("model")
    assert table.loc["planted-llama", "retrieval_heads"].split() == ["L2H3", "L2H6", "L3H1"]
    assert table.loc["planted-llama", "low"] > 0.5
    assert (tmp_path / "universal-models" / "score_maps.png").stat().st_size > 10_000


def test_universal_says_what_published_scores_do_not_show(monkeypatch, capsys, tmp_path, saved):
    from experiments import universal

    assert experiment(monkeypatch, universal, *saved, "--out", tmp_path) == 0
    text = capsys.readouterr().out
    assert "universal, by scores alone: holds on one" in text
    assert "universal, overall: does NOT hold on 3 models" in text
    assert "NO, some, as controls, cannot: 0" in text


def test_universal_has_controls_by_default():
    from experiments.universal import default_models

    assert {"nano-llama", "nano-llama@201216", "random-llama"} <= set(default_models())
    assert "planted-llama" not in default_models()


def test_snapshots_and_models_know_their_age():
    assert trained_tokens("nano-llama@201216") == 201_216
    assert trained_tokens("nano-llama") > 11_000_832


def test_dynamic_on_a_model_and_on_saved_scores(monkeypatch, capsys, tmp_path, saved):
    from experiments import dynamic

    small = ("--lengths", "256,300", "--depths", 2, "--needles", 7, "--out", tmp_path / "model")
    assert experiment(monkeypatch, dynamic, "--models", "planted-llama", *small) == 0
    text = capsys.readouterr().out
    assert "dynamic: does NOT hold on planted-llama" in text
    assert "3 heads fire in every single trial" in text
    table = pd.read_csv(tmp_path / "model" / "dynamic-models" / "planted-llama.csv").set_index("head")
    assert table.loc["L2H3", "depth 0.0"] == table.loc["L2H3", "position first"] == 1
    assert experiment(monkeypatch, dynamic, *saved, "--out", tmp_path) == 0
    assert "dynamic, by frequency alone" in capsys.readouterr().out
    drawn = {path.name for path in (tmp_path / "dynamic-scores").glob("*.png")}
    assert drawn == {"one.png", "like-one.png", "other.png"}


def test_birth_needs_an_age_for_every_snapshot(monkeypatch, capsys, tmp_path):
    from experiments import birth

    small = ("--depths", 1, "--needles", 7, "--out", tmp_path)
    models = ("--models", "random-llama,planted-llama", "--tokens")
    assert experiment(monkeypatch, birth, *models, "1e3,1e6", *small) == 0
    table = pd.read_csv(tmp_path / "intrinsic-birth" / "birth.csv").set_index(["what", "tokens"])["value"]
    assert table["recall", 1000] == 0
    assert table["L2H3", 1_000_000] == table["recall", 1_000_000] == 1
    assert experiment(monkeypatch, birth, *models, "1e3", *small) == 2
    assert "names 1 ages for 2 models" in capsys.readouterr().err
    assert experiment(monkeypatch, birth, "--model", "nano-qwen2", *small) == 2
    assert "nano-qwen2 has no snapshots" in capsys.readouterr().err


def test_causal_writes_figures_data_and_verdict(monkeypatch, capsys, tmp_path):
    from experiments import causal

    small = ("--lengths", 256, "--depths", 2, "--needles", 7, "--k", "0,3", "--draws", 2, "--out", tmp_path)
    assert experiment(monkeypatch, causal, "--model", "planted-gpt2", *small) == 0
    assert "causal: holds on planted-gpt2" in capsys.readouterr().out
    folder = tmp_path / "causal-planted-gpt2"
    names = ("score_map", "dose_curve", "needle_heatmaps", "errors", "causal_map", "patching", "patching_together")
    files = {f"{name}.{kind}" for name in names for kind in ("png", "csv")}
    assert {path.name for path in folder.iterdir()} == files | {"findings.json", "attention.html"}
    assert [claim["holds"] for claim in claims_of(folder)] == [True]
    shares = pd.read_csv(folder / "errors.csv").query("k == 3").pivot(index="heads", columns="error", values="share")
    assert shares.loc["random", "correct"] == 1
    assert shares.loc["top", "correct"] < 0.2
    assert experiment(monkeypatch, causal, "--model", "nope") == 2
    assert "give an embedded model" in capsys.readouterr().err


def test_every_way_to_ablate_stands_in_one_figure(monkeypatch, tmp_path):
    from experiments import ablations

    small = ("--model", "planted-llama", "--needles", 3, "--draws", 2, "--k", 3, "--out", tmp_path)
    assert experiment(monkeypatch, ablations, *small) == 0
    table = pd.read_csv(tmp_path / "ablations-planted-llama" / "methods.csv").query("k == 3 and heads == 'top'")
    assert len(table) == 5 * 3
    left = table.set_index(["method", "phase"])["recall"]
    assert (left.xs("both", level="phase") < 0.3).all()


def test_factuality_sets_signs_beside_random_heads(monkeypatch, capsys, tmp_path):
    from experiments import factuality

    small = ("--lengths", 256, "--depths", 2, "--needles", 21, "--draws", 2, "--out", tmp_path)
    assert experiment(monkeypatch, factuality, *small) == 0
    assert "activation predicts correctness (copied): holds on nano-llama" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "factuality-nano-llama" / "signs.csv")
    assert set(table["sign"]) == {"aimed", "copied", "confidence"}
    assert (table.loc[table["sign"] == "copied", "auroc"].dropna() > 0.8).all()
    assert experiment(monkeypatch, factuality, "--model", "random-llama", *small) == 2
    assert "no retrieval head" in capsys.readouterr().err


def test_downstream_takes_generated_tasks_or_the_users_files(monkeypatch, capsys, tmp_path):
    from experiments import downstream

    squad = {"data": [{"paragraphs": [{"context": "The mill of Orford is old. The boat is new.", "qas": [
        {"question": f"What is the {thing}?", "answers": [{"text": text, "answer_start": 0}]}
        for thing, text in (("mill of Orford", "old"), ("boat", "new"))]}]}]}  # fmt: skip
    (tmp_path / "squad.json").write_text(json.dumps(squad))
    facts = [{"prompt": f"Question: Where was {name} born?\nAnswer:", "answer": "Lunden"} for name in ("Ivo", "Runa")]
    (tmp_path / "facts.jsonl").write_text("\n".join(map(json.dumps, facts)))
    files = ("--squad", tmp_path / "squad.json", "--facts", tmp_path / "facts.jsonl")
    assert experiment(monkeypatch, downstream, "--n", 7, "--draws", 2, *files, "--out", tmp_path) == 0
    assert "order of what 5 heads are needed for: does NOT hold on nano-llama" in capsys.readouterr().out
    folder = tmp_path / "downstream-nano-llama"
    table = pd.read_csv(folder / "drops.csv").set_index("task")
    assert list(table.index) == ["needle", "extractive QA", "chain of thought", "direct", "closed-book"]
    assert table["prompts"].to_list() == [7, 2, 7, 7, 2]
    assert table.loc["needle", "without top"] < 0.6 < table.loc["needle", "without others"]
    assert pd.read_csv(folder / "extractive-QA.csv")["answer"].isin(["old", "new"]).all()
    assert experiment(monkeypatch, downstream, "--squad", tmp_path / "none.json", "--out", tmp_path) == 2
    assert "does not exist" in capsys.readouterr().err


def test_a_chain_is_traced_to_what_it_copies(monkeypatch, capsys, tmp_path):
    from experiments import cot

    assert experiment(monkeypatch, cot, "--n", 12, "--draws", 2, "--out", tmp_path) == 0
    folder = tmp_path / "cot-nano-llama"
    trace = pd.read_csv(folder / "trace.csv")
    names = trace[trace["token"].str.strip().str.fullmatch("[A-Z][a-z]+")]
    assert names["supported"].mean() > 0.6, "people are copied from the question"
    assert (folder / "chain.html").read_text().count("<a href") >= 3
    table = pd.read_csv(folder / "drops.csv").set_index("task")
    assert table.loc["chain of thought", "without top"] < table.loc["chain of thought", "without others"]


def test_a_cache_for_the_planted_heads_is_enough(monkeypatch, capsys, tmp_path):
    from experiments import kv_cache

    small = ("--lengths", 256, "--depths", 1, "--needles", 42, "--draws", 3, "--full", "0,3", "--recent", 40)
    assert experiment(monkeypatch, kv_cache, "--model", "planted-llama", *small, "--out", tmp_path) == 0
    folder = tmp_path / "kv-cache-planted-llama"
    table = pd.read_csv(folder / "cache.csv").set_index(["heads", "full"])["recall"]
    assert table["retrieval", 3] == 1
    assert table["random", 3] < 0.5
    assert claims_of(folder)[0]["holds"]
    heads = np.loadtxt(folder / "full_attention_heads.tsv", delimiter="\t")
    assert {tuple(map(int, at)) for at in np.argwhere(heads > 0.5)} == {(2, 3), (2, 6), (3, 1)}
    assert json.loads((folder / "config.json").read_text()) == {"sink_size": 4, "recent_size": 40}
    assert max(map(np.mean, json.loads((folder / "head_score.json").read_text()).values())) == 1


def test_the_monitor_tells_made_up_answers(monkeypatch, capsys, tmp_path):
    from experiments import monitor

    assert experiment(monkeypatch, monitor, "--needles", 21, "--depths", 1, "--out", tmp_path) == 0
    assert "made-up answers lack support: holds on nano-llama" in capsys.readouterr().out
    folder = tmp_path / "monitor-nano-llama"
    copied, made_up = ((folder / f"{name}.html").read_text() for name in ("copied", "made-up"))
    assert copied.count("<a href") > made_up.count("<a href")
    table = pd.read_csv(folder / "support.csv")
    assert table.loc[table["absent"], "exact"].sum() == 0


def test_sixteen_bits_stand_beside_float32_on_both_paths(monkeypatch, capsys, tmp_path):
    from experiments import dtypes

    small = ("--models", "planted-llama", "--needles", 3, "--depths", 1, "--out", tmp_path)
    assert experiment(monkeypatch, dtypes, *small) == 0
    said = capsys.readouterr().out
    assert "planted-llama in bfloat16 (twin): 3 of 3 retrieval heads" in said
    assert "In 4 of 4 runs in 16 bits the same heads retrieve as in float32" in said
    table = pd.read_csv(tmp_path / "dtypes" / "dtypes.csv", keep_default_na=False)
    assert table[["dtype", "decode"]].agg(" ".join, axis=1).to_list() == [
        "bfloat16 twin", "bfloat16 bridge", "float16 twin", "float16 bridge"]  # fmt: skip
    assert (table["heads_float32"] == 3).all()
    assert (tmp_path / "dtypes" / "dtypes.png").stat().st_size > 10_000


def test_figures_are_made_together_or_one_by_one(monkeypatch, capsys, tmp_path):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    from experiments import figures

    monkeypatch.setattr(figures.causal, "main", lambda out, **_: publish(out / "causal-toy", "Causal", {}, [], {}))
    assert experiment(monkeypatch, figures, "--only", "causal", "--out", tmp_path) == 0
    assert "total" in capsys.readouterr().out
    assert "<h2>Causal</h2>" in (tmp_path / "report.html").read_text()
    assert experiment(monkeypatch, figures, "--only", "spars", "--out", tmp_path) == 2
    assert "did you mean sparse" in capsys.readouterr().err


def test_figures_of_the_shipped_scores_go_where_the_shipped_figures_are(monkeypatch, tmp_path, saved):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    from experiments import figures

    files = {Path(path).stem: Path(path) for path in saved[1::2]}
    monkeypatch.setattr(figures, "trained_models", lambda **_: list(files))
    monkeypatch.setattr(figures, "saved_scores", lambda name, *_: files[name])
    out = tmp_path / "figures"
    assert experiment(monkeypatch, figures, "--only", "scores,sparse,intrinsic,dynamic", "--out", out) == 0
    assert {path.name for path in out.iterdir()} == {"sparse", "intrinsic", "dynamic", "report.html"}


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.py")), ids=lambda path: path.stem)
def test_experiments_are_short(path):
    """The five properties are configuration, run and drawing; only what measures machines takes longer."""
    if path.stem not in {"benchmark", "benchmark_parts", "estimate", "peak_memory", "reference"}:
        assert len(path.read_text().splitlines()) < 80
