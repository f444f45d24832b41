import json
from importlib import resources

from hypothesis import given
from hypothesis import strategies as st

from rhlens.tasks import words
from rhlens.zoo.tokenizer import BOS, EOS, VOCAB_SIZE, train_tokenizer, zoo_tokenizer

TOKENIZER = zoo_tokenizer()


@given(st.text().filter(lambda text: BOS not in text and EOS not in text))
def test_any_text_comes_back_as_it_was_behind_one_bos(text):
    ids = TOKENIZER(text).input_ids
    assert ids[0] == TOKENIZER.bos_token_id
    assert ids.count(TOKENIZER.bos_token_id) == 1
    assert TOKENIZER.decode(ids[1:]) == text


def test_words_of_the_zoos_english_are_one_token_and_digits_are_single():
    for word in (*words.ADJECTIVES, *words.THINGS, *words.PEOPLE, *words.PLACES):
        assert len(TOKENIZER(f" {word}", add_special_tokens=False).input_ids) == 1, word
    digits = TOKENIZER("47193", add_special_tokens=False).input_ids
    assert [TOKENIZER.decode([i]) for i in digits] == list("47193")


def test_the_shipped_tokenizer_is_what_its_command_makes():
    shipped = resources.files("rhlens.zoo").joinpath("tokenizer.json").read_text("utf-8")
    assert json.loads(train_tokenizer().backend_tokenizer.to_str()) == json.loads(shipped)
    assert len(TOKENIZER) == VOCAB_SIZE
