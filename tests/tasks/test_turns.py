"""Where a model's answer begins and ends in what it says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhlens.tasks.turns import FIRST_LINE, REASONING, Turn, opened_turn

SAID = {
    "<think>\nIs it 5?\n\nYes.\n</think>\n\n12345": "\n\n12345",
    "<think></think>12345": "12345",
    "[THINK]hm\n[/THINK]12345": "12345",
    "<|START_THINKING|>hm<|END_THINKING|>12345": "12345",
    "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>12345": "12345",
    "<|channel|>final<|message|>12345": "12345",
    "12345": "12345",
    " <b>12345</b>": " <b>12345</b>",
}


@pytest.mark.parametrize("said", SAID)
def test_the_answer_is_what_comes_after_the_reasoning_however_much_of_it_was_said(said):
    turn, start = Turn(REASONING), len(said) - len(SAID[said])
    for n in range(len(said) + 1):
        found = turn.answer_start(said[:n])
        if n < start:
            assert found is None, "the reasoning goes on"
        elif found is not None:
            assert found == start
    assert turn.answer_start(said) == start


def test_a_marker_between_reasoning_and_answer_is_neither():
    said = "<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>"
    assert Turn(REASONING).answer_start(said + "12345") == len(said)


def test_reasoning_that_the_prompt_has_begun_is_reasoning_still():
    opened = opened_turn(REASONING, "text<｜Assistant｜><think>\n")
    assert opened == "<think>\n"
    turn = Turn(REASONING, opened)
    assert turn.answer_start("so it is 5") is None
    assert turn.answer_start("so it is 5</think>\n12345") == len("so it is 5</think>")
    closed = opened_turn(REASONING, "<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert Turn(REASONING, closed).answer_start("12345") == 0, "a block that the prompt closed is over"
    assert opened_turn(REASONING, "Answer:") == ""
    assert opened_turn("", "<think>") == ""


def test_a_pattern_of_ones_own():
    turn = Turn(r"(?:Step \d+:[^\n]*\n)+Therefore")
    assert turn.answer_start("Step 1: look\nStep 2: ") is None
    assert turn.answer_start("Step 1: look\nTherefore 5") == len("Step 1: look\nTherefore")
    assert turn.answer_start("It is 5") == 0


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        ("12345\nNext", 5),
        ("\n\n 12345\nNext", 8),
        ("12345", None),
        ("\n\n", None),
        ("The answer is: 12345\nNext", 20),
        ("The answer is:\n12345", 14),
        ("a\u2028b", 1),
    ],
)
def test_an_answer_ends_with_its_first_line_that_says_something(answer, end):
    found = FIRST_LINE.answer_end(answer)
    assert (found and found[0]) == end
    assert FIRST_LINE.output(answer) == " ".join(answer[:end].split())


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        ("The answer is:\n\n12345\nNext", 21),
        ("**Answer:** \n12345\nNext", 18),
        ("The code of the bell is:\n12345", None),
        ("It is 12:\n30:\n40", 13),
        ("The answer is: 12345\nNext", 20),
        ("It is:", None),
        ("It is:\n\n", None),
    ],
)
def test_a_line_that_announces_an_answer_does_not_end_it(answer, end):
    found = Turn(announced=True).answer_end(answer)
    assert (found and found[0]) == end


def test_stop_texts_end_an_answer_instead_of_its_line():
    turn = Turn(stop=("###", "END"))
    assert turn.answer_end("one\ntwo") is None
    assert turn.answer_end("one\ntwo END ### three") == (8, "stop")
    assert turn.output("one\ntwo END three") == "one\ntwo"


@given(st.text(max_size=40))
def test_an_output_is_part_of_the_answer_and_one_line(answer):
    output = FIRST_LINE.output(answer)
    assert output.split() == answer.split()[: len(output.split())]
    assert len(output.splitlines()) <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reasoning": "(<think>"}, r"must be a regular expression, and '\(<think>' is none"),
        ({"stop": ("",)}, "texts that are not empty"),
        ({"stop": "###"}, "texts that are not empty"),
        ({"max_reasoning_tokens": 0}, "at least 1"),
    ],
)
def test_bad_turns_are_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        Turn(**options)
