import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhlens.tasks.haystack import FileHaystack, GeneratedHaystack, as_haystack, sentence_starts


def test_a_hundred_thousand_tokens_without_a_repeated_sentence(tokenizer):
    text = GeneratedHaystack(1).text(560_000)
    assert len(tokenizer(text).input_ids) > 100_000
    sentences = re.findall(r"(?:\"[^\"]*\" )?[^.\"\n]+\.", text)
    assert len(sentences) > 8_000
    assert len(set(sentences)) == len(sentences)


@given(st.integers(0, 50), st.integers(1, 3000), st.integers(1, 3000))
def test_a_longer_text_starts_with_a_shorter_one(seed, a, b):
    short, long = sorted((a, b))
    haystack = GeneratedHaystack(seed)
    assert haystack.text(long)[:short] == GeneratedHaystack(seed).text(short)[:short]
    assert len(haystack.text(long)) >= long


def test_seeds_differ():
    assert GeneratedHaystack(0).text(500) != GeneratedHaystack(1).text(500)


def test_articles_and_capitals_are_right():
    text = GeneratedHaystack(2).text(200_000)
    assert not re.search(r"\ba [aeiou]", text)
    assert not re.search(r"\ban [^aeiou]", text)
    assert all(s[0].isupper() or s[0] == '"' for s in (text[i:] for i in sentence_starts(text)))


def test_files_and_folders_are_read_in_order_and_repeat(tmp_path):
    (tmp_path / "b.txt").write_text("Second file.")
    (tmp_path / "a.txt").write_text("First file.")
    (tmp_path / "image.png").write_bytes(b"\x89")
    haystack = as_haystack(tmp_path)
    assert haystack.text(10).startswith("First file.\n\nSecond file.")
    assert haystack.text(100).count("First file.") >= 4
    assert len(haystack.text(1000)) >= 1000
    assert as_haystack(haystack) is haystack


def test_bad_haystacks_are_one_clear_sentence(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        FileHaystack(tmp_path / "no")
    with pytest.raises(ValueError, match="holds no text"):
        FileHaystack(tmp_path)
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"x\.txt cannot be read .*: give a UTF-8 file"):
        FileHaystack(tmp_path)


@given(st.lists(st.sampled_from(["One. ", "Two! ", "Three?\n\n", 'He said "no." ', "四。", "e.g ", "x"]), max_size=8))
def test_sentence_starts_are_zero_or_follow_an_end(pieces):
    text = "".join(pieces)
    starts = sentence_starts(text)
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    for start in starts[1:]:
        assert start < len(text)
        assert not text[start].isspace()
        assert text[:start].rstrip()[-1] in '.!?"。x' or "\n\n" in text[:start]
