import json
import random
import re

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

SEASON = "(spring|summer|autumn|winter)"
FORMS = {
    "code": r"The code of (the \w+ \w+) is (\d{5})\.",
    "activity": r"The best thing to do in (\w+ in \w+) is (\w+ a \w+ \w+ near the \w+)\.",
    "journey": rf"(\w+ spent the \w+ {SEASON}) in (\w+ with \w+ by \w+)\.",
    "reason": r"(The \w+ of \w+ was \w+) because (the \w+ \w+ the \w+ \w+)\.",
    "list": r"(The \w+ \w+ of \w+) holds (\w+, \w+, \w+ and \w+)\.",
    "password": r"The password of (the \w+ \w+) is ([a-z]+ [a-z]+ [a-z]+)\.",
    "foreign": r"La llave (del \w+ \w+) está (en el \w+ de [A-Z]\w+)\.|On vend (au \w+ \w+) (des \w+ et des \w+)\."
    r"|(Der \w+ von [A-Z]\w+) gab ([A-Z]\w+ einen \w+ und einen \w+)\.",
}


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


@given(st.sampled_from(KINDS), st.integers(0, 10**9))
def test_a_sampled_needle_reads_as_one_of_its_kind(kind, seed):
    needle = sample_needle(kind, random.Random(seed))
    match = re.fullmatch(FORMS[kind], needle.statement)
    assert match, needle.statement
    assert needle.answer in match.groups()
    assert "None" not in needle.statement
    asked_of = set(re.findall(r"\w+", needle.statement.replace(needle.answer, "").lower()))
    assert len(asked_of & set(re.findall(r"\w+", needle.question.lower()))) >= 3, "it asks of what the needle is about"


def test_every_digit_and_language_is_drawn():
    rng = random.Random(0)
    assert set("".join(sample_needle("code", rng).answer for _ in range(60))) == set("0123456789")
    opening = {sample_needle("foreign", rng).statement.split()[0] for _ in range(60)}
    assert opening == {"La", "On", "Der"}


def test_an_answer_without_a_word_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"its answer '…!' needs a letter or a digit, since recall counts words$"):
        Needle("x", "He said …!", "?", "…!")
