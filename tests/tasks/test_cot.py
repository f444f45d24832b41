"""The chain of thought is right: recomputed from the question alone. The user's problems are read as they stand."""

import json
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhlens.tasks.cot import Problem, read_problems, sample_problem

problems = st.builds(
    lambda seed, people, held_out: sample_problem(random.Random(seed), people, held_out),
    st.integers(0, 10**9),
    st.integers(2, 5),
    st.booleans(),
)


@given(problems)
def test_the_chain_reads_the_numbers_off_the_question_and_adds_them_up(problem):
    numbers = [(name, int(n)) for name, n in re.findall(r"(\w+) has (\d+)", problem.question)]
    read = [(name, int(n)) for name, n in re.findall(r"(\w+) has (\d+)", problem.chain)]
    assert read == numbers
    total = numbers[0][1]
    sums = re.findall(r"(\d+) \+ (\d+) = (\d+)", problem.chain)
    for (_, number), (before, added, after) in zip(numbers[1:], sums, strict=True):
        assert (int(before), int(added), int(after)) == (total, number, total + number)
        total += number
    assert problem.answer == str(total)


@given(problems)
def test_only_the_chain_form_holds_the_chain(problem):
    assert problem.chain in problem.completion(chain_of_thought=True)
    for chain in (True, False):
        assert problem.question in problem.prompt(chain)
        assert problem.completion(chain).endswith(f" {problem.answer}.\n")
        assert problem.chain not in problem.prompt(chain)
    assert problem.completion(chain_of_thought=False) == f" {problem.answer}.\n"


@given(st.integers(0, 10**9), st.booleans())
def test_a_problem_is_held_out_or_open_by_its_text_alone(seed, held_out):
    problem = sample_problem(random.Random(seed), held_out=held_out)
    assert problem.held_out is held_out


GSM8K = {
    "question": "Weng earns $12 an hour. What does she earn in 150 hours?",
    "answer": "An hour is $<<12=12>>12.\nSo 150 hours are 150*12 = $<<150*12=1800>>1,800.\n#### 1,800",
}
MMLU = {"question": "Which is\nprime?", "choices": ["4", "6 ", "7", "9"], "answer": 2}
MUSIQUE = {
    "paragraphs": [
        {"idx": 0, "title": "Anna", "paragraph_text": "Anna wrote Ash.", "is_supporting": True},
        {"idx": 1, "title": "Ash", "paragraph_text": "Ash is a book.\n", "is_supporting": False},
    ],
    "question": "Who wrote the book?",
    "answer": "Anna B.",
    "answer_aliases": ["Anna", "Anna Berg"],
    "answerable": True,
}


def read(tmp_path, *entries, name: str = "mine.jsonl"):
    path = tmp_path / name
    path.write_text("\n".join(json.dumps(entry) for entry in entries))
    return read_problems(path)


def test_gsm8k_gives_a_chain_on_one_line_and_a_number_with_and_without_commas(tmp_path):
    small = {"question": "Q", "answer": "It is\n#### -7"}
    large, negative, fraction, word = read(
        tmp_path, GSM8K, small, small | {"answer": "So\n#### 12345.6789"}, small | {"answer": "So\n#### half  past 5"}
    )
    chain = "An hour is $12. So 150 hours are 150*12 = $1,800. Answer:"
    assert large == Problem(GSM8K["question"], chain, "1800", others=("1,800",))
    assert large.completion(True) == f" {chain} 1800.\n"
    assert (negative.answer, negative.others) == ("-7", ("-7",))
    assert (fraction.answer, fraction.others) == ("12345.6789", ("12,345.6789",))
    assert word.answer == "half past 5"


def test_mmlu_is_the_same_from_lines_from_a_list_from_letters_and_from_the_csv(tmp_path):
    expected = Problem("Which is\nprime? A) 4 B) 6 C) 7 D) 9", "", "C", others=("C) 7", "7"))
    assert read(tmp_path, MMLU) == read(tmp_path, [MMLU]) == read(tmp_path, MMLU | {"answer": "C"}) == [expected]
    (tmp_path / "prime_test.csv").write_text('"Which is\nprime?",4,"6 ",7,9,C\n\n"Is ""it""?",yes,no,"a, b",d,A\n')
    first, second = read_problems(tmp_path / "prime_test.csv")
    assert first == expected
    assert second.question == 'Is "it"? A) yes B) no C) a, b D) d'
    assert second.others == ("A) yes", "yes")


def test_musique_puts_its_paragraphs_before_the_question_and_leaves_out_what_has_no_answer(tmp_path, capsys):
    [problem] = read(tmp_path, MUSIQUE, MUSIQUE | {"answerable": False, "answer": ""})
    assert problem == Problem(
        MUSIQUE["question"], "", "Anna B.", "Anna wrote Ash.\n\nAsh is a book.", ("Anna", "Anna Berg")
    )
    assert problem.prompt(False) == ("\n\nAnna wrote Ash.\n\nAsh is a book.\n\nQuestion: Who wrote the book?\nAnswer:")
    assert problem.completion(chain_of_thought=True) == " Answer: Anna B..\n"
    assert (
        capsys.readouterr().err == f"{tmp_path / 'mine.jsonl'}: 1 of 2 questions left out, since they have no answer\n"
    )
    short = {field: MUSIQUE[field] for field in ("paragraphs", "question", "answer")}
    assert read(tmp_path, short)[0].others == ()


@pytest.mark.parametrize(
    ("entry", "missing"),
    [
        ({"question": "Q"}, "no known form"),
        ("text", "no known form"),
        ({"question": "Q", "answer": "just 7"}, "#### 1,234"),
        ({"question": "Q", "answer": "so ####"}, "#### 1,234"),
        ({"question": "", "answer": "so #### 7"}, "'question'"),
        (MMLU | {"answer": "E"}, "letter from A to D"),
        (MMLU | {"answer": "BC"}, "letter from A to D"),
        (MMLU | {"answer": 4}, "letter from A to D"),
        (MMLU | {"answer": -1}, "letter from A to D"),
        (MMLU | {"answer": None}, "letter from A to D"),
        (MMLU | {"choices": []}, "'choices'"),
        (MMLU | {"choices": ["4", 5]}, "'choices'"),
        (MUSIQUE | {"paragraphs": "text"}, "'paragraphs'"),
        (MUSIQUE | {"paragraphs": [{"text": "t"}]}, r"paragraphs\[0\] needs a field 'paragraph_text'"),
        (MUSIQUE | {"answer": None}, "'answer'"),
        (MUSIQUE | {"answer_aliases": [""]}, "'answer_aliases'"),
    ],
)
def test_a_damaged_entry_is_named_with_what_it_lacks(entry, missing, tmp_path):
    with pytest.raises(ValueError, match=rf"mine\.jsonl, line 2\b.*{missing}"):
        read(tmp_path, GSM8K, entry)


def test_a_damaged_csv_is_named_with_its_line(tmp_path):
    path = tmp_path / "mmlu.csv"
    path.write_text("Q,1,2,3,4,A\nQ,1,2,3\n")
    with pytest.raises(ValueError, match=r"mmlu\.csv, line 2 needs 6 columns .*, not 4"):
        read_problems(path)
    path.write_text("question,A,B,C,D,answer\nQ,1,2,3,4,A\n")
    with pytest.raises(ValueError, match="line 1: its answer must be a letter"):
        read_problems(path)
    path.write_text('Q,1,2,3,4,A\n"Q' + ",1" * 100_000)
    with pytest.raises(ValueError, match="close its quotation marks"):
        read_problems(path)
