"""What the nano zoo is trained on: real text, right weights, and nothing that an evaluation will ask."""

import random

import pytest

from rhlens.tasks.cot import Problem
from rhlens.tasks.needles import KINDS, Needle, bundled_needles
from rhlens.zoo.corpus import ANSWER, CONTEXT, FIRST_ANSWER, Corpus, Document, Mix
from rhlens.zoo.tokenizer import zoo_tokenizer

TOKENIZER = zoo_tokenizer()
FORMS = {
    "plain": Mix(repeat=0, plain=1),
    "haystack": Mix(repeat=0, plain=0, haystack=1),
    "interleaved": Mix(repeat=0, plain=0, haystack=0),
    "anything": Mix(repeat=0, plain=0, anything=1, wordlike=0.7, recall=0.3),
    "closed book and sums": Mix(repeat=0, plain=0, haystack=1, recall=0.5, sums=0.5),
}
NO_COPYING = Mix(repeat=0, plain=0.3, haystack=0.7, question=0, recall=0.6, sums=0.4, chain=0, restated=0, cast=False)
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


def forms(asked: Needle | Problem) -> list[tuple[str, str]]:
    """Every way to ask it, as the text that is context and the text that is graded."""
    if isinstance(asked, Problem):
        return [(asked.prompt(chain), asked.completion(chain)) for chain in (True, False)]
    question = f"\n\nQuestion: {asked.question}\nAnswer:"
    return [(question, f" {asked.answer}.\n"), (f"{question} {asked.cue}", f" {asked.answer}.\n")]


@pytest.mark.parametrize("form", [name for name in FORMS if name != "plain"])
def test_weights_mark_exactly_the_answers(form: str) -> None:
    """Read back from the text alone: each question in turn, and what should be said to it."""
    for document in documents(FORMS[form], n=60):
        rest, expected = document.text, [0.0]
        for asked in document.asked:
            found = [(rest.index(p + c), p, c) for p, c in forms(asked) if p + c in rest]
            at, prompt, completion = min(found)
            expected += [CONTEXT] * len(encode(rest[: at + len(prompt)]))
            value = [FIRST_ANSWER] + [ANSWER] * (len(encode(completion)) - 1)
            expected += [FIRST_ANSWER] * 2 + value[2:] if completion[1].isdigit() else value
            rest = rest[at + len(prompt) + len(completion) :]
        assert document.weights == expected + [CONTEXT] * len(encode(rest))


def test_evaluation_form_ends_with_an_answer_that_the_text_holds() -> None:
    for document in documents(FORMS["haystack"], n=60):
        context, _, last = document.text.rpartition("\n\nQuestion: ")
        asked = document.asked[-1]
        assert isinstance(asked, Needle)
        assert last.endswith(f"{asked.answer}.\n")
        assert asked.statement in context


def test_a_mix_that_rewards_no_copying_never_asks_about_what_it_states() -> None:
    asked = 0
    for document in documents(NO_COPYING, n=300):
        assert not {fact.statement for fact in document.stated} & {
            fact.statement for fact in document.asked if isinstance(fact, Needle)
        }
        assert "Step by step" not in document.text
        for fact in document.asked:
            asked += 1
            assert isinstance(fact, Problem) or (
                fact.kind == "closed-book" and f"Answer: {fact.cue}" not in document.text
            )
    assert asked > 100
    assert any(document.stated for document in documents(NO_COPYING))


def test_a_fact_opens_the_document_where_the_mix_says_so() -> None:
    def opened(opening: float) -> list[bool]:
        mix = Mix(repeat=0, plain=0, haystack=1, opening=opening)
        return [d.text.startswith(d.stated[0].statement) for d in documents(mix, n=60, sizes=(257,))]

    assert all(opened(1.0))
    assert sum(opened(0.0)) < 10


def test_digits_of_solutions_weigh_most_where_the_mix_says_so() -> None:
    digits = {encode(digit)[0] for digit in "0123456789"}
    mix = Mix(repeat=0, plain=0, haystack=1, sums=1, digits=True)
    for document in documents(mix, n=40):
        (problem,) = document.asked
        assert isinstance(problem, Problem)
        solution = document.text[document.text.rindex("How many") :].partition(":")[2]
        n = len(encode(solution))
        graded = list(zip(document.ids[-n:], document.weights[-n:], strict=True))
        assert {weight for i, weight in graded if i in digits} == {FIRST_ANSWER}
        assert ANSWER in {weight for i, weight in graded if i not in digits}


def test_plain_documents_hold_no_fact() -> None:
    for document in documents(FORMS["plain"]):
        assert not document.stated
        assert not document.asked
        assert "Question" not in document.text
        assert set(document.weights) == {0.0, CONTEXT}


def test_nothing_held_out_is_ever_trained_on() -> None:
    cues, seen = {needle.cue for needle in bundled_needles()}, set()
    statements = {needle.statement for needle in bundled_needles()}
    for document in documents(Mix(repeat=0, wordlike=0.5, recall=0.1, sums=0.1), n=600):
        for told in (*document.stated, *document.asked):
            assert not told.held_out
            if isinstance(told, Problem):
                seen.add("problem")
            else:
                assert told.cue not in cues
                seen.add(told.kind)
        assert not any(statement in document.text for statement in statements)
    assert seen == {*KINDS, "anything", "closed-book", "problem"}


def test_no_fixed_distance_leads_through_gapped_repeats() -> None:
    corpus, distances = corpus_of(Mix(repeat=1, long_repeats=False, gaps=True)), set()
    for _ in range(50):
        document = corpus.document(65)
        ids, weights = document.ids, document.weights
        assert len(ids) == len(weights) == 65
        graded = [i for i, weight in enumerate(weights) if weight == ANSWER]
        back = [i - max(j for j in range(i) if ids[j - 1 : j + 1] == ids[i - 1 : i + 1]) for i in graded]
        distances.add(len(set(back)))
    assert max(distances) >= 4, "what is graded was said before, at several distances in one document"


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
