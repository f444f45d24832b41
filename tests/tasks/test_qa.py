"""Extractive QA: the answer stands in the passage, the passage before its question. SQuAD is read as it is."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhlens.measure.recall import judge
from rhlens.tasks import qa
from rhlens.tasks.haystack import sentence_starts
from rhlens.tasks.needles import KINDS, Needle, draw_needles
from rhlens.tasks.qa import QA, Passage, draw_passages, qa_prompts, read_squad
from rhlens.zoo.tokenizer import CHAT_TEMPLATE, zoo_tokenizer

BOOK = Passage("Anna wrote Ash. It is a book.", "Who wrote it?", ("Anna", "Anna B."), "Ash")
OPENINGS = {
    "code": "What is the code of",
    "password": "What is the password of",
    "activity": "What is the best thing to do in",
    "journey": "Where did",
    "reason": "Why was",
    "list": "What does",
    "foreign": ("¿", "Que ", "Was gab"),
}


@given(st.integers(0, 10**6), st.integers(1, 9))
def test_the_answer_stands_in_a_drawn_passage_exactly_once_and_not_in_its_question(seed, n):
    for passage in draw_passages(n, seed):
        [answer] = passage.answers
        assert passage.context.count(answer) == 1
        assert answer not in passage.question
        assert "\n" not in passage.context
        for fact in (
            "The code of",
            "The password of",
            "The best thing to do in",
            " spent the ",
            " because ",
            " holds ",
        ):
            assert passage.context.count(fact) <= 1, "no two compete for the question"
        assert 6 <= len(sentence_starts(passage.context)) <= 10, "4-6 facts and 2-4 sentences of filler"


def test_a_passage_that_holds_its_answer_twice_is_drawn_again(monkeypatch):
    twice = [Needle("code", f"The code of the {thing} is 12345.", f"{thing}?", "12345") for thing in ("bell", "box")]
    drawn = iter([twice, draw_needles(4)])
    monkeypatch.setattr(qa, "draw_needles", lambda *_: next(drawn))
    [passage] = draw_passages(1)
    assert "12345" not in passage.context
    assert passage.answers == (draw_needles(1)[0].answer,)


def test_drawn_passages_are_seeded_and_ask_about_every_kind_in_turn():
    passages = draw_passages(14, seed=3)
    assert passages[:5] == draw_passages(5, seed=3) != draw_passages(5, seed=4)
    assert len({passage.context for passage in passages}) == 14
    for i, passage in enumerate(passages):
        assert passage.question.startswith(OPENINGS[KINDS[i % len(KINDS)]])
    with pytest.raises(ValueError, match="at least 1"):
        draw_passages(0)


@pytest.mark.parametrize("chat", [False, True])
def test_a_prompt_is_the_passage_a_blank_line_and_the_question_alone(chat):
    tokenizer = zoo_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    for passage, prompt in zip(draw_passages(7), qa_prompts(tokenizer, 7, chat=chat), strict=True):
        asked = f"{passage.context}\n\nQuestion: {passage.question}"
        assert prompt.text == (f"<bos>User:\n{asked}\nAssistant:\n" if chat else f"{asked}\nAnswer:")
        assert prompt.tokens == tuple(tokenizer(prompt.text, add_special_tokens=not chat).input_ids)
        assert (prompt.kind, prompt.question, prompt.answers) == (QA, passage.question, passage.answers)
        said = tokenizer.decode(prompt.reply)
        assert judge(prompt, said) == {"output": said, "recall": 1, "exact": True, "f1": 1, "error": "correct"}


def test_filler_comes_before_the_passage_up_to_the_length(tokenizer):
    short, long = qa_prompts(tokenizer, 5), qa_prompts(tokenizer, 5, length=300)
    assert len({prompt.length for prompt in short}) > 1
    for a, b in zip(short, long, strict=True):
        assert b.length == 300
        assert b.text.endswith(f"\n\n{a.text}")
        assert b.text.count(b.answer) == 1


def test_saying_the_question_again_is_no_wrong_extraction(tokenizer):
    [prompt] = qa_prompts(tokenizer, [BOOK])
    assert judge(prompt, "Anna wrote it")["error"] == "correct"
    assert judge(prompt, "who wrote it")["error"] == "no answer"
    assert judge(prompt, "who wrote it: Ash")["error"] == "wrong extraction"


def test_passages_too_long_for_the_model_or_the_length_are_left_out_and_counted(tokenizer, capsys):
    long = Passage("Anna wrote Ash. " * 40, "Who?", ("Anna",))
    needed = sum(
        len(part) for part in (qa_prompts(tokenizer, [BOOK])[0].tokens, qa_prompts(tokenizer, [BOOK])[0].reply)
    )
    model = SimpleNamespace(tokenizer=tokenizer, cfg=SimpleNamespace(n_ctx=needed))
    assert [p.index for p in qa_prompts(model, [long, BOOK])] == [1]
    assert "1 of 2 prompts left out" in capsys.readouterr().err
    assert [p.index for p in qa_prompts(tokenizer, [BOOK, long], length=60)] == [0]
    assert "1 of 2 prompts left out: length 60 is too short" in capsys.readouterr().err
    model.cfg.n_ctx -= 1
    with pytest.raises(ValueError, match=f"more than the model's context of {needed - 1}"):
        qa_prompts(model, [long, BOOK])
    with pytest.raises(ValueError, match="nothing to ask"):
        qa_prompts(tokenizer, [])


@pytest.mark.parametrize("answers", [(), ("",), "Anna"])
def test_a_passage_needs_a_tuple_of_answers(answers):
    with pytest.raises(ValueError, match=r"'Who\?' needs a tuple"):
        Passage("Anna wrote Ash.", "Who?", answers)


def squad(*qas) -> dict:
    paragraph = {"context": BOOK.context, "qas": list(qas)}
    return {"version": "v2.0", "data": [{"title": "Ash", "paragraphs": [paragraph]}]}


def question(*answers: str, **more) -> dict:
    return {"id": "1", "question": BOOK.question, "answers": [{"text": a, "answer_start": 0} for a in answers]} | more


def test_squad_is_read_with_the_same_answers_merged_and_those_without_one_counted(tmp_path, capsys):
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(squad(question("Anna", "Anna B.", "Anna"), question("Ash"))))
    assert read_squad(path) == [BOOK, Passage(BOOK.context, BOOK.question, ("Ash",), "Ash")]
    assert capsys.readouterr().err == ""
    impossible = {"question": "Who read it?", "is_impossible": True, "plausible_answers": []}
    path.write_text(json.dumps(squad(impossible, question("Anna", "Anna B.", is_impossible=False), question())))
    assert read_squad(path) == [BOOK]
    assert capsys.readouterr().err == f"{path}: 2 of 3 questions left out, since they have no answer\n"
    path.write_text(json.dumps(squad(impossible)))
    with pytest.raises(ValueError, match="no question that has an answer"):
        read_squad(path)


@pytest.mark.parametrize(
    ("root", "missing"),
    [
        ([], r"dev\.json needs a field 'data'"),
        ({"version": "1.1"}, r"dev\.json needs a field 'data'"),
        ({"data": [{"title": "Ash"}]}, r"data\[0\] needs a field 'paragraphs'"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, r"paragraphs\[0\] needs a field 'context'"),
        ({"data": [{"paragraphs": [{"context": "c"}]}]}, r"paragraphs\[0\] needs a field 'qas'"),
        (squad(question("Anna"), {"answers": []}), r"qas\[1\] needs a field 'question'"),
        (squad({"question": "Who?"}), r"data\[0\], paragraphs\[0\], qas\[0\] needs a field 'answers'"),
        (squad({"question": "Who?", "answers": [{"txt": "Anna"}]}), r"answers\[0\] needs a field 'text'"),
        (squad("Who?"), r"qas\[0\] needs a field 'question'"),
    ],
)
def test_a_file_that_is_not_squad_is_named_with_what_is_missing_where(root, missing, tmp_path):
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(root))
    with pytest.raises(ValueError, match=missing):
        read_squad(path)
