import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhlens.tasks.needles import (
    KINDS,
    Needle,
    bundled_needles,
    distractor_of,
    draw_needles,
    read_needles,
    sample_needle,
)


def test_at_least_twelve_bundled_needles_in_six_kinds_one_of_them_not_english():
    needles = bundled_needles()
    assert len(needles) >= 12
    assert len({n.kind for n in needles}) >= 6
    assert sum(not n.statement.isascii() for n in needles) >= 2
    assert len({n.kind for n in needles[:7]}) == 7, "the first few are of different kinds"


@given(st.sampled_from(KINDS), st.integers(0, 10**9), st.booleans())
def test_a_sampled_needle_is_its_cue_then_its_answer(kind, seed, held_out):
    needle = sample_needle(kind, random.Random(seed), held_out)
    assert needle.held_out is held_out
    assert needle.statement == f"{needle.cue} {needle.answer}."
    assert needle.answer not in needle.question


def test_drawn_needles_are_seeded_balanced_and_a_prefix_of_any_longer_draw():
    needles = draw_needles(21, seed=3)
    assert needles[:8] == draw_needles(8, seed=3) != draw_needles(8, seed=4)
    assert all(sum(n.kind == kind for n in needles) == 3 for kind in KINDS)
    assert len({n.statement for n in needles}) == 21
    assert all(n.held_out for n in needles)


@given(st.sampled_from(KINDS), st.integers(0, 10**6))
def test_a_distractor_shares_the_kind_but_neither_cue_nor_answer(kind, seed):
    needle = sample_needle(kind, random.Random(seed))
    other = distractor_of(needle, seed)
    assert other.kind == kind
    assert other.cue != needle.cue
    assert other.answer != needle.answer


@pytest.mark.parametrize(
    ("statement", "answer"), [("The sky is blue.", "green"), ("Red is red.", "ed"), ("The sky is blue.", " ")]
)
def test_an_answer_must_stand_in_the_statement_once(statement, answer):
    with pytest.raises(ValueError, match="exactly once"):
        Needle("x", statement, "?", answer)


def test_needles_of_the_users_are_read_and_bad_files_named(tmp_path):
    path = tmp_path / "mine.json"
    entry = {"kind": "mine", "statement": "My cat is called Bo.", "question": "Name?", "answer": "Bo"}
    path.write_text(json.dumps([entry]))
    assert read_needles(path) == [Needle(**entry)]
    for bad in ("[", "{}", "[]", '[{"kind": "x"}]', "[3]"):
        path.write_text(bad)
        with pytest.raises(ValueError, match=r"mine\.json"):
            read_needles(path)


def test_an_answer_stands_on_one_line():
    with pytest.raises(ValueError, match="on one line"):
        Needle("x", "It is a\nb.", "?", "a\nb")


def test_unknown_kinds_name_the_choice():
    with pytest.raises(ValueError, match="choose from code"):
        sample_needle("nope", random.Random(0))
    with pytest.raises(ValueError, match="distractors=0"):
        distractor_of(Needle("mine", "A is b.", "?", "b"), 0)
    with pytest.raises(ValueError, match="at least 1"):
        draw_needles(0)
