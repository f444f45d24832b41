"""What the nano zoo is trained on: real text, right weights, and nothing that an evaluation will ask."""

import random

import pytest

from rhlens.tasks import words as w
from rhlens.tasks.needles import KINDS, bundled_needles
from rhlens.zoo.corpus import ANSWER, CONTEXT, FIRST_ANSWER, Corpus, Document, Mix
from rhlens.zoo.facts import KNOWN_PEOPLE, closed_book_facts
from rhlens.zoo.tokenizer import zoo_tokenizer

TOKENIZER = zoo_tokenizer()
FORMS = {
    "plain": Mix(repeat=0, plain=1),
    "haystack": Mix(repeat=0, plain=0, haystack=1),
    "interleaved": Mix(repeat=0, plain=0, haystack=0),
    "anything": Mix(repeat=0, plain=0, anything=1, wordlike=0.7, recall=0.3),
}
by_form = pytest.mark.parametrize("mix", FORMS.values(), ids=FORMS.keys())


def encode(text: str) -> list[int]:
    return TOKENIZER.backend_tokenizer.encode(text, add_special_tokens=False).ids


def corpus_of(mix: Mix, seed: int = 0) -> Corpus:
    return Corpus(mix, encode, len(TOKENIZER), random.Random(seed))


def documents(mix: Mix, n: int = 150, sizes: tuple[int, ...] = (65, 257, 513)) -> list[Document]:
    corpus = corpus_of(mix)
    return [corpus.document(sizes[i % len(sizes)]) for i in range(n)]


@by_form
def test_ids_are_those_of_the_whole_text(mix: Mix) -> None:
    for document in documents(mix):
        assert document.ids == [TOKENIZER.bos_token_id, *encode(document.text)]


@by_form
def test_documents_never_exceed_their_size(mix: Mix) -> None:
    corpus = corpus_of(mix)
    for size in (65, 129, 513):
        lengths = [len(corpus.document(size).ids) for _ in range(60)]
        assert max(lengths) <= size
        assert sum(lengths) / len(lengths) > 0.95 * size


def test_a_document_is_a_function_of_the_seed() -> None:
    first, again, other = (corpus_of(Mix(), seed).batch(8, 128) for seed in (3, 3, 4))
    assert (first[0] == again[0]).all()
    assert (first[1] == again[1]).all()
    assert (first[0] != other[0]).any()


@pytest.mark.parametrize("form", ["haystack", "interleaved", "anything"])
def test_weights_mark_exactly_the_answers(form: str) -> None:
    """Read back from the text alone: what follows 'Answer:' and the cue, up to the end of the line."""
    for document in documents(FORMS[form], n=60):
        answers = {needle.answer for needle in document.needles}
        cues = {needle.cue for needle in document.needles}
        expected = [0.0]
        for i, piece in enumerate(document.text.split("\nAnswer:")):
            rest = piece
            if i:
                expected += [CONTEXT] * len(encode("\nAnswer:"))
                line, _, rest = piece.partition("\n")
                answer = next(a for a in answers if line == f" {a}." or any(line == f" {c} {a}." for c in cues))
                expected += [CONTEXT] * len(encode(line[: -len(f" {answer}.")]))
                value = [FIRST_ANSWER] + [ANSWER] * (len(encode(f" {answer}.\n")) - 1)
                expected += [FIRST_ANSWER] * 2 + value[2:] if answer[0].isdigit() else value
            expected += [CONTEXT] * len(encode(rest))
        assert document.weights == expected


def test_evaluation_form_ends_with_an_answer_that_the_text_holds() -> None:
    for document in documents(FORMS["haystack"], n=60):
        context, _, last = document.text.rpartition("\n\nQuestion: ")
        assert last.endswith(".\n")
        assert document.needles[-1].answer in last
        assert document.needles[-1].statement in context


def test_plain_documents_hold_no_fact() -> None:
    for document in documents(FORMS["plain"]):
        assert not document.needles
        assert "Question" not in document.text
        assert set(document.weights) == {0.0, CONTEXT}


def test_nothing_held_out_is_ever_trained_on() -> None:
    cues, seen = {needle.cue for needle in bundled_needles()}, set()
    statements = {needle.statement for needle in bundled_needles()}
    for document in documents(Mix(repeat=0, wordlike=0.5, recall=0.1), n=600):
        for needle in document.needles:
            assert not needle.held_out
            assert needle.cue not in cues
            seen.add(needle.kind)
        assert not any(statement in document.text for statement in statements)
    assert seen == {*KINDS, "anything", "closed-book"}
    assert not any(fact.held_out for fact in closed_book_facts())


def test_known_people_live_in_no_context() -> None:
    assert not set(KNOWN_PEOPLE) & {*w.PEOPLE, *w.PLACES}


def test_repeats_cover_the_whole_vocabulary() -> None:
    corpus, seen = corpus_of(Mix(repeat=1, long_repeats=False)), set()
    for _ in range(1500):
        document = corpus.document(65)
        n = document.weights.count(0.02)
        assert 4 <= n <= 15
        assert document.ids[1 : 1 + n] == document.ids[1 + n : 1 + 2 * n]
        seen.update(document.ids)
    assert len(seen) > 0.99 * (len(TOKENIZER) - 1)


def test_batches_pad_with_weightless_ends() -> None:
    ids, weights = corpus_of(Mix()).batch(16, 129)
    assert ids.shape == weights.shape == (16, 129)
    assert (weights[ids == TOKENIZER.eos_token_id] == 0).all()


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
