"""What a card reports, measured on a planted model with as little effort as there can be."""

import pytest

from rhlens.measure.profile import Effort, Profile, profile
from rhlens.measure.skills import SKILLS
from rhlens.results.curves import TOP

LENGTHS = [300, 256]
EFFORT = Effort(needles=7, depths=1, problems=2, facts=3, ablated_needles=3, ablated_depths=2, ablated_prompts=4,
                draws=2, prompt_draws=1, ngram_chars=1, documents=1)  # fmt: skip


@pytest.fixture(scope="module")
def planted(planted_llama) -> Profile:
    return profile(planted_llama[0], LENGTHS, effort=EFFORT, seed=1)


def test_every_skill_is_asked_about_with_the_effort_that_was_given(planted: Profile):
    asked = planted.skills.answers.groupby("skill").size()
    assert set(asked.index) == set(SKILLS)
    assert (asked[SKILLS[0]], asked[SKILLS[1]]) == (2 * 7, 2 * 7), "lengths, and needles"
    assert asked[["closed-book", "direct", "chain of thought"]].tolist() == [3, 2, 2]
    assert len(planted.skills.losses) == 1


def test_the_retrieval_heads_are_taken_away_from_every_task(planted: Profile, planted_llama):
    assert set(planted.heads) == planted_llama[1]
    assert list(planted.curves) == ["needle", "closed-book", "direct", "chain of thought"]
    for task, curve in planted.curves.items():
        needles = task == "needle"
        assert curve.ks == ([0, 1, 2, 3] if needles else [0, 3]), "doses of needles, all heads of the rest"
        assert curve.draws == (2 if needles else 1)
        assert (curve.phase, curve.method) == ("both", "zero")
        assert curve.controls == ["random", "layer-matched"]
        assert len(curve.needles) == (6 if needles else 4)
        assert needles or set(curve.answers["kind"]) == {task}
        assert set(curve.answers["length"]) <= {255, 256, 257}, "the shortest length that was asked"
    needle = planted.curves["needle"]
    assert (needle.level(TOP, 0).value, needle.level(TOP, 3).value) == (1, pytest.approx(0, abs=0.3))
    assert needle.level("random", 3).value > 0.9
    assert not set(needle.answers["needle"]) & set(planted.skills.scores.trials["needle"]), "other needles than scored"
    assert planted.unmatched == ""
    assert list(planted.frequencies.index) == [str(h) for h in planted.heads]
    assert (planted.frequencies == 1).all(None)


def test_a_model_without_retrieval_heads_has_none_to_take_away(tiny_llama):
    found = profile(tiny_llama, [256], effort=EFFORT)
    assert (found.heads, found.curves) == ([], {})
    assert set(found.skills.answers["skill"]) == set(SKILLS)
