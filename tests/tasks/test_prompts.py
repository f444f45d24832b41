"""Prompts are in the needle questions' frame, of the length asked for, and hold no answer of their own."""

import hashlib
import random
import re
from types import SimpleNamespace

import pytest

from rhlens.measure.recall import judge
from rhlens.tasks.cot import Problem, sample_problem
from rhlens.tasks.facts import FAMILY_NAMES, GIVEN_NAMES, Fact, closed_book_facts
from rhlens.tasks.haystack import GeneratedHaystack
from rhlens.tasks.prompts import (
    CHAIN,
    CLOSED_BOOK,
    CONCLUDE,
    DIRECT,
    Prompt,
    closed_book_prompts,
    fact_prompts,
    problem_prompts,
)
from rhlens.zoo.tokenizer import CHAT_TEMPLATE, zoo_tokenizer
from tests.support import make_tokenizer


def zoo_chat():
    tokenizer = zoo_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


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
    tokenizer.chat_template = (
        "{{ bos_token }}<{{ messages[0].content }}>\nModel:{{ '\\n' }}"
        "{% for m in messages[1:] %}{{ m.content }}{% endfor %}"
    )
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


def checksum(prompts: list[Prompt]) -> str:
    held = [(p.kind, p.question, p.answer, p.tokens, p.reply, p.index, p.text) for p in prompts]
    return hashlib.sha256(repr(held).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("chat", "expected"),
    [
        (False, ["cafb2cbc3e12de56", "771b0522571dcdd0", "d3be76d05cbff6aa", "1b055c5190bf33b7"]),
        (True, ["d8dbffe358c34ff8", "f09ebd5b001e2c1d", "a111b11b50fe7430", "d7adc87cad5776d3"]),
    ],
)
def test_generated_prompts_are_still_those_that_the_zoo_was_trained_on_and_measured_with(chat, expected):
    tokenizer = zoo_chat()
    prompts = [
        closed_book_prompts(tokenizer, 20, 200, chat=chat),
        closed_book_prompts(tokenizer, 20, 200, 3, False, chat),
        problem_prompts(tokenizer, 20, chat=chat),
        problem_prompts(tokenizer, 20, 200, True, 1, chat),
    ]
    assert [checksum(some) for some in prompts] == expected


SUM = Problem("What is 2 and 3?", "2 and 3 are 5. Answer:", "5", others=("5.0",))
HARD = Problem("What is 900 and 900?", "They are 1800. Answer:", "1800", others=("1,800",))
CHOICE = Problem("Which? A) ant B) U.S.", "", "B", others=("B) U.S.", "U.S."))
READ = Problem("Who wrote it?", "", "Anna B.", "Ash is a book.\n\nAnna B. wrote Ash.", ("Anna",))
FACTS = [Fact("The capital of France is", ("Paris",)), Fact("Столица: ", ("Москва", "Москва-город"))]


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("length", [None, 150])
def test_what_a_prompt_asks_for_is_judged_right_and_its_tokens_are_its_text(chat, length):
    tokenizer = zoo_chat()
    prompts = [
        *closed_book_prompts(tokenizer, 5, chat=chat),
        *fact_prompts(tokenizer, FACTS, chat),
        *problem_prompts(tokenizer, [SUM, CHOICE, READ], length, chat=chat),
        *problem_prompts(tokenizer, [SUM, CHOICE, READ], length, chain_of_thought=True, chat=chat),
        *problem_prompts(tokenizer, [SUM, HARD, CHOICE], length, True, chat=chat, shots=2),
    ]
    assert len(prompts) == 5 + 2 + 3 + 3 + 1
    for prompt in prompts:
        assert prompt.tokens == tuple(tokenizer(prompt.text, add_special_tokens=not chat).input_ids)
        assert prompt.tokens.count(tokenizer.bos_token_id) == 1
        said = tokenizer.decode(prompt.reply)
        assert judge(prompt, said) == {"output": said, "recall": 1, "exact": True, "f1": 1, "error": "correct"}
        for answer in prompt.answers:
            assert judge(prompt, f"Hm. Answer: {answer}" if prompt.kind == CHAIN else answer)["exact"]
        assert not judge(prompt, "xyzzy")["exact"]
        if length and prompt.kind in (DIRECT, CHAIN):
            assert prompt.length == length


def test_facts_of_the_users_are_asked_word_for_word(tokenizer):
    france, russia = fact_prompts(tokenizer, FACTS)
    assert (france.index, russia.index) == (0, 1)
    assert (france.text, russia.text) == ("The capital of France is", "Столица: ")
    assert tokenizer.decode(france.reply) == " Paris"
    assert tokenizer.decode(russia.reply) == "Москва", "the prompt ends with the space already"
    assert france.kind == russia.kind == CLOSED_BOOK
    assert russia.answers == ("Москва", "Москва-город")
    assert [p.labels["needle"] for p in (france, russia)] == [fact.prompt for fact in FACTS]


def test_problems_of_the_users_stand_in_the_frame_with_their_context_before_them(tokenizer):
    direct, read = problem_prompts(tokenizer, [SUM, READ], None)
    assert direct.text == "Question: What is 2 and 3?\nAnswer:"
    assert read.text == "Ash is a book.\n\nAnna B. wrote Ash.\n\nQuestion: Who wrote it?\nAnswer:"
    [filled] = problem_prompts(tokenizer, [READ], 100)
    filler, _, rest = filled.text.partition("\n\nAsh is")
    assert f"Ash is{rest}" == read.text
    assert len(filler) > 50
    assert GeneratedHaystack("prompt:0:0").text(900).startswith(filler)
    assert problem_prompts(tokenizer, 3, None)[2].text == problem_prompts(tokenizer, 3)[2].text.split("\n\n")[-1]


def test_a_chain_of_thought_is_told_or_shown_how_to_end(tokenizer):
    [told] = problem_prompts(tokenizer, [SUM], None, chain_of_thought=True)
    assert told.text == f"Question: What is 2 and 3?{CONCLUDE}\nStep by step:"
    assert '"Answer:"' in CONCLUDE
    assert tokenizer.decode(told.reply) == " 2 and 3 are 5. Answer: 5"
    [shown] = problem_prompts(tokenizer, [SUM, CHOICE], None, chain_of_thought=True, shots=1)
    assert shown.text == (
        "Question: What is 2 and 3?\nStep by step: 2 and 3 are 5. Answer: 5.\n\n\n"
        "Question: Which? A) ant B) U.S.\nStep by step:"
    )
    assert tokenizer.decode(shown.reply) == " Answer: B"
    [chat] = problem_prompts(zoo_chat(), [CHOICE, SUM], None, chat=True, shots=1)
    assert "Question: Which? A) ant B) U.S.\nAnswer: B.\n\n\nQuestion: What is 2 and 3?\nAssistant:" in chat.text


def test_shots_are_the_first_problems_and_not_asked(tokenizer):
    few, all_ = (problem_prompts(tokenizer, 6, 400, chain_of_thought=True, shots=shots) for shots in (2, 0))
    assert [p.question for p in few] == [p.question for p in all_[2:]]
    for prompt in few:
        assert all(
            f"Question: {p.question}\nStep by step:{tokenizer.decode(p.reply)}.\n" in prompt.text for p in all_[:2]
        )
        assert prompt.text.count("Question:") == 3
    drawn = [sample_problem(random.Random(f"problem:0:{i}")) for i in range(6)]
    given = problem_prompts(tokenizer, drawn, 400, chain_of_thought=True, shots=2)
    assert [p.text for p in given] == [p.text for p in few]


def test_bad_shots_are_refused(tokenizer):
    for shots in (-1, 2, 3):
        with pytest.raises(ValueError, match="leave one of the 2 problems"):
            problem_prompts(tokenizer, [SUM, CHOICE], shots=shots)
    with pytest.raises(ValueError, match="problem 2 has no chain of thought"):
        problem_prompts(tokenizer, [SUM, CHOICE, HARD], None, chain_of_thought=True, shots=2)
    assert problem_prompts(tokenizer, [SUM, CHOICE, HARD], None, shots=2)[0].question == HARD.question


def test_what_is_too_long_is_left_out_and_counted(tokenizer, capsys):
    long = Problem("Long?", "", "yes", "word " * 200)
    kept = problem_prompts(tokenizer, [SUM, long, HARD, long], 100)
    assert [(p.index, p.question) for p in kept] == [(0, SUM.question), (2, HARD.question)]
    assert capsys.readouterr().err.startswith("2 of 4 prompts left out: length 100 is too short")
    room = problem_prompts(tokenizer, [HARD], None)[0]
    needed = room.length + len(room.reply)
    model = SimpleNamespace(tokenizer=tokenizer, cfg=SimpleNamespace(n_ctx=needed))
    assert len(problem_prompts(model, [HARD], None)) == 1
    assert capsys.readouterr().err == ""
    model.cfg.n_ctx -= 1
    with pytest.raises(ValueError, match=f"takes {needed} tokens, more than the model's context of {needed - 1}"):
        problem_prompts(model, [HARD], None)
    with pytest.raises(ValueError, match="nothing to ask"):
        fact_prompts(model, [])
