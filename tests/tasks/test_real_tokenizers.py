"""Prompts under the tokenizers that people use: every grid builds, and every answer is read as a person would."""

import argparse
import inspect
import re
import unicodedata
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import rhlens as rh
from rhlens.measure.copying import retrieval_score
from rhlens.measure.recall import judge
from rhlens.model.hooks import Looks
from rhlens.model.trace import Row
from rhlens.tasks.forms import turn_ends
from rhlens.tasks.haystack import sentence_starts
from rhlens.tasks.needles import Needle
from rhlens.tasks.spelling import exact_decoder, special_ids
from tests.real_tokenizers import GPT_OSS, NAMES, R1, real_tokenizer

OWN = {
    "Chinese": ("青石镇图书馆的密码是", "青鸟飞翔", "。", "青石镇图书馆的密码是什么？"),
    "Japanese": ("図書館の合言葉は", "桜の花びら", "です。", "図書館の合言葉は何ですか？"),
    "Thai": ("รหัสผ่านของหอสมุดคือ", "นกแก้วสีทอง", "", "รหัสผ่านของหอสมุดคืออะไร"),
    "Korean": ("도서관의 비밀번호는 ", "참새 열 마리", "입니다.", "도서관의 비밀번호는 무엇입니까?"),
    "Arabic": ("كلمة السر في المكتبة هي ", "العصفور الأزرق", ".", "ما هي كلمة السر في المكتبة؟"),
    "Hebrew": ("הסיסמה של הספרייה היא ", "ציפור כחולה", ".", "מהי הסיסמה של הספרייה?"),
    "Hindi": ("पुस्तकालय का कूट शब्द ", "नीला मोर", " है।", "पुस्तकालय का कूट शब्द क्या है?"),
    "Russian": ("Пароль библиотеки — ", "синяя птица", ".", "Какой пароль библиотеки?"),
    "Greek": ("Ο κωδικός της βιβλιοθήκης είναι ", "γαλάζιο πουλί", ".", "Ποιος είναι ο κωδικός;"),
    "hyphen": ("The gate of the depot is A-", "17", ".", "Which gate?"),
    "quotes": ('The sign on the door said "', "closed till noon", '".', "What did the sign say?"),
    "emoji": ("The badge of the team is ", "👩‍🚀7🏳️‍🌈", " today.", "What is the badge?"),
    "NFD": ("The cafe\u0301 is run by ", "Zoe\u0308 Me\u0301rite", ".", "Who runs the cafe\u0301?"),
    "number": ("The vault opens with ", "90210", ".", "What does the vault open with?"),
    "opening": ("", "Marigold soup", " is what the baker eats on Monday.", "What does the baker eat on Monday?"),
}
NEEDLES = {
    name: Needle("mine", before + said + after, asked, said) for name, (before, said, after, asked) in OWN.items()
}


class Text:
    """A haystack of one text, again and again."""

    def __init__(self, name: str, unit: str) -> None:
        self.name, self._unit = name, unit

    def text(self, n_chars: int) -> str:
        return self._unit * (n_chars // len(self._unit) + 1)


CHINESE = (
    "清晨的雾气笼罩着小镇，人们慢慢地走过石桥。集市里有人卖水果，也有人修理旧钟。孩子们在河边奔跑，笑声传得很远！"
    "老人坐在门口喝茶，看着天空的云。\n\n夜里下了一场雨，屋檐滴水的声音一直没有停。第二天，木匠把窗户重新装好，"
    "邻居送来了一篮鸡蛋。"
)
HAYSTACKS = {
    "generated": None,
    "prose": "python-docs",
    "Chinese": Text("zh", CHINESE),
    "code": Text("code", inspect.getsource(argparse)),
}
FORMS = {
    "restated": {},
    "question": {"restate": False},
    "chat": {"chat": True, "restate": False},
    "chat, restated": {"chat": True},
    "R1": {"chat": True, "restate": False},
    "R1, restated": {"chat": True},
    "gpt-oss": {"chat": True, "restate": False},
    "gpt-oss, restated": {"chat": True},
}
REASONING = {
    "chat": "<think>\nI look for it.\n\nIt is not 99999.\n</think>\n\n",
    "R1": "I look for it.\n\nIt is not 99999.\n</think>\n\n",
    "gpt-oss": "<|channel|>analysis<|message|>It is not 99999.\n\nSo.<|end|>"
    "<|start|>assistant<|channel|>final<|message|>",
}


@cache
def tokenizer_of(name: str, form: str = "restated"):
    """A tokenizer with the chat template that the form wants; skips where it has none."""
    tokenizer = real_tokenizer(name)
    template = {"R1": R1, "gpt-oss": GPT_OSS}.get(form.partition(",")[0])
    if template:
        tokenizer.chat_template = template
    if form.startswith("chat") and not tokenizer.chat_template:
        return None
    return tokenizer


def written_apart(tokenizer, text: str, chat: bool) -> tuple[list[int], list[tuple[int, int]]]:
    """The prompt as the tokenizer alone makes it."""
    found = tokenizer(text, add_special_tokens=not chat, return_offsets_mapping=True)
    ids, offsets = found["input_ids"], found["offset_mapping"]
    closing = len(ids) > 1 and ids[-1] == tokenizer.eos_token_id and offsets[-1][0] == offsets[-1][1]
    return (ids[:-1], offsets[:-1]) if closing else (ids, offsets)


def plain(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def check_trial(tokenizer, trial, haystack, chat: bool, depth: float) -> None:
    """Length, spans, BOS, place and reply, from the text alone."""
    ids, offsets = written_apart(tokenizer, trial.text, chat)
    assert list(trial.tokens) == ids
    assert len(ids) == trial.length
    if tokenizer("").input_ids and not chat:
        assert ids.count(tokenizer.bos_token_id) == 1
    begin = trial.text.index(trial.needle.statement)
    at = begin + trial.needle.statement.index(trial.answer)
    holding = [i for i, (a, b) in enumerate(offsets) if a < at + len(trial.answer) and b > at and b > a]
    assert trial.answer_span == (holding[0], holding[-1] + 1)
    read = plain(tokenizer.decode(trial.answer_tokens))
    assert plain(trial.answer) in read
    assert read.strip("\ufffd") in plain(trial.answer.join(trial.surplus))
    # The reply reads as the answer, and goes on from the prompt as the tokenizer would have it.
    assert plain(tokenizer.decode(trial.reply)) == plain(trial.answer)
    before = trial.needle.statement[: trial.needle.statement.index(trial.answer)]
    restated = trial.form.restate and before
    gaps = [before[len(before.rstrip()) :]] if restated else ["", " "]
    wholes = [written_apart(tokenizer, trial.text + gap + trial.answer, chat)[0] for gap in gaps]
    merged = all(whole[: trial.length] != ids for whole in wholes)
    assert merged or list(trial.tokens + trial.reply) in wholes
    assert not merged or trial.answer == OWN["Thai"][1], "only Thai merges what a prompt ends with and what follows"
    # The needle stands at the sentence boundary nearest to its depth, in text of the haystack.
    if isinstance(haystack, Text) and not chat:
        end = offsets[trial.question_span[0]][0]
        filler = trial.text[:begin] + trial.text[begin + len(trial.needle.statement) + 1 : end]
        assert filler.rstrip() in haystack.text(40_000)
        if haystack.name == "zh":
            nearest = min(abs(s - depth * len(filler)) for s in sentence_starts(filler) if s < len(filler) - 75)
            assert abs(begin - depth * len(filler)) <= nearest + 30


def draw_trial(data, name: str) -> None:
    form = data.draw(st.sampled_from(list(FORMS)), "form")
    tokenizer = tokenizer_of(name, form)
    if tokenizer is None:
        return
    generated = data.draw(st.booleans(), "generated needle")
    needle = 1 if generated else [data.draw(st.sampled_from(list(NEEDLES.values())))]
    distractors = data.draw(st.integers(0, 2)) if generated else 0
    haystack = HAYSTACKS[data.draw(st.sampled_from(list(HAYSTACKS)))]
    depth = data.draw(st.sampled_from([0.0, 1.0]) | st.floats(0, 1))
    [trial] = rh.niah(
        tokenizer, [data.draw(st.integers(200, 4000), "length")], [depth], needles=needle, distractors=distractors,
        seed=data.draw(st.integers(0, 999), "seed"), haystack=haystack, **FORMS[form],
    )  # fmt: skip
    check_trial(tokenizer, trial, None if distractors else haystack, "chat" in FORMS[form], depth)
    check_answers(tokenizer, trial, form)


def found_by(n: int):
    return settings(
        max_examples=n, deadline=None, suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.generate)
    )


@pytest.mark.parametrize("name", NAMES)
@found_by(25)
@given(data=st.data())
def test_whatever_can_be_asked_is_built_and_read(name, data):
    draw_trial(data, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@found_by(400)
@given(data=st.data())
def test_whatever_can_be_asked_is_built_and_read_many_times(name, data):
    draw_trial(data, name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seeds", [range(1), pytest.param(range(1, 100), marks=pytest.mark.slow)])
def test_the_readmes_own_grid_builds(name, seeds):
    tokenizer = tokenizer_of(name)
    for seed in seeds:
        trials = rh.niah(tokenizer, lengths=[256, 512], depths=5, needles=14, distractors=1, seed=seed)
        assert [len(trial.tokens) for trial in trials] == [trial.length for trial in trials]


@pytest.mark.parametrize("name", NAMES)
def test_from_the_shortest_length_on_every_length_can_be_asked(name):
    tokenizer, needle = tokenizer_of(name), NEEDLES["number"]
    with pytest.raises(ValueError, match=r"take (\d+) tokens") as caught:
        rh.niah(tokenizer, [10], [0.5], needles=[needle])
    taken = int(re.findall(r"take (\d+) tokens", str(caught.value))[0])
    built = set()
    for length in range(taken + 1, taken + 80):
        try:
            [trial] = rh.niah(tokenizer, [length], [0.5], needles=[needle])
        except ValueError as error:
            assert "too short" in str(error), length  # noqa: PT017 (either it builds, or it says this)
            assert not built, "what is longer than a prompt that was built can be built"
            continue
        assert len(trial.tokens) == length
        built.add(length)
    assert min(built) <= taken + 2


@pytest.mark.parametrize("haystack", HAYSTACKS)
@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_takes_few_encodings(name, haystack, monkeypatch):
    tokenizer, counts = tokenizer_of(name), []
    call = type(tokenizer).__call__
    monkeypatch.setattr(
        type(tokenizer), "__call__", lambda *args, **options: counts.append(1) or call(*args, **options)
    )
    each = []
    for length in range(301, 3000, 97):
        counts.clear()
        rh.niah(tokenizer, [length], [0.5], needles=1, haystack=HAYSTACKS[haystack])
        each.append(len(counts))
    assert np.median(each) <= 12
    assert max(each) <= 60


def said_by(tokenizer, trial, text: str) -> list[tuple[int, int]]:
    """The tokens of a text that follows the prompt, as the tokenizer makes them of both, and where each begins."""
    ids, offsets = written_apart(tokenizer, trial.text + text, trial.form.chat)
    if tuple(ids[: trial.length]) == trial.tokens:
        return [(token, a - len(trial.text)) for token, (a, _) in zip(ids, offsets, strict=True)][trial.length :]
    if text.strip() != trial.answer or "\n" in text:
        return []  # the prompt's last token is merged with what follows, so no model says it
    gap, read = len(text) - len(trial.answer), [tokenizer.decode(trial.reply[:n]) for n in range(len(trial.reply))]
    return [(token, gap + len(part.strip("\ufffd "))) for token, part in zip(trial.reply, read, strict=True)]


def answered(tokenizer, trial, before: str, elsewhere: bool = False) -> tuple[dict, float]:
    """How a model is judged that says `before` and the answer while its one head looks at the needle's answer.

    Args:
        elsewhere: the head looks at the question instead.
    """
    decode = exact_decoder(tokenizer)
    row = Row({tokenizer.eos_token_id}, decode, 60, trial.turn, special_ids(tokenizer), turn_ends(tokenizer))
    _, offsets = written_apart(tokenizer, trial.text, trial.form.chat)
    first = trial.text.index(trial.needle.statement) + trial.needle.statement.index(trial.answer)

    said = said_by(tokenizer, trial, before + trial.answer)
    alike = trial.form.restate and tuple(token for token, _ in said) == trial.tokens[slice(*trial.reply_span)]
    chars = [first + min(max(at - len(before), 0), len(trial.answer) - 1) for _, at in said]
    for i, (token, _) in enumerate(said):
        holding = [place for place, (a, b) in enumerate(offsets) if a <= chars[i] < b]
        # Of the tokens that a character is made of, one after the other.
        nth = sum(chars[j] == chars[i] and said[j][1] >= len(before) - 1 for j in range(i))
        looks = holding[min(nth, len(holding) - 1)]
        if alike:  # token by token, as ids are compared
            looks = trial.reply_span[0] + i
        looks = trial.length - 1 if elsewhere else looks
        row.add(token, 0.0, Looks(np.array([[looks]]), np.array([[1.0]])))
    row.add(tokenizer.eos_token_id)
    trace = row.trace((1, 1))
    return judge(trial, trace.output), float(retrieval_score(trace, trial, decode)[0, 0])


def openings(trial, form: str) -> list[str]:
    """What a model may say before the answer."""
    before, form = trial.needle.statement[: trial.needle.statement.index(trial.answer)], form.partition(",")[0]
    if trial.form.restate and before:
        return [before[len(before.rstrip()) :]]
    reasoning = [REASONING[form], REASONING[form].rstrip() + "\n"] if form in REASONING else []
    if form == "R1":  # the prompt has begun to reason
        return reasoning
    return [*(["", "\n\n"] if trial.text[-1:].isspace() else ["", " ", "\n", " The answer is: "]), *reasoning]


def check_answers(tokenizer, trial, form: str) -> None:
    """A perfect copier has score and recall 1, however it begins; one that looks elsewhere has score 0."""
    for before in openings(trial, form):
        if not said_by(tokenizer, trial, before + trial.answer):
            continue
        judged, score = answered(tokenizer, trial, before)
        assert (judged["recall"], score) == (1, 1), (form, before)
        judged, score = answered(tokenizer, trial, before, elsewhere=True)
        assert (judged["recall"], score) == (1, 0), (form, before)
