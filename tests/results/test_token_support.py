"""Support of generations written down by hand, so that every copy is known."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhlens.results.heads import Head
from rhlens.results.support import SUPPORTED, Support
from tests.support import shown

A, B = Head(2, 3), Head(3, 1)
WORDS = [" red", " cat", ",", " sat", " on", " the", " mat", "."]


def support(tokens, n_prompt, looks, heads=(A, B)) -> Support:
    """`looks`: of each output token, per head (position, weight)."""
    table = np.array(looks, dtype=float).reshape(len(tokens) - n_prompt, len(heads), 2)
    texts = [WORDS[token] for token in tokens]
    source, weight = table[..., 0].astype(np.int32), table[..., 1].astype(np.float32)
    return Support(np.array(tokens), texts, n_prompt, heads, source, weight)


# positions:           0  1  2  3  4 | 5  6  7  8  9
KNOWN = support([0, 1, 2, 3, 1, 1, 2, 4, 1, 7], 5, [
    [(1, 0.75), (4, 0.5)],    # " cat": both copy it, from two places
    [(2, 0.25), (0, 0.875)],  # ",": one copies it, the other looks harder at something else
    [(3, 0.5), (0, 0.5)],     # " on" stands nowhere before
    [(5, 0.875), (1, 0.375)], # " cat" again: one copies the output, one the prompt
    [(7, 0.5), (8, 0.5)],     # ".": looks at the output, copies nothing
])  # fmt: skip


def test_every_copy_is_known():
    both, first, second, none = [True, True], [True, False], [False, True], [False, False]
    np.testing.assert_array_equal(KNOWN.copied(), [both, first, none, both, none])
    np.testing.assert_array_equal(KNOWN.from_prompt(), [both, first, none, second, none])
    np.testing.assert_array_equal(KNOWN.scores(), [0.75, 0.25, 0, 0.375, 0])
    assert KNOWN.sources() == [1, 2, None, 1, None]
    assert KNOWN.output == " cat, on cat."


def test_the_score_is_the_mean_over_what_says_something():
    assert KNOWN.score() == pytest.approx((0.75 + 0 + 0.375) / 3), "neither the comma nor the full stop count"
    assert np.isnan(support([0, 2, 7], 1, [[(0, 1), (0, 1)]] * 2).score())


def test_letters_and_digits_of_any_script_say_something():
    texts = ["the", "сад", "7", "猫", " ", "\n", "…", "_", "4%"]
    looks = np.zeros((8, 1))
    found = Support(np.arange(9), texts, 1, [A], looks.astype(np.int32), looks.astype(np.float32) + 1)
    assert found.score() == 0
    same = Support(np.array([5] * 9), texts, 1, [A], looks.astype(np.int32), np.arange(8, dtype=np.float32)[:, None])
    assert same.score() == np.mean([0, 1, 2, 7]), "сад, 7, 猫 and 4%"


def test_what_the_output_says_twice_is_not_supported_by_itself():
    own = support([0, 3, 3], 1, [[(0, 1), (0, 1)], [(1, 1), (1, 1)]])
    assert own.copied()[1].all()
    assert own.scores().tolist() == [0, 0]
    assert own.sources() == [None, None]
    assert support([3, 0, 3], 2, [[(0, 1), (0, 1)]]).scores().tolist() == [1]


def test_the_last_prompt_token_is_of_the_prompt_and_the_first_output_token_is_not():
    assert support([0, 3, 3], 2, [[(1, 1), (0, 1)]]).sources() == [1]
    assert support([0, 3, 3, 3], 2, [[(0, 1), (0, 1)], [(2, 1), (2, 1)]]).sources() == [None, None]


def test_nothing_said_is_no_error():
    silent = support([0, 1], 2, [])
    assert silent.output == ""
    assert silent.scores().shape == (0,)
    assert silent.sources() == []
    assert np.isnan(silent.score())
    assert list(silent.frame()) == list(KNOWN.frame())
    assert "0 of 0 tokens" in repr(silent)


def test_without_heads_nothing_is_supported():
    alone = support([0, 1, 1], 2, [[]], heads=())
    assert alone.scores().tolist() == [0]
    assert alone.sources() == [None]


def test_the_frame_says_all_of_it_in_fixed_types():
    frame = KNOWN.frame()
    assert list(frame) == ["token", "support", "supported", "source", "around", "heads"]
    assert frame["token"].tolist() == [" cat", ",", " on", " cat", "."]
    assert frame["support"].tolist() == KNOWN.scores().tolist()
    assert frame["supported"].tolist() == [True, False, False, False, False]
    assert frame["source"].tolist() == [1, 2, pd.NA, 1, pd.NA]
    assert frame["heads"].tolist() == ["L2H3 L3H1", "L2H3", "", "L3H1", ""]
    assert frame["around"][0] == " red cat, sat"
    assert frame["around"].isna().tolist() == [False, False, True, False, True]
    nothing = support([0, 1], 1, [[(0, 1), (0, 1)]]).frame()
    for table in (frame, nothing):
        assert str(table["source"].dtype) == "Int64"
        assert table["support"].dtype == float
        assert table["supported"].dtype == bool
    assert "1 of 5 tokens copied from the prompt by 2 heads" in repr(KNOWN)
    assert KNOWN.scores()[0] >= SUPPORTED > KNOWN.scores()[3]


def test_around_a_source_stand_four_tokens_before_it_and_two_after():
    found = support([0, 1, 2, 3, 4, 5, 6, 7, 5], 8, [[(5, 1), (0, 1)]])
    assert found.frame()["around"].tolist() == [" cat, sat on the mat."]


@pytest.mark.parametrize(("steps", "heads", "weights"), [(2, 2, 2), (3, 1, 1), (3, 2, 1), (4, 2, 2)])
def test_shapes_that_do_not_fit_are_refused(steps, heads, weights):
    tokens, texts = np.arange(5), ["x"] * 5
    source, weight = np.zeros((steps, heads), dtype=np.int32), np.zeros((steps, weights), dtype=np.float32)
    with pytest.raises(ValueError, match="3 tokens and 2 heads, but sources of shape"):
        Support(tokens, texts, 2, [A, B], source, weight)


@st.composite
def supports(draw) -> Support:
    n_prompt, steps, heads = (draw(st.integers(*span)) for span in ((1, 8), (0, 6), (1, 4)))
    tokens = draw(st.lists(st.integers(0, 3), min_size=n_prompt + steps, max_size=n_prompt + steps))
    looks = [
        [(draw(st.integers(0, n_prompt + step - 1)), draw(st.integers(1, 8)) / 8) for _ in range(heads)]
        for step in range(steps)
    ]
    return support(tokens, n_prompt, looks, [Head(0, i) for i in range(heads)])


@given(supports())
def test_scores_and_sources_are_those_of_loops(found):
    for step, (score, source) in enumerate(zip(found.scores(), found.sources(), strict=True)):
        best, at = 0.0, None
        for head in range(len(found.heads)):
            look, weight = int(found.source[step, head]), float(found.weight[step, head])
            copies = look < found.n_prompt and found.tokens[look] == found.tokens[found.n_prompt + step]
            if copies and weight > best:
                best, at = weight, look
        assert (score, source) == (best, at)
        assert found.frame()["source"].isna()[step] == (at is None)


def test_the_same_can_be_read_by_some_of_the_heads():
    alone = KNOWN.by([B])
    assert alone.heads == [B]
    np.testing.assert_array_equal(alone.from_prompt()[:, 0], KNOWN.from_prompt()[:, 1])
    np.testing.assert_array_equal(alone.weight[:, 0], KNOWN.weight[:, 1])
    turned = KNOWN.by([tuple(B), tuple(A)])
    assert turned.frame()["heads"].tolist()[0] == "L3H1 L2H3"
    np.testing.assert_array_equal(turned.scores(), KNOWN.scores())
    with pytest.raises(ValueError, match=r"^L0H0, L0H1 not among the heads that were watched: watch them too$"):
        KNOWN.by([A, (0, 0), (0, 1)])


def test_a_map_shows_what_was_copied_from_the_prompt_and_nothing_else():
    page = shown(KNOWN)
    assert (page.line, page.label) == (repr(KNOWN), "weight of what was copied")
    assert len(page.cells) == 8, "one text stands twice"
    assert page.cells["L2H3 ' cat'"] == "0.000", "the later one copies the output"
    assert page.cells["L3H1 ' cat'"] == "0.375"
    assert page.cells["L2H3 ','"] == "0.250"
    assert page.cells["L3H1 '.'"] == "0.000"
    assert page.headings == list(KNOWN.frame())
    many = support([0, 1], 1, [[(0, 1)] * 13], [Head(0, i) for i in range(13)])
    assert len(shown(many).cells) == 12
