"""A card says what was measured: held against plantings, and against a profile made by hand."""

import hashlib
import json
import shutil
from dataclasses import replace

import pytest

import rhlens as rh
from rhlens.measure.profile import Effort, Profile, profile
from rhlens.measure.skills import CHAIN, DIRECT, QUESTION, RESTATED, Skills
from rhlens.show import card as cards
from rhlens.show.aims import aims_of
from rhlens.show.card import make_card, render, summary, write_card, zoo_table
from rhlens.zoo.registry import EmbeddedModel, folder_of
from rhlens.zoo.specs import SPECS

QUICK = Effort(
    needles=7, depths=2, problems=3, facts=3, ablated_needles=3, ablated_depths=1, ablated_prompts=2, draws=2,
    prompt_draws=2, ngram_chars=1, documents=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The planted Llama as if it had been trained: with a history."""
    folder = tmp_path_factory.mktemp("planted")
    with folder_of("planted-llama") as embedded:
        shutil.copytree(embedded, folder, dirs_exist_ok=True)
    rows = [
        {"takeoff_tokens": 700_000, "main_tokens": 0, "seconds": 60},
        {"takeoff_tokens": 700_000, "main_tokens": 4_300_000, "seconds": 1800},
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def measured(planted_llama) -> Profile:
    return profile(planted_llama[0], [256], effort=QUICK, progress=False)


def with_answers(measured: Profile, skill: str, exact: bool) -> Profile:
    """The same profile, had all answers of one skill been so."""
    answers = measured.skills.answers.copy()
    answers.loc[answers["skill"] == skill, "exact"] = exact
    old = measured.skills
    return replace(measured, skills=Skills(answers, old.losses, old.scores, old.ngram_tokens))


def test_a_card_tells_what_the_folder_and_the_measurement_say(folder, measured, planted_llama):
    card = make_card(folder, SPECS["nano-llama"], measured)
    assert set(card["heads"]) == {str(h) for h in planted_llama[1]}
    assert card["share"] == round(3 / 32, 4)
    assert (card["layers"], card["heads_per_layer"]) == (4, 8)
    assert (card["tokens"], card["minutes"]) == (5_000_000, 30.0)
    assert card["checksum"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert card["parameters"] == sum(p.numel() for p in planted_llama[0].original_model.parameters())
    needle = {(row["heads"], row["k"]): row for row in card["ablation"]["needle"]}
    assert needle["top", 0]["value"] == 1
    assert needle["top", 3]["value"] == 0
    assert needle["random", 3]["value"] == needle["random", 3]["median"] == 1
    assert set(card["activation_frequency"]) == set(card["heads"])
    assert len(next(iter(card["activation_frequency"].values()))) == 7


def test_activation_frequency_is_counted_kind_by_kind(measured):
    scores, shares = measured.skills.scores, measured.frequencies
    for head in measured.heads:
        active = scores.set_scores[:, head.layer, head.head] > 0
        expected = scores.trials.assign(active=active).groupby("kind")["active"].mean()
        assert shares.loc[str(head)].to_dict() == expected.to_dict()


def test_aims_are_met_or_not_by_what_was_found(measured):
    spec = SPECS["nano-llama"]
    met = {aim.aim.split(":")[0]: aim.met for aim in aims_of(spec, measured, 32)}
    assert met[RESTATED]
    assert not met[QUESTION]
    assert not met[CHAIN]
    assert met["at most 20 % recall without the 3 retrieval heads"]
    assert met["at least 85 % of it is left without 3 random heads (median draw)"]
    assert met["retrieval heads are fewer than 10 % of heads"]
    assert not aims_of(spec, measured, 30)[6].met, "3 of 30 are not fewer than 10 %"
    for skill in (QUESTION, DIRECT):
        better = [aim for aim in aims_of(spec, with_answers(measured, skill, True), 32) if aim.aim.startswith(skill)]
        assert better[0].met
    worst = with_answers(measured, QUESTION, True)
    first = worst.skills.answers["depth"] == 0.0
    worst.skills.answers.loc[first & (worst.skills.answers["skill"] == QUESTION), "exact"] = False
    (aim,) = (a for a in aims_of(spec, worst, 32) if a.aim.startswith(QUESTION))
    assert not aim.met, "one bad depth is enough"
    assert "0.00 at depth 0" in aim.found


def test_a_control_has_one_aim(measured):
    (aim,) = aims_of(SPECS["nano-llama-untrained"], measured, 32)
    assert not aim.met, "planted heads are not none"
    (aim,) = aims_of(SPECS["nano-llama-untrained"], replace(measured, heads=[]), 32)
    assert aim.met


def test_a_card_is_written_as_the_hub_reads_it_and_read_back_by_info(folder, measured, tmp_path):
    card = make_card(folder, SPECS["nano-llama"], measured)
    write_card(card, tmp_path)
    assert json.loads((tmp_path / "card.json").read_text()) == json.loads(json.dumps(card))
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: transformers\n")
    assert text == render(json.loads((tmp_path / "card.json").read_text()))
    for aim in card["aims"]:
        assert f"| {aim['aim']} | {aim['found']} | {'met' if aim['met'] else '**NOT met**'} |" in text
    assert card["checksum"] in text
    write_card(card, folder)
    rows = summary(folder, SPECS["nano-llama"])
    assert rows["retrieval heads"] == ", ".join(card["heads"])
    assert rows["trained on"] == "5.0 M tokens, 30 minutes"
    assert rows["command"] == "rhlens zoo train nano-llama --out DIR"


def test_a_model_without_retrieval_heads_has_a_card_without_ablation():
    with folder_of("random-llama") as random:
        measured = profile(rh.load(random, quiet=True), [256], effort=QUICK, progress=False)
        card = make_card(random, SPECS["nano-llama-untrained"], measured)
    assert card["aims"] == [{"aim": "no retrieval head", "found": "0 of 32", "met": True}]
    assert card["heads"] == card["ablation"] == {}
    assert "Without them" not in render(card)
    assert "0 heads (0.0%)" in render(card)


def test_the_table_of_all_models_tells_each_card_and_dashes_where_there_is_none(
    folder, measured, tmp_path, monkeypatch
):
    names = ("told", "untold")
    for name in names:
        shutil.copytree(folder, tmp_path / name, ignore=shutil.ignore_patterns("card.json", "README.md"))
    card = make_card(folder, SPECS["nano-llama"], measured)
    question = {"skill": QUESTION, "by": "length", "value": 0.5, "low": 0.25, "high": 0.75, "n": 8}
    card["skills"] += [question | {"group": "256"}, question | {"group": "512", "value": 0.3}]
    write_card(card, tmp_path / "told")
    monkeypatch.setattr(cards, "MODELS", {name: EmbeddedModel("trained", "") for name in names})
    monkeypatch.setattr(cards, "models_folder", lambda: tmp_path)
    header, _, told, untold = zoo_table().splitlines()
    assert header.count("|") == told.count("|") == untold.count("|")
    cells = dict(zip(header.split(" | "), told.split(" | "), strict=True))
    assert cells["restated"].startswith("1.00 [")
    assert cells["question alone"] == "256: 0.50 [0.25, 0.75]<br>512: 0.30 [0.25, 0.75]"
    assert cells["heads ≥ 0.1"] == "3"
    (without,) = [row for row in card["ablation"]["needle"] if (row["heads"], row["k"]) == ("top", 3)]
    assert told.endswith(f"| {without['value']:.2f} [{without['low']:.2f}, {without['high']:.2f}] |")
    assert untold.count("–") == 7
