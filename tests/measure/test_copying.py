"""Copy events by ids and, where the answer is spelled in another way, by characters."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rhlens as rh
from rhlens.measure.copying import alignment, copy_events, retrieval_score, set_score, spelled
from rhlens.model.trace import Trace
from rhlens.tasks.needles import draw_needles
from rhlens.tasks.spelling import exact_decoder
from tests.support import make_tokenizer

TOKENIZERS = {kind: make_tokenizer(kind) for kind in ("byte-bpe", "sentencepiece")}


def trace_of(tokens, looks) -> Trace:
    position = np.array(looks, dtype=np.int32).reshape(len(tokens), 1, 1)
    return Trace(np.array(tokens), np.zeros(len(tokens)), position, np.ones_like(position, dtype=np.float32))


def by_ids(trace: Trace, trial) -> np.ndarray:
    """Eq. 1, word for word: a token w of the answer counts if a step says w and its j holds w in the needle."""
    start, end = trial.answer_span
    steps = zip(trace.tokens.tolist(), trace.position[:, 0, 0].tolist(), strict=True)
    copied = {w for w, j in steps if start <= j < end and trial.tokens[j] == w}
    wanted = set(trial.answer_tokens)
    return np.array([[len(copied & wanted) / len(wanted)]])


@settings(max_examples=200, deadline=None)
@given(data=st.data(), kind=st.sampled_from(list(TOKENIZERS)), seed=st.integers(0, 20), chat=st.booleans())
def test_no_score_of_a_restated_prompt_is_another_than_by_ids(data, kind, seed, chat):
    tokenizer = TOKENIZERS[kind]
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %} {{ m.content }}{% endfor %}"
    [trial] = rh.niah(tokenizer, [200], [0.5], needles=draw_needles(1, seed), chat=chat, seed=seed)
    assert trial.is_spelled_alike
    tokens = data.draw(st.lists(st.sampled_from(sorted({*trial.answer_tokens, *trial.tokens[:30]})), max_size=12))
    looks = data.draw(st.lists(st.integers(0, 199), min_size=len(tokens), max_size=len(tokens)))
    near = st.integers(*trial.needle_span)
    looks = [data.draw(near) if data.draw(st.booleans()) else look for look in looks]
    trace = trace_of(tokens, looks)
    np.testing.assert_array_equal(retrieval_score(trace, trial, exact_decoder(tokenizer)), by_ids(trace, trial))


def asked(kind: str, answer: str = "feed a friendly owl", **form):
    needle = rh.Needle("mine", f"The best thing to do is {answer}.", "What is the best thing?", answer)
    return TOKENIZERS[kind], rh.niah(TOKENIZERS[kind], [200], [0.5], needles=[needle], restate=False, **form)[0]


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("before", ["", "\n", "It is: ", '"'])
def test_what_is_said_in_other_tokens_is_copied_from_where_it_stands(kind, before):
    tokenizer, trial = asked(kind)
    tokens = tokenizer(before + "Feed a friendly owl!", add_special_tokens=False).input_ids
    aligned = alignment(trial, tokens, exact_decoder(tokenizer))
    held = {place for spans in aligned.values() for span in spans for place in range(*span)}
    assert set(range(*trial.answer_span)) <= held
    # A head that looks at the first token that holds what is said has copied all of it; one beside it, nothing.
    own = [[a for a, _ in aligned.get(i, []) if a >= trial.answer_span[0]] for i in range(len(tokens))]
    looks = [min(places, default=0) for places in own]
    assert retrieval_score(trace_of(tokens, looks), trial, exact_decoder(tokenizer)) == 1
    beside = trace_of(tokens, [look + len(trial.answer_tokens) for look in looks])
    assert retrieval_score(beside, trial, exact_decoder(tokenizer)) == 0


def test_part_of_another_word_is_no_copy():
    tokenizer, trial = asked("byte-bpe")
    feed = trial.answer_span[0]
    for said in ("fence", "seed"):
        tokens = tokenizer(said, add_special_tokens=False).input_ids
        aligned = alignment(trial, tokens, exact_decoder(tokenizer))
        assert not any(a <= feed < b for spans in aligned.values() for a, b in spans), said


def test_reasoning_copies_nothing():
    _, trial = asked("byte-bpe")
    trace = trace_of(trial.answer_tokens, range(*trial.answer_span))
    whole = copy_events(trace, trial)
    assert whole.all()
    assert set_score(whole, trace.tokens, trial) == 1
    thought = replace(trace, answering=np.arange(len(trace.tokens)) >= 2)
    assert copy_events(thought, trial).sum() == len(trace.tokens) - 2


def test_sums_keep_ids():
    """`wu2024` counts equal ids alone, whatever `paper` aligns: the reference code knows nothing else."""
    tokenizer, trial = asked("byte-bpe")
    tokens = tokenizer("Feed a friendly owl", add_special_tokens=False).input_ids
    trace = trace_of(tokens, [trial.answer_span[0]] * len(tokens))
    aligned = alignment(trial, tokens, exact_decoder(tokenizer))
    assert copy_events(trace, trial, aligned).sum() > copy_events(trace, trial).sum()


def test_edges_of_tokens_lie_on_both_sides_of_punctuation():
    said = spelled('"Owl!" 12', [(0, 1), (1, 2), (2, 4), (4, 6), (6, 9)])
    assert said.chars == '"owl!"12'
    assert said.edges == {0, 1, 2, 4, 5, 6, 8}
    bytes_of_one_character = spelled("青", [(0, 1), (0, 1), (0, 1)])
    assert bytes_of_one_character.tokens == [[0, 1, 2]]
