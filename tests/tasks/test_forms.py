"""Prompts as their form says: templates of one's own, chat templates, the day that they print."""

import pytest

import rhlens as rh
from rhlens.measure.detect import asked
from rhlens.tasks.forms import DAY, arguments, turn_ends
from rhlens.tasks.needles import Needle
from rhlens.zoo.tokenizer import CHAT_TEMPLATE, zoo_tokenizer
from tests.real_tokenizers import GPT_OSS, R1

NEEDLE = Needle("mine", "The code of the bell is 12345.", "What is the code of the bell?", "12345")
QWEN = (
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{%- if m.role == 'assistant' and loop.last %}{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{{ m.content + '<|im_end|>' + '\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)


def chat(template: str):
    tokenizer = zoo_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def prompt(tokenizer, **form):
    [trial] = rh.niah(tokenizer, [300], [0.5], needles=[NEEDLE], **form)
    assert len(trial.tokens) == 300
    return trial


def test_the_default_is_as_published_needle_tests_are(tokenizer):
    assert prompt(tokenizer).text.endswith(f"\n\nQuestion: {NEEDLE.question}\nAnswer: {NEEDLE.cue}")
    assert prompt(tokenizer, restate=False).text.endswith(f"\n\nQuestion: {NEEDLE.question}\nAnswer:")


def test_a_papers_own_format_can_be_asked(tokenizer):
    book = (
        "This is a very long story book: <book> {haystack} </book>.\nBased on the content of the book, "
        'Question: {question}\nReply as {"answer": ...}: {cue}'
    )
    trial = prompt(tokenizer, template=book)
    assert trial.text.startswith("This is a very long story book: <book> ")
    assert trial.text.endswith(
        f" </book>.\nBased on the content of the book, Question: {NEEDLE.question}\n"
        f'Reply as {{"answer": ...}}: {NEEDLE.cue}'
    )
    alone = prompt(tokenizer, template=book, restate=False)
    assert alone.text.endswith('"answer": ...}:'), "no space is left at the end"
    assert tokenizer.decode(alone.reply) == " 12345"
    first = prompt(tokenizer, template="{question}\n\n{haystack}")
    assert first.text.startswith(NEEDLE.question)
    assert first.question_span == (300, 300)
    assert asked([trial])["forms"] == [{"template": book}]


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"template": "{question}"}, r"needs \{haystack\} once"),
        ({"template": "{haystack} {haystack} {question}"}, r"needs \{haystack\} once"),
        ({"template": "{haystack}"}, r"and \{question\}"),
        ({"template": "{cue} {haystack} {question}"}, "at the very end"),
        ({"system": "Be brief."}, "need chat=True"),
        ({"chat_template_kwargs": {"a": 1}}, "need chat=True"),
        ({"chat": True, "chat_template_kwargs": "a"}, "must be a dictionary"),
        ({"date": "tomorrow"}, "must be a day like"),
        ({"reasoning": "(", "chat": True}, "regular expression"),
        (
            {"chat": True, "chat_template_kwargs": {"enable_thinkin": False}},
            "no argument 'enable_thinkin'; .*: enable",
        ),
    ],
)
def test_bad_forms_are_one_sentence(form, message):
    with pytest.raises(ValueError, match=message):
        prompt(chat(QWEN), **form)


@pytest.mark.parametrize("template", [QWEN, R1, GPT_OSS, CHAT_TEMPLATE])
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_a_restated_cue_stands_where_continue_final_message_puts_it(template, system):
    tokenizer = chat(template)
    trial = prompt(tokenizer, chat=True, system=system)
    user = trial.text[trial.text.index(GENERATED := rh.niah(tokenizer, [300], [0.5], needles=[NEEDLE])[0].text[:40]) :]
    user = user[: user.index(NEEDLE.question) + len(NEEDLE.question)]
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": NEEDLE.cue}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    today = f"{{% macro strftime_now(f) %}}{DAY}{{% endmacro %}}" if "strftime_now" in template else ""
    expected = tokenizer.apply_chat_template(
        messages, chat_template=today + template, tokenize=False, continue_final_message=True
    )
    assert trial.text == expected
    assert GENERATED in trial.text
    assert tokenizer.decode(trial.reply) == " 12345"


def test_the_day_is_fixed_and_can_be_chosen():
    tokenizer = chat(GPT_OSS)
    assert f"Current date: {DAY}\n" in prompt(tokenizer, chat=True).text
    other = prompt(tokenizer, chat=True, date="2031-01-09")
    assert "Current date: 2031-01-09\n" in other.text
    assert other.form.about["date"] == "2031-01-09"
    spelled = chat("{{ strftime_now('%d %b %Y, %A') }} {{ messages[0].content }} {{ messages[1].content }}")
    assert prompt(spelled, chat=True, date="2031-01-09").text.startswith("09 Jan 2031, Thursday ")
    llama = chat(
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "Today Date: {{ date_string }}\n{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    assert prompt(llama, chat=True).text.startswith("Today Date: 26 Jul 2024\n")
    given = prompt(llama, chat=True, chat_template_kwargs={"date_string": "1 May 1999"})
    assert given.text.startswith("Today Date: 1 May 1999\n")


def test_arguments_reach_the_template_and_reasoning_is_known():
    tokenizer = chat(QWEN)
    thinking = prompt(tokenizer, chat=True, restate=False)
    calm = prompt(tokenizer, chat=True, restate=False, chat_template_kwargs={"enable_thinking": False})
    assert calm.text.endswith("assistant\n<think>\n\n</think>\n\n")
    assert thinking.text.endswith("assistant\n")
    assert thinking.turn.answer_start("<think>\nhm") is None
    assert prompt(chat(R1), chat=True, restate=False).turn.opened == "<think>\n"
    assert prompt(tokenizer).turn.reasoning == "", "without chat nobody is known to reason"
    found = arguments(QWEN)
    assert found is not None
    assert found.meant == {"enable_thinking"}


def test_a_template_that_cannot_be_filled_is_refused():
    with pytest.raises(ValueError, match=r"cannot be rendered \(.*no system.*\): drop chat"):
        prompt(chat("{{ raise_exception('no system, please') }}"), chat=True, restate=False)
    with pytest.raises(
        ValueError, match=r"cannot begin the model's turn .*: drop chat=True, or ask with restate=False"
    ):
        prompt(chat("{{ messages[0].content }}"), chat=True)
    assert prompt(chat("{{ messages[0].content }}"), chat=True, restate=False)


def test_a_template_of_ones_own_writes_its_own_bos(tokenizer):
    trial = prompt(tokenizer, template="<bos>{haystack}\n{question} {cue}")
    assert trial.tokens.count(tokenizer.bos_token_id) == 1


def test_a_turn_ends_with_what_the_template_writes_after_it():
    tokenizer = zoo_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>", "<|eot|>"]})
    assert turn_ends(tokenizer) == set()
    tokenizer.chat_template = QWEN
    assert turn_ends(tokenizer) == {tokenizer.convert_tokens_to_ids("<|im_end|>")}
    tokenizer.chat_template = QWEN.replace("<|im_end|>", "END")
    assert turn_ends(tokenizer) == set(), "ordinary text is no end of turn"
