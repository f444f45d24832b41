"""Two texts that read alike are equal, where answers are placed and where they are judged."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhlens.measure.errors import error_type
from rhlens.measure.recall import exact_match, f1, rouge1_recall
from rhlens.measure.words import words
from rhlens.tasks.canonical import canonical

ANSWERS = [
    "Zoë Mérite",
    "दिल्ली का किला",
    "مَكْتَبَةٌ زرقاء",
    "นกแก้วสีทอง",
    "桜の花びら",
    "ភ្នំពេញ",
    "шёлковый путь",
    "שָׁלוֹם",
    "Straße 5",
    "ﬁne ﬂour",
]
FORMS = {
    "NFC": lambda text: unicodedata.normalize("NFC", text),
    "NFD": lambda text: unicodedata.normalize("NFD", text),
    "NFKC": lambda text: unicodedata.normalize("NFKC", text),
    "NFKD": lambda text: unicodedata.normalize("NFKD", text),
    "upper": str.upper,
    "full width": lambda text: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
    "ideographic space": lambda text: text.replace(" ", "\u3000"),
    "soft hyphen": lambda text: text[:2] + "\u00ad" + text[2:],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_in_another_form_is_the_answer_by_every_measure(answer, form):
    said = FORMS[form](answer)
    assert canonical(said) == canonical(answer)
    assert exact_match(answer, f"“{said}”.")
    assert rouge1_recall(answer, f"It is {said}.") == 1
    assert f1(answer, said) == 1
    assert error_type(answer, said, f"The text holds {answer}.") == "correct"


@pytest.mark.parametrize(
    ("answer", "other"),
    [("की", "का"), ("दिल्ली", "दुल्लू"), ("مَكْتَبَة", "مُكْتِبَة"), ("นก", "น้ำ"), ("កា", "កី"), ("שָׁלוֹם", "שִׁלוּם"), ("été", "ete")],
)
def test_letters_keep_their_marks(answer, other):
    assert words(answer) != words(other)
    assert rouge1_recall(answer, other) < 1
    assert error_type(answer, other, f"The text holds {answer}.") != "correct"
    assert f1(answer, other) < 1


@pytest.mark.parametrize("answer", [answer for answer in ANSWERS if not canonical(answer).isascii()])
def test_no_letter_is_lost_and_no_mark_stands_alone(answer):
    found = words(answer)
    assert "".join(found) == "".join(c for c in canonical(answer) if unicodedata.category(c)[0] in "LMN")
    assert all(unicodedata.category(word[0])[0] in "LN" for word in found)


@given(st.text(max_size=60))
def test_the_canonical_form_is_its_own(text):
    assert canonical(canonical(text)) == canonical(text)


@given(st.text(st.characters(codec="ascii"), max_size=60))
def test_of_ascii_text_only_the_case_is_taken(text):
    assert canonical(text) == text.lower()
