from dataclasses import replace
from types import SimpleNamespace

import pytest

import rhlens as rh
from rhlens.tasks.needles import KINDS, Needle, draw_needles
from rhlens.tasks.pairs import Pair, pairs, without_needle
from rhlens.zoo.tokenizer import zoo_tokenizer
from tests.support import make_tokenizer

TOKENIZERS = {
    "zoo": zoo_tokenizer,
    **{kind: lambda kind=kind: make_tokenizer(kind) for kind in ("byte-bpe", "sentencepiece")},
}


@pytest.mark.parametrize("restate", [True, False])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_pair_differs_in_the_answer_alone(kind, restate):
    tokenizer = TOKENIZERS[kind]()
    trials = rh.niah(tokenizer, [300], 2, needles=draw_needles(7), restate=restate)
    for pair, trial in zip(pairs(tokenizer, trials), trials, strict=True):
        assert pair.clean == trial
        a, b = trial.tokens, pair.corrupt.tokens
        assert len(a) == len(b)
        differing = [i for i in range(len(a)) if a[i] != b[i]]
        assert set(differing) <= set(range(*trial.answer_span))
        assert pair.differs == [i - trial.reply_span[0] for i in differing]
        said = tokenizer.decode(b[slice(*trial.answer_span)]).strip().casefold()
        assert "".join(said.split()) == "".join(pair.corrupt.answer.casefold().split())
        assert pair.corrupt.needle.cue == trial.needle.cue


def test_pairs_are_seeded():
    tokenizer = zoo_tokenizer()
    trials = rh.niah(tokenizer, [200], 1, needles=draw_needles(len(KINDS)))
    assert pairs(tokenizer, trials) == pairs(tokenizer, trials) != pairs(tokenizer, trials, seed=1)


def test_needles_of_the_users_own_take_each_others_answers():
    tokenizer = zoo_tokenizer()
    mine = [Needle("mine", f"The number of {who} is {n}.", f"What is the number of {who}?", n)
            for who, n in (("Ada", "12"), ("Bo", "34"), ("Cy", "567"))]  # fmt: skip
    trials = rh.niah(tokenizer, [200], 1, needles=mine[:2])
    assert [pair.corrupt.answer for pair in pairs(tokenizer, trials)] == ["34", "12"]
    with pytest.raises(ValueError, match="no other answer has as many tokens as '12'"):
        pairs(tokenizer, rh.niah(tokenizer, [200], 1, needles=[mine[0], mine[2]]))


def test_two_like_answers_are_no_pair():
    trial = rh.niah(zoo_tokenizer(), [200], 1, needles=1)[0]
    with pytest.raises(ValueError, match="two different answers"):
        Pair(trial, trial)


def test_the_reply_is_what_the_needle_says_after_its_cue():
    tokenizer = zoo_tokenizer()
    for trial in rh.niah(tokenizer, [300], 2, needles=14):
        assert tokenizer.decode(trial.reply) == f" {trial.needle.answer}"


@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_without_its_needle_a_prompt_asks_the_same_of_text_that_does_not_say(tokenizer, depth):
    for trial in rh.niah(tokenizer, [200], [depth], needles=14):
        (prompt,) = without_needle(tokenizer, [trial])
        assert trial.needle.statement not in prompt.text
        assert trial.answer not in prompt.text
        kept = trial.text.replace(trial.needle.statement, "")
        assert prompt.text.split() == kept.split()
        assert prompt.tokens == tuple(tokenizer(prompt.text).input_ids)
        assert prompt.tokens[-8:] == trial.tokens[-8:], "the question is the same"
        assert (prompt.answer, prompt.reply, prompt.index) == (trial.answer, trial.reply, trial.index)


def test_trials_that_do_not_hold_their_needle_word_for_word_are_refused(tokenizer):
    trial = rh.niah(tokenizer, [200], 1, needles=1)[0]
    with pytest.raises(ValueError, match="does not hold its needle"):
        without_needle(tokenizer, [replace(trial, text="nothing")])


def test_a_model_brings_its_tokenizer(tokenizer):
    trials, model = rh.niah(tokenizer, [200], 1, needles=7), SimpleNamespace(tokenizer=tokenizer)
    assert pairs(model, trials) == pairs(tokenizer, trials)
    assert without_needle(model, trials) == without_needle(tokenizer, trials)


def test_a_prompt_in_a_chat_template_keeps_its_own_special_tokens(tokenizer):
    chat = zoo_tokenizer()
    chat.chat_template = "<bos>{% for m in messages %}{{ m.content }}{% endfor %}"
    trial = rh.niah(chat, [200], [0.5], needles=1, chat=True)[0]
    (prompt,) = without_needle(chat, [trial])
    assert prompt.text.startswith("<bos>")
    assert prompt.tokens.count(chat.bos_token_id) == 1
    assert prompt.tokens[0] == trial.tokens[0] == chat.bos_token_id
    assert prompt.text == trial.text.replace(f"{trial.needle.statement} ", "")


def test_an_answer_that_is_written_otherwise_alone_has_no_twin(tokenizer):
    trial = rh.niah(tokenizer, [200], 1, needles=1)[0]
    other = replace(trial, reply_span=(trial.reply_span[0] + 1, trial.reply_span[1]))
    with pytest.raises(ValueError, match=r"otherwise alone than in the haystack, so no other can take its place: use"):
        pairs(tokenizer, [other])
