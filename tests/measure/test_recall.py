import re
import string
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from rhlens.measure.errors import error_type
from rhlens.measure.recall import chance_recall, exact_match, f1, f1_of, judge, rouge1_recall
from rhlens.tasks.needles import bundled_needles
from rhlens.tasks.prompts import QA, Prompt

ASCII = st.text(st.characters(codec="ascii"), max_size=60)


@given(ASCII, ASCII)
def test_on_ascii_text_recall_is_rouge_scores_own(answer, output):
    expected = RougeScorer(["rouge1"], use_stemmer=True).score(answer, output)["rouge1"].recall
    assert rouge1_recall(answer, output) == pytest.approx(expected)


@pytest.mark.parametrize("needle", bundled_needles(), ids=lambda n: n.answer[:20])
def test_every_needle_recalls_itself_in_every_script(needle):
    assert rouge1_recall(needle.answer, needle.answer) == 1.0
    assert rouge1_recall(needle.answer, "xyzzy") == 0.0


def test_recall_counts_words():
    assert rouge1_recall("eat a ripe fig", "eat the fig") == 0.5
    assert rouge1_recall("сушёной грушей", "с грушей") == 0.5
    assert rouge1_recall("東京で会う", "東京") == pytest.approx(2 / 5)
    assert rouge1_recall("painting the bridges", "painted the bridge") == 1.0, "stemmed"


@pytest.mark.parametrize(
    ("answer", "output", "exact"),
    [
        ("47193", "47193.", True),
        ("47193", "471935", False),
        ("a veil, two jars", "A veil,  two jars.", True),
        ("a veil", "a veil and more", False),
        ("a veil", "", False),
    ],
)
def test_exact_is_exact_but_for_case_space_and_closing_marks(answer, output, exact):
    assert exact_match(answer, output) is exact


def squad_f1(answer: str, output: str) -> float:
    """As the published description of SQuAD's score has it, on ASCII."""
    both = []
    for text in (answer, output):
        bare = "".join(c for c in text.lower() if c not in string.punctuation)
        both.append(re.sub(r"\b(a|an|the)\b", " ", bare).split())
    wanted, found = both
    if not wanted or not found:
        return float(wanted == found)
    same = sum((Counter(wanted) & Counter(found)).values())
    if not same:
        return 0.0
    precision, recall = same / len(found), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


WORDS = st.lists(st.sampled_from(["a", "The", "an", "fig", "figs", "ripe,", "(fig)", "1,234", "1234", "-", "U.S."]))


@given(WORDS.map(" ".join) | st.text(st.sampled_from(string.printable)), WORDS.map(" ".join))
def test_on_ascii_text_f1_is_squads_own(answer, output):
    assert f1(answer, output) == pytest.approx(squad_f1(answer, output))


@given(st.text(max_size=40), st.text(max_size=40))
def test_f1_is_a_share_the_same_from_both_sides_and_whole_of_itself(answer, output):
    assert 0 <= f1(answer, output) <= 1
    assert f1(answer, output) == f1(output, answer)
    assert f1(answer, answer) == 1


@pytest.mark.parametrize(
    ("answer", "output", "expected"),
    [
        ("eat a ripe fig", "Eat the fig!", 2 * 2 / (3 + 2)),  # articles do not count
        ("fig", "figs", 0.0),  # unstemmed
        ("fig fig", "fig", 2 / 3),  # a multiset
        ("1,234", "1234", 1.0),
        ("the", "...", 1.0),  # both empty
        ("", "fig", 0.0),
        ("сушёной грушей", "с «сушёной» Грушей", 2 * 2 / (2 + 3)),
        ("東京で会う", "東京。", 2 * 2 / (5 + 2)),
    ],
)
def test_f1_by_hand(answer, output, expected):
    assert f1(answer, output) == pytest.approx(expected)


def asked(*answers: str, text: str = "Two ripe figs and one green pear stood by the door.") -> Prompt:
    return Prompt(QA, "What stood there?", answers[0], (1,), (2,), text=text, others=answers[1:])


def test_every_right_answer_counts_and_each_number_is_the_best():
    ask = asked("two ripe figs and one pear", "two ripe figs", "figs")
    assert ask.answers == ("two ripe figs and one pear", "two ripe figs", "figs")
    assert judge(ask, "Figs.") == {"output": "Figs.", "recall": 1, "exact": True, "f1": 1, "error": "correct"}
    assert judge(ask, "two ripe figs")["exact"], "f1 1 of one answer, though the last one's recall is 1 as well"
    part = judge(ask, "ripe figs by the door")
    assert (part["recall"], part["exact"], part["error"]) == (1, False, "correct")
    assert part["f1"] == pytest.approx(2 * 2 / (3 + 4))
    assert asked("fig", "pear", "fig").answers == ("fig", "pear"), "each once"


def test_the_error_is_that_of_the_answer_that_fits_best():
    best = judge(asked("a green pear", "two ripe figs"), "ripe figs")
    assert (best["recall"], best["error"]) == (pytest.approx(2 / 3), "incomplete")
    assert judge(asked("a green pear"), "ripe figs")["error"] == "wrong extraction"
    assert judge(asked("a green pear", "two ripe figs"), "a zeppelin")["error"] == "hallucination"


@given(st.permutations(["two ripe figs", "one pear", "figs", "ripe figs and one green pear"]), st.data())
def test_the_order_of_right_answers_changes_no_number(answers, data):
    said = " ".join(data.draw(st.lists(st.sampled_from(["two", "ripe", "figs", "one", "pear", "door", "zeppelin"]))))
    found = judge(asked(*answers), said)
    assert found["recall"] == max(rouge1_recall(answer, said) for answer in answers)
    assert found["f1"] == max(f1(answer, said) for answer in answers)
    assert found["exact"] == any(exact_match(answer, said) for answer in answers)
    assert (found["error"] == "correct") == (found["recall"] == 1)


@pytest.mark.parametrize(("answer", "said", "right"), [
    ("+", "+", True), ("+", " + ", True), ("+", "", False), ("+", "plus", False),
    ("?!", "?!", True), ("?!", "", False), ("?!", "...", False), ("🙂", "🙂", True), ("🙂", "🙃", False),
])  # fmt: skip
def test_an_answer_without_words_is_recalled_if_it_is_there_and_silence_is_not_it(answer, said, right):
    judged = judge(Prompt(QA, "Which?", answer, (), ()), said)
    assert (judged["exact"], judged["recall"], judged["error"] == "correct") == (right, float(right), right)


def test_chance_holds_an_answer_against_another_needle_of_its_kind():
    rows = [("b", "code", "22", "11"), ("a", "code", "11", "22 or so"), ("c", "list", "figs, pears", "11"),
            ("a", "code", "11", "11"), ("d", "code", "33", "33")]  # fmt: skip
    trials = pd.DataFrame(rows, columns=["needle", "kind", "answer", "output"])
    # In a circle a stands for d, b for a, d for b; c, alone of its kind, is held against the next of all: a.
    assert chance_recall(trials).tolist() == [0, 1, 1, 0, 0]
    turned = trials.assign(output=["33", "22", "figs", "none", "11"])
    assert chance_recall(turned).tolist() == [1, 1, 0, 0, 1]
    assert np.isnan(chance_recall(trials[:1])).all(), "one needle has no other"


@pytest.mark.parametrize(
    ("answer", "said", "same"),
    [
        ("A", "", False), ("A", "A", True), ("A", "B", False), ("A", "the", False),
        (".75", "75", False), (".75", "0.75", True), ("3.50", "3.5", True), ("-5", "5", False), ("-5", "-5.", True),
        ("−5", "-5", True), ("1,234", "1234", True), ("05111", "5111", False), ("2-3", "2-3", True),
        ("12", "1.2", False),
    ],
)  # fmt: skip
def test_letters_and_numbers_are_compared_as_such(answer, said, same):
    assert (f1_of(answer, said) == 1) is same
    assert exact_match(answer, said) is same
    assert (error_type(answer, said, "nothing of it") == "correct") is same


def test_a_wrong_choice_is_a_wrong_answer_and_none_is_none():
    assert error_type("B", "A", "Choose A, B or C.") == "wrong extraction"
    assert error_type("A", "D", "Choose A, B or C.") == "hallucination"
    assert error_type("A", "", "Choose A, B or C.") == "no answer"
    assert error_type("a bell", "a", "a bell") == "no answer", "an article tells nothing where words are asked for"
