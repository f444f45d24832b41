import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from rhlens.measure.recall import exact_match, rouge1_recall
from rhlens.tasks.needles import bundled_needles

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
