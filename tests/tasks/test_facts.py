"""The closed-book world: over 200 facts, each with one answer, about nobody that a text could mention."""

import random

from rhlens.tasks import words as w
from rhlens.tasks.facts import FAMILY_NAMES, GIVEN_NAMES, closed_book_facts
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
