"""The closed-book world: over 200 facts, each with one answer, about nobody that a text could mention.

The user's facts are read as they stand.
"""

import random

import pytest

from rhlens.tasks import words as w
from rhlens.tasks.facts import FAMILY_NAMES, GIVEN_NAMES, Fact, closed_book_facts, read_facts
from rhlens.tasks.needles import KINDS, sample_needle


def test_there_are_over_two_hundred_facts_and_no_two_answer_the_same_question():
    facts = closed_book_facts()
    assert len(facts) >= 200
    assert len({fact.question for fact in facts}) == len({fact.cue for fact in facts}) == len(facts)
    assert not any(fact.held_out for fact in facts), "a fact that is never trained on cannot be known by heart"


def test_answers_cannot_be_guessed_from_how_often_they_occur():
    answers = [fact.answer for fact in closed_book_facts()]
    assert max(answers.count(answer) for answer in answers) / len(answers) < 0.05


def test_its_people_live_in_no_context():
    names = {*GIVEN_NAMES, *FAMILY_NAMES}
    assert not names & {*w.PEOPLE, *w.PLACES}
    rng = random.Random(0)
    for kind in KINDS:
        assert not any(names & set(sample_needle(kind, rng).statement.split()) for _ in range(50))


def test_facts_of_the_users_are_read_word_for_word_with_all_their_answers(tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_text(
        '{"prompt": " The capital of France is", "answer": "Paris"}\n\n'
        '{"prompt": "Столица России -", "answer": [" Москва", "город\\nМосква"]}\n',
        encoding="utf-8",
    )
    assert read_facts(path) == [
        Fact(" The capital of France is", ("Paris",)),
        Fact("Столица России -", ("Москва", "город Москва")),
    ]


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ('{"answer": "x"}', "'prompt'"),
        ('{"prompt": " ", "answer": "x"}', "'prompt'"),
        ('{"prompt": "p"}', "'answer'"),
        ('{"prompt": "p", "answer": ""}', "'answer'"),
        ('{"prompt": "p", "answer": 7}', "'answer'"),
        ('{"prompt": "p", "answer": []}', "'answer'"),
        ('{"prompt": "p", "answer": ["x", 7]}', "'answer'"),
        ('["p", "x"]', "'prompt'"),
        ('{"prompt": "p", "answer": "x"', "not JSON"),
    ],
)
def test_a_bad_line_is_named_with_what_it_lacks(line, missing, tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_text(f'{{"prompt": "p", "answer": "x"}}\n{line}\n')
    with pytest.raises(ValueError, match=rf"facts\.jsonl, line 2\b.*{missing}"):
        read_facts(path)


@pytest.mark.parametrize("answers", ["Paris", (), ("Paris", " ")])
def test_a_fact_needs_a_tuple_of_answers(answers):
    with pytest.raises(ValueError, match="'Where' needs a tuple"):
        Fact("Where", answers)
