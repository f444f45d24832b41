"""Files of questions, needles and filler that nobody should have to trust: one sentence, soon, or what they say."""

import json
import os
import time
from contextlib import chdir

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

import rhlens as rh
from rhlens.tasks.cot import Problem, read_problems
from rhlens.tasks.facts import Fact, read_facts
from rhlens.tasks.haystack import FileHaystack
from rhlens.tasks.needles import Needle, read_needles
from rhlens.tasks.qa import Passage, read_squad
from tests.support import SOON, make_tokenizer, refusal

READERS = [read_needles, read_facts, read_problems, read_squad]
EVERY = [*READERS, FileHaystack]
quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
NEEDLE = {"kind": "mine", "statement": "My cat is called Bo.", "question": "Name?", "answer": "Bo"}
GSM8K = {"question": "2 and 3?", "answer": "2 and 3 are 5. #### 5"}
MMLU = {"question": "Which?", "choices": ["red", "blue"], "answer": "B"}
MUSIQUE = {"paragraphs": [{"paragraph_text": "Bo is a cat."}], "question": "Who?", "answer": "Bo"}
ASKED = {"question": "Who?", "answers": [{"text": "Bo"}], "is_impossible": False}
SQUAD = {"data": [{"title": "cats", "paragraphs": [{"context": "Bo is a cat.", "qas": [ASKED]}]}]}


def put(path, content):
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("read", EVERY)
def test_what_is_no_file_or_too_large_a_file_is_not_read(read, tmp_path):
    assert "does not exist" in refusal(read, tmp_path / "none.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    assert "no plain file" in refusal(read, tmp_path / "pipe.txt"), "reading it would wait forever"
    with (sparse := tmp_path / "sparse.txt").open("wb") as file:
        file.truncate(6 * 2**30)
    assert "6,144.0 MiB" in refusal(read, sparse)
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    refusal(read, tmp_path / "loop.txt")
    with pytest.raises(ValueError, match="cannot be read"):
        read(tmp_path / ("x" * 5000))
    assert "UTF-8" in refusal(read, put(tmp_path / "latin.txt", "été".encode("latin-1")))


def test_a_folder_is_a_haystack_whatever_lies_in_it(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfOne.\r\nTwo.\rThree.")
    (tmp_path / "empty.md").write_bytes(b" \n\0".rstrip(b"\0"))
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "folder.txt" / "b.txt").write_text("Four.")
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    text = FileHaystack(tmp_path).text(10)
    assert text.startswith("One.\nTwo.\nThree.\n\nFour."), "no mark of byte order, and lines as everywhere"
    assert text.count("One.") == 1, "links in circles are not followed"
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(ValueError, match=r"pipe\.txt is no plain file"):
        FileHaystack(tmp_path)


def test_many_files_are_as_much_as_a_large_one(tmp_path, monkeypatch):
    monkeypatch.setattr("rhlens.tasks.haystack.LARGEST", 2**20)
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text("x" * 400_000)
    with pytest.raises(ValueError, match="more than 1 MiB of text: give a part of it"):
        FileHaystack(tmp_path)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"data": ' * 50_000, "nested too deeply"),
        ('[{"prompt": "a", "prompt": "b"}]', "key twice"),
        ("[%s]" % ("9" * 5000), "digits"),
        ('["\\ud800"]', "half of a character"),
        ('["\\uDFFF"]', "half of a character"),
        ("\0" * 100, "not JSON"),
        ("[1, 2", "not JSON"),
        ("\ufeff\n ", "is empty"),
    ],
)
def test_what_is_no_json_is_refused_with_its_reason(read, content, why, tmp_path):
    assert why in refusal(read, put(tmp_path / "mine.json", content))


def test_a_character_of_two_halves_is_a_character(tmp_path):
    entry = {"prompt": "What laughs?", "answer": "Bo \U0001f600"}
    assert "\\ud83d" in (content := json.dumps(entry))
    assert read_facts(put(tmp_path / "facts.jsonl", content)) == [Fact("What laughs?", ("Bo \U0001f600",))]


@pytest.mark.parametrize(
    ("read", "entry", "why"),
    [
        (read_problems, [MMLU | {"answer": True}], "letter from A to B"),
        (read_problems, [MMLU | {"answer": float("nan")}], "letter from A to B"),
        (read_problems, [MMLU | {"answer": 1.0}], "letter from A to B"),
        (read_problems, [MMLU | {"answer": -1}], "letter from A to B"),
        (read_problems, [MMLU | {"answer": 10**30}], "letter from A to B"),
        (read_problems, [MMLU | {"answer": ["B"]}], "letter from A to B"),
        (read_problems, [MMLU | {"choices": ["x"] * 27, "answer": 3}], "27 choices"),
        (read_problems, [MUSIQUE | {"answerable": "false"}], "'answerable' must be true or false"),
        (read_problems, [MUSIQUE | {"answerable": 0}], "'answerable' must be true or false"),
        (read_squad, {"data": [{"paragraphs": [{"context": "c", "qas": [ASKED | {"is_impossible": "no"}]}]}]},
         "'is_impossible' must be true or false"),
        (read_needles, [NEEDLE | {"statement": "It is ?!", "answer": "?!"}], "a letter or a digit"),
        (read_needles, [NEEDLE | {"statement": "a\u200bb", "answer": "\u200b"}], "a letter or a digit"),
    ],
)  # fmt: skip
def test_what_could_be_read_in_two_ways_is_not_read(read, entry, why, tmp_path):
    path = put(tmp_path / "mine.json", entry)
    with pytest.raises(ValueError, match=why):
        read(path)


@pytest.mark.parametrize("rationale", ["<<" * 200_000, "<<1" * 100_000, "<" * 400_000, "<<" + ">" * 400_000])
def test_calculator_annotations_that_never_end_are_passed_over_at_once(rationale, tmp_path):
    path = put(tmp_path / "gsm8k.jsonl", GSM8K | {"answer": f"{rationale} #### 5"})
    began = time.monotonic()
    [problem] = read_problems(path)
    assert time.monotonic() - began < SOON
    assert problem.answer == "5"


texts = st.text(max_size=6) | st.sampled_from(
    ["Bo", "A", "#### 5", "1 #### 5", "\0", "\u202e\u200b", " ", "\r\n", "\x85"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=5,
)  # fmt: skip


@st.composite
def damaged(draw, whole):
    """`whole` with anything at all in the place of one of its parts, or without it, or in there twice."""
    if draw(st.integers(0, 3)) == 0 or not isinstance(whole, dict | list) or not whole:
        return draw(values)
    at = draw(st.sampled_from(list(whole) if isinstance(whole, dict) else list(range(len(whole)))))
    copy = whole.copy()
    if draw(st.integers(0, 5)) == 0:
        del copy[at]
    else:
        copy[at] = draw(damaged(whole[at]))
    return copy


@quick
@given(st.data())
def test_any_entry_is_taken_up_as_it_stands_or_refused_by_name(tmp_path, data):
    cases = [
        (read_needles, Needle, [NEEDLE]),
        (read_facts, Fact, [{"prompt": "a", "answer": ["b", "c"]}]),
        (read_problems, Problem, [data.draw(st.sampled_from([GSM8K, MMLU, MUSIQUE]))]),
        (read_squad, Passage, SQUAD),
    ]
    read, form, whole = data.draw(st.sampled_from(cases))
    content = data.draw(damaged(whole))
    path = put(tmp_path / "mine.json", content)
    try:
        found = read(path)
    except ValueError:
        refusal(read, path)
        return
    said = {" ".join(leaf.split()) for leaf in leaves(content)}
    for one in found:
        assert isinstance(one, form)
        answers = (one.answer,) if isinstance(one, Needle | Problem) else one.answers
        assert all(answer.strip() for answer in answers)
        if not isinstance(one, Problem):  # whose answers are letters, or numbers without commas
            assert {" ".join(answer.split()) for answer in answers} <= said


def leaves(value):
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from leaves(part)
    elif isinstance(value, str):
        yield value


@quick
@given(st.binary(max_size=100) | st.text(max_size=100).map(str.encode), st.sampled_from(READERS),
       st.sampled_from(["json", "jsonl", "csv"]))  # fmt: skip
def test_noise_is_a_sentence(tmp_path, content, read, suffix):
    path = put(tmp_path / f"noise.{suffix}", content)
    try:
        assert read(path) == [], "a table or a list without a row"
    except ValueError:
        refusal(read, path)


@quick
@given(st.data())
def test_a_cut_file_is_never_read_as_a_whole_one(tmp_path, data):
    read, whole = data.draw(
        st.sampled_from([(read_needles, [NEEDLE]), (read_facts, [{"prompt": "a", "answer": "b"}]), (read_squad, SQUAD)])
    )
    content = json.dumps(whole)
    refusal(read, put(tmp_path / "cut.json", content[: data.draw(st.integers(0, len(content) - 1))]))


@pytest.mark.parametrize("text", ["\u200b" * 3000, "\u200b"])
def test_filler_without_a_token_is_refused_and_never_waited_for(text, tmp_path):
    tok = make_tokenizer("words")
    tok.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    path = put(tmp_path / "filler.txt", text)
    began = time.monotonic()
    with pytest.raises(ValueError, match="haystack"):
        rh.niah(tok, [400], 1, needles=1, haystack=path)
    assert time.monotonic() - began < 4 * SOON


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"depths": 10**9}, "trials are more than"),
        ({"needles": 10**9}, "trials are more than"),
        ({"lengths": [300] * 101, "depths": 1000, "needles": 1}, "101000 trials are more than"),
        ({"distractors": 10**9}, "fit into 300 tokens"),
        ({"depths": [float("nan")]}, "between 0 and 1"),
        ({"depths": [float("inf")]}, "between 0 and 1"),
        ({"depths": -(10**30)}, "between 0 and 1"),
    ],
)
def test_grids_of_any_size_are_refused_at_once(tokenizer, grid, message):
    began = time.monotonic()
    with pytest.raises(ValueError, match=message):
        rh.niah(tokenizer, **{"lengths": [300], "depths": 1, **grid})
    assert time.monotonic() - began < SOON


@pytest.mark.parametrize("mark", ["\u202eRLO", "zero\u200bwidth", "nul\0nul", "a\u0301", "\U0001f600", "<s></s>"])
def test_odd_characters_in_a_needle_are_placed_exactly_or_refused_by_name(tokenizer, mark):
    needle = Needle("mine", f"The word is x{mark}9 here.", f"Which {mark}?", f"x{mark}9")
    try:
        [trial] = rh.niah(tokenizer, [300], [0.5], needles=[needle])
    except ValueError:
        with pytest.raises(ValueError, match="needle"):
            rh.niah(tokenizer, [300], [0.5], needles=[needle])
        return
    said = tokenizer.decode(trial.tokens[slice(*trial.answer_span)])
    assert "".join(said.split()) == f"x{mark}9"


def test_no_path_leads_out_of_the_file_that_was_named(tmp_path):
    """A file says nothing about other files: what looks like a path in it is text."""
    put(tmp_path / "secret.txt", "top secret")
    with chdir(tmp_path):
        [needle] = read_needles(put(tmp_path / "n.json", [NEEDLE | {"kind": "../secret.txt"}]))
        assert needle.kind == "../secret.txt"
