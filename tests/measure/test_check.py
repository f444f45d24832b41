"""rhlens check: which form of prompt a model answers."""

import json

import pytest

import rhlens as rh
from rhlens.measure.detect import advice
from rhlens.measure.recall import exact_match
from rhlens.zoo.tokenizer import CHAT_TEMPLATE
from tests.support import tiny_checkpoint
from tests.test_cli import run


@pytest.fixture(scope="module")
def chatting(tmp_path_factory):
    from rhlens.zoo.tokenizer import zoo_tokenizer

    tokenizer = zoo_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE + "{% if enable_thinking is defined %}{{ 'calm' }}{% endif %}"
    return rh.load(tiny_checkpoint("llama", tmp_path_factory.mktemp("chat"), tokenizer=tokenizer), quiet=True)


def test_every_sensible_form_is_asked_and_the_best_is_first(planted_llama):
    model = planted_llama[0]
    found = rh.check(model, length=200, needles=3)
    assert set(zip(found.table["form"], found.table["haystack"], strict=True)) == {
        (form, stack) for form in ("restated", "question") for stack in ("generated", "python-docs")
    }
    assert found.table["recall"].is_monotonic_decreasing
    assert found.best is not None
    assert found.best["recall"] == 1
    trials = rh.niah(model, [200], [0.5], needles=3, **found.best["options"])
    assert rh.detect(model, trials).trials["recall"].mean() == 1, "its options ask so"
    assert found.advice in repr(found)
    assert "restated" in found._repr_html_()


def test_a_chat_template_and_its_arguments_are_tried(chatting):
    table = rh.check(chatting, length=200, needles=1, haystack="python-docs").table
    assert set(table["form"]) == {"restated", "question", "chat", "chat, restated", "chat, enable_thinking false"}
    [calm] = table.loc[table["form"] == "chat, enable_thinking false", "flags"]
    assert calm == "--haystack python-docs --chat --no-restate --chat-template-args '{\"enable_thinking\": false}'"


def test_a_form_that_cannot_be_asked_stays_with_the_reason(planted_llama, tmp_path):
    (tmp_path / "known.txt").write_text("The number 05111 is on the wall. " * 20)
    found = rh.check(planted_llama[0], length=200, needles=1, haystack=tmp_path / "known.txt")
    assert found.best is None
    assert found.table["note"].str.contains("'05111' stands in the haystack").all()
    assert "see the notes" in found.advice


def test_the_command_prints_a_table_or_json(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "150")
    assert run(monkeypatch, "check", "planted-llama", "--needles", "2", "--length", "200") == 0
    assert "--no-restate" in capsys.readouterr().out
    assert run(monkeypatch, "check", "planted-llama", "--needles", "1", "--length", "200", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verb"] == "check"
    assert {row["form"] for row in found["forms"]} == {"restated", "question"}


def test_low_recall_is_met_with_what_to_try(tiny_llama, planted_llama, capsys):
    rh.detect(tiny_llama, rh.niah(tiny_llama, [150], 1, needles=1), max_new_tokens=3)
    assert "rhlens check" in capsys.readouterr().err
    scores = rh.detect(planted_llama[0], rh.niah(planted_llama[0], [150], 1, needles=1))
    assert advice(scores) is None
    assert "check" not in capsys.readouterr().err
    silent = scores.trials.assign(output="", ended="end of turn", recall=0.0)
    assert "1 of 1 answers are empty" in str(advice(rh.HeadScores(scores.set_scores, scores.sum_scores, silent)))
    lost = scores.trials.assign(output="", ended="reasoning limit", recall=0.0)
    assert "max_reasoning_tokens" in str(advice(rh.HeadScores(scores.set_scores, scores.sum_scores, lost)))


@pytest.mark.parametrize("said", ["The answer is: 12345", "Answer: 12345.", "the final answer is 12345", "12345"])
def test_an_announced_answer_is_the_answer(said):
    assert exact_match("12345", said)


@pytest.mark.parametrize("said", ["The answer is: 12346", "The question is: 12345", "", "Answers: 12345"])
def test_other_words_are_not(said):
    assert not exact_match("12345", said)
