"""Prompts are in the needle questions' frame, of the length asked for, and hold no answer of their own."""

import re

import pytest

from rhlens.tasks.cot import Problem
from rhlens.tasks.facts import FAMILY_NAMES, GIVEN_NAMES, closed_book_facts
from rhlens.tasks.haystack import GeneratedHaystack
from rhlens.tasks.prompts import CHAIN, DIRECT, Prompt, closed_book_prompts, problem_prompts
from rhlens.zoo.tokenizer import zoo_tokenizer
from tests.support import make_tokenizer


def everything(tokenizer, length: int = 200) -> list[Prompt]:
    return [
        *closed_book_prompts(tokenizer, 9, length),
        *closed_book_prompts(tokenizer, 9, length, restate=False),
        *problem_prompts(tokenizer, 9, length),
        *problem_prompts(tokenizer, 9, length, chain_of_thought=True),
    ]


def test_in_the_zoos_tokenizer_every_prompt_is_exactly_as_long_as_asked(tokenizer):
    for prompt in everything(tokenizer):
        assert prompt.length == len(prompt.tokens) == 200
        text = tokenizer.decode(prompt.tokens[1:])
        assert prompt.tokens == tuple(tokenizer(text).input_ids), "text and tokens are of one piece"
        assert f"\n\nQuestion: {prompt.question}\n" in text


@pytest.mark.parametrize("kind", ["byte-bpe", "sentencepiece", "words"])
def test_other_tokenizers_come_close(kind):
    tokenizer = make_tokenizer(kind)
    for prompt in everything(tokenizer):
        assert abs(prompt.length - 200) <= 4
        assert prompt.tokens[0] == tokenizer.bos_token_id
        assert prompt.tokens[-1] != tokenizer.eos_token_id


def test_nothing_but_the_restated_cue_tells_about_a_closed_book_fact(tokenizer):
    known = {fact.question: fact for fact in closed_book_facts()}
    names = {*GIVEN_NAMES, *FAMILY_NAMES}
    for prompt in closed_book_prompts(tokenizer, restate=False):
        fact = known[prompt.question]
        context, _, question = tokenizer.decode(prompt.tokens).rpartition("Question:")
        assert question == f" {fact.question}\nAnswer:"
        assert not names & set(re.findall(r"\w+", context))
        assert tokenizer.decode(prompt.reply) == f" {fact.answer}"
    assert len(closed_book_prompts(tokenizer)) == len(known)


def test_a_problem_is_the_same_with_and_without_a_chain_and_was_never_trained_on(tokenizer):
    direct, chain = (problem_prompts(tokenizer, 20, chain_of_thought=c) for c in (False, True))
    assert [p.question for p in direct] == [p.question for p in chain]
    assert len({p.question for p in direct}) == 20
    assert all(Problem(p.question, "", p.answer).held_out for p in direct)
    assert {p.kind for p in direct} == {DIRECT}
    assert {p.kind for p in chain} == {CHAIN}
    for a, b in zip(direct, chain, strict=True):
        assert tokenizer.decode(a.reply) == f" {a.answer}"
        assert b.said(tokenizer.decode(b.reply)) == f" {b.answer}"


def test_only_a_chain_is_judged_by_its_conclusion(tokenizer):
    (direct,), (chain,) = (problem_prompts(tokenizer, 1, chain_of_thought=c) for c in (False, True))
    assert direct.said("7") == "7"
    assert chain.said("Runa has 7. Answer: 7") == " 7"
    assert chain.said("Runa has 7.") == "", "a chain without a conclusion answers nothing"


def test_every_prompt_has_filler_of_its_own(tokenizer):
    starts = [prompt.tokens[:20] for prompt in problem_prompts(tokenizer, 10)]
    assert len(set(starts)) == 10
    assert problem_prompts(tokenizer, 10) == problem_prompts(tokenizer, 12)[:10]


def test_a_chat_template_is_rendered_around_filler_and_question():
    tokenizer = zoo_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}<{{ messages[0].content }}>\nModel:{{ '\\n' }}"
    for prompt in (*closed_book_prompts(tokenizer, 3, chat=True), *problem_prompts(tokenizer, 3, chat=True)):
        text = tokenizer.decode(prompt.tokens)
        assert prompt.length == 256
        assert text.startswith("<bos><")
        assert text.count("<bos>") == 1
        assert f"Question: {prompt.question}>\nModel:\n" in text
    assert GeneratedHaystack("prompt:0:0").text(50)[:50] in tokenizer.decode(
        problem_prompts(tokenizer, 1, chat=True)[0].tokens
    )


def test_bad_requests_are_refused(tokenizer):
    with pytest.raises(ValueError, match="ask for 1 to 217"):
        closed_book_prompts(tokenizer, 218)
    with pytest.raises(ValueError, match="at least 1"):
        problem_prompts(tokenizer, 0)
    with pytest.raises(ValueError, match="too short"):
        problem_prompts(tokenizer, 1, length=20)
    with pytest.raises(ValueError, match="no chat template"):
        closed_book_prompts(tokenizer, 1, chat=True)
