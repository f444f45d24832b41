"""Skills are measured on held-out prompts, counted as they were answered."""

import numpy as np
import pandas as pd
import pytest
import torch

import rhlens as rh
from rhlens.measure.ngram import NGram
from rhlens.measure.skills import QUESTION, RESTATED, SKILLS, Skills, answers, haystack_losses, skills
from rhlens.results.stats import mean_ci
from rhlens.tasks.haystack import GeneratedHaystack
from rhlens.tasks.needles import bundled_needles
from rhlens.tasks.prompts import CHAIN, CLOSED_BOOK, closed_book_prompts, problem_prompts
from rhlens.zoo.tokenizer import zoo_tokenizer
from tests.support import plain_model, tiny_checkpoint


@pytest.fixture(scope="module")
def planted(planted_llama) -> Skills:
    return skills(planted_llama[0], [256], needles=7, depths=2, problems=3, facts=3, documents=2, ngram_chars=1)


def test_a_planted_model_recalls_by_the_cue_and_knows_nothing_else(planted: Skills):
    assert planted.level(RESTATED).value == 1
    assert planted.level(QUESTION).value < 0.5
    assert planted.level(CLOSED_BOOK).value < 0.5
    assert planted.level(CHAIN).value == 0
    assert set(planted.answers["skill"]) == set(SKILLS)
    assert planted.level(RESTATED).n == 14
    assert {str(h) for h in planted.scores.retrieval_heads()} == {"L2H3", "L2H6", "L3H1"}


def test_levels_of_groups_are_those_of_their_rows(planted: Skills):
    frame = planted.frame()
    kinds = frame[(frame["skill"] == RESTATED) & (frame["by"] == "kind")]
    assert len(kinds) == 7
    assert (kinds["n"] == 2).all()
    depths = frame[(frame["skill"] == QUESTION) & (frame["by"] == "depth")]
    asked = planted.answers[planted.answers["skill"] == QUESTION]
    assert depths["value"].tolist() == asked.groupby("depth")["exact"].mean().tolist()
    assert planted.level(QUESTION, depth=0.0).n == 7
    with pytest.raises(ValueError, match="no answers of skill"):
        planted.level("swimming")


def test_answers_are_what_plain_greedy_decoding_says(planted_llama):
    model, _ = planted_llama
    asks = [*closed_book_prompts(model, 2, 60), *problem_prompts(model, 2, 130)]
    found = answers(model, asks)
    assert found["needle"].tolist() == [ask.labels["needle"] for ask in asks]
    for ask, output in zip(asks, found["output"], strict=True):
        tokens = torch.tensor([ask.tokens])
        with torch.inference_mode():
            said = model.original_model.generate(tokens, max_new_tokens=20, do_sample=False)[0, tokens.shape[1] :]
        expected = model.tokenizer.decode(said, skip_special_tokens=True).strip().splitlines()
        assert output.startswith(expected[0].strip()) or (expected[0].startswith(output) and output)


def test_losses_are_those_of_plain_hugging_face_and_of_the_ngrams_on_the_same_text(tmp_path):
    folder = tiny_checkpoint("llama", tmp_path)
    losses, n_tokens = haystack_losses(rh.load(folder, quiet=True), documents=3, ngram_chars=100_000)
    tokenizer, model = zoo_tokenizer(), plain_model(folder)
    counted = tokenizer(GeneratedHaystack("counted:0:0").text(100_000)).input_ids
    assert n_tokens == len(counted)
    for i, row in losses.iterrows():
        ids = tokenizer(GeneratedHaystack(f"held out:0:{i}").text(2048)).input_ids[:256]
        with torch.inference_mode():
            expected = model(torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()
        assert row["model"] == pytest.approx(expected, abs=1e-4)
        assert row["ngram"] == pytest.approx(float(NGram([counted], len(tokenizer)).losses(ids).mean()))
    assert losses["ngram"].mean() < np.log(len(tokenizer)) < losses["model"].mean(), "a random model is no help"


def test_everything_is_asked_as_often_as_was_said(planted: Skills):
    asked = planted.answers.groupby("skill").size()
    assert [asked[skill] for skill in SKILLS] == [14, 14, 2 * len(bundled_needles()), 3, 3, 3]
    assert set(planted.answers.loc[planted.answers["skill"] == RESTATED, "depth"]) == {0.0, 1.0}
    assert set(planted.answers.loc[planted.answers["skill"] == QUESTION, "length"]) == {256}
    assert len(planted.losses) == 2
    assert planted.loss("model").value == pytest.approx(planted.losses["model"].mean())
    assert planted.gain.value == pytest.approx((planted.losses["ngram"] - planted.losses["model"]).mean())


def test_a_level_resamples_needles():
    answers = pd.DataFrame({"skill": RESTATED, "needle": list("aaaabbbbcccc"), "exact": [True] * 4 + [False] * 8,
                            "kind": "code", "length": 256, "depth": [0.0, 0.5] * 6})  # fmt: skip
    found = Skills(answers, pd.DataFrame({"model": [1.0], "ngram": [-3.0]}), None, 0)
    assert found.level(RESTATED) == mean_ci(answers["exact"].to_numpy(float), list(answers["needle"]))
    assert found.level(RESTATED, depth=0.5, length=256)[::3] == (pytest.approx(1 / 3), 6)
    assert found.gain.value == -4, "nothing bounds nats"
    table = found.frame()
    assert list(table) == ["skill", "by", "group", "value", "low", "high", "n", "clusters"]
    assert list(zip(table["by"], table["group"], strict=True)) == [("all", ""), ("depth", "0.0"), ("depth", "0.5")]
    with pytest.raises(
        ValueError, match=r"^no answers of skill 'needle, restated' with \{'depth': 2\}: there are needle, "
    ):
        found.level(RESTATED, depth=2)
