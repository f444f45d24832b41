"""The chain of thought is right: recomputed from the question alone."""

import random
import re

from hypothesis import given
from hypothesis import strategies as st

from rhlens.tasks.cot import sample_problem

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
