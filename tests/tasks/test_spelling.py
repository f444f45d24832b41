"""Tokens as text, and text as what a prompt goes on with."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhlens.tasks.spelling import char_spans, continuation, encode, exact_decoder, fingerprint, pieces
from tests.support import make_tokenizer

TOKENIZERS = {kind: make_tokenizer(kind) for kind in ("byte-bpe", "sentencepiece", "words")}
TEXTS = st.text(st.sampled_from("ab .,\n12é青鸟กำ🙂\u0301"), max_size=60) | st.text(max_size=40)


@settings(max_examples=150, deadline=None)
@given(TEXTS)
def test_pieces_are_the_text_cut_by_token(text):
    tokenizer = TOKENIZERS["byte-bpe"]
    ids = tokenizer(text, add_special_tokens=False).input_ids
    found = pieces(exact_decoder(tokenizer), ids)
    assert "".join(found) == exact_decoder(tokenizer)(ids) == text
    assert len(found) == len(ids)
    for piece, (start, end), offsets in zip(
        found, char_spans(found), tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping,
        strict=True,
    ):  # fmt: skip
        assert text[start:end] == piece or not piece
        assert start < offsets[1]
        assert end > offsets[0]


def test_tokens_of_sentencepiece_keep_their_spaces():
    tokenizer = TOKENIZERS["sentencepiece"]
    ids = tokenizer("the old door", add_special_tokens=False).input_ids
    assert "".join(pieces(exact_decoder(tokenizer), ids)) == "the old door"


SAID = st.sampled_from([" 12", "a", "鸟", ". No", "\n\nfe", "\u0301"])


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["byte-bpe", "words"]), TEXTS.filter(str.strip), SAID)
def test_a_continuation_is_what_the_tokenizer_makes_of_the_whole_text(kind, text, said):
    tokenizer = TOKENIZERS[kind]
    prompt = encode(tokenizer, text, special=True)
    found = continuation(tokenizer, prompt, said)
    whole = encode(tokenizer, text + said, special=True).ids
    if whole[: len(prompt.ids)] == prompt.ids:
        assert [*prompt.ids, *found] == whole
    elif kind == "byte-bpe":
        assert tokenizer.decode(found) == said, "merged with the prompt's last token: what is said, on its own"


def test_a_tokenizer_is_known_by_how_it_spells():
    names = {kind: fingerprint(tokenizer) for kind, tokenizer in TOKENIZERS.items()}
    assert len(set(names.values())) == len(names)
    assert fingerprint(make_tokenizer("words")) == names["words"]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_closing_token_is_left_out_of_a_text_that_goes_on(kind):
    tokenizer = TOKENIZERS[kind]
    encoded = encode(tokenizer, "the old door", special=True)
    assert encoded.ids[0] == tokenizer.bos_token_id
    assert tokenizer.eos_token_id not in encoded.ids
