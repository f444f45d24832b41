"""The trained models that ship do what their cards say, on needles that the cards did not ask about."""

import json
import math

import pytest
from scipy.stats import norm

import rhlens as rh
from rhlens.cli.zoo import lengths_of
from rhlens.measure.skills import RESTATED, skills
from rhlens.results.curves import TOP
from rhlens.results.heads import Head
from rhlens.results.scores import RETRIEVAL_THRESHOLD
from rhlens.results.stats import Interval, mean_ci
from rhlens.zoo.registry import CARD, models_folder, trained_models
from rhlens.zoo.specs import SPECS
from tests.test_cli import run

CARDS = {name: json.loads((models_folder() / name / CARD).read_text("utf-8")) for name in trained_models()}
SEED = 2  # a card's needles are of seeds 0 and 1
RETRAINED = "nano-gpt2"


def interval(row) -> Interval:
    return Interval(row["value"], row["low"], row["high"], row["n"])


def agree(a: Interval, b: Interval, among: int = len(CARDS)) -> bool:
    """Whether two samples can be of one share, at 5 % for all of `among` comparisons together."""
    low, high = sorted((a, b))
    error = math.hypot(low.high - low.value, high.value - high.low) / 1.96  # of their difference
    return high.value - low.value <= norm.isf(0.025 / among) * error


def overall(card) -> dict[str, Interval]:
    return {row["skill"]: interval(row) for row in card["skills"] if row["by"] == "all"}


def asked_as(card, model, seed=SEED):
    """Every skill of a model, asked as for its card."""
    spec = SPECS[card["name"]]
    return skills(model, lengths_of(spec), chat=bool(spec.chat_template), seed=seed, ngram_chars=1, documents=1)


@pytest.fixture(scope="module", params=CARDS)
def carded(request):
    """A model's card, the model, and a quarter of a card's needle prompts, at its shortest length, with scores."""
    card, spec = CARDS[request.param], SPECS[request.param]
    model, length = rh.load(request.param, quiet=True), lengths_of(spec)[0]
    trials = rh.niah(model, [length], 3, needles=14, distractors=1, seed=SEED, chat=bool(spec.chat_template))
    assert all(t.needle.held_out for t in trials)
    return card, model, trials, rh.detect(model, trials, progress=False)


def test_it_recalls_as_its_card_says(carded):
    card, _, trials, scores = carded
    rows = [row for row in card["skills"] if row["skill"] == RESTATED]
    at_length = [row for row in rows if row["by"] == "length" and float(row["group"]) == trials[0].length]
    said = interval((at_length or rows)[0])
    found = mean_ci(scores.trials["exact"].to_numpy(dtype=float), scores.needles)
    assert agree(found, said), (found, said)


def test_its_retrieval_heads_are_those_on_its_card(carded):
    """All but those so near the threshold that other needles may move them across it."""
    card, _, _, scores = carded
    clear = 2 * RETRIEVAL_THRESHOLD
    said, found = card["heads"], {str(h): float(scores.mean()[h]) for h in scores.retrieval_heads()}
    assert {h for h, score in said.items() if score >= clear} <= set(found), (said, found)
    assert {h for h, score in found.items() if score >= clear} <= set(said), (said, found)


def test_without_them_it_recalls_what_its_card_says_is_left(carded):
    card, model, trials, _ = carded
    if not card["heads"]:
        pytest.skip("it has none")
    heads = [Head.parse(h) for h in card["heads"]]
    k = len(heads)
    said = {row["heads"]: interval(row) for row in card["ablation"]["needle"] if row["k"] == k}
    curve = rh.ablate(model, trials, heads, [k], phase="both", draws=2, progress=False)
    without = curve.level(TOP, k, "exact")
    assert agree(without, said[TOP]), (without, said[TOP])
    if said["random"].low > said[TOP].high:
        assert curve.level("random", k, "exact").value > without.high


@pytest.mark.slow
@pytest.mark.parametrize("name", CARDS)
def test_every_skill_is_as_its_card_says(name):
    found, said = asked_as(CARDS[name], rh.load(name, quiet=True)), overall(CARDS[name])
    levels = {skill: found.level(skill) for skill in said}
    among = len(CARDS) * len(said)
    assert all(agree(levels[skill], said[skill], among) for skill in said), (levels, said)


@pytest.mark.train
def test_retraining_from_the_command_gives_the_same_skills(monkeypatch, tmp_path):
    """On the same prompts, every skill lies within the card's interval: on the machine of the card it is the same."""
    card = CARDS[RETRAINED]
    assert run(monkeypatch, *card["command"].replace("DIR", str(tmp_path)).split()[1:]) == 0
    found, said = asked_as(card, rh.load(tmp_path, quiet=True), seed=0), overall(card)
    levels = {skill: found.level(skill) for skill in said}
    assert all(said[skill].low <= levels[skill].value <= said[skill].high for skill in said), (levels, said)
