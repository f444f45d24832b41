"""Sizes of caches counted position by position, and curves whose every answer is written down."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhlens.results.cache import RANDOM, RETRIEVAL, CacheCurve, CacheSize, Window
from rhlens.results.heads import Head
from tests.support import shown

SIZE = CacheSize(layers=2, kv_heads=2, d_head=8, bytes_per_value=4)
WINDOW = Window(2, 10)
LENGTHS = [100, 100, 200, 200]


def curve(draws: int = 3, size: CacheSize = SIZE) -> CacheCurve:
    """Four trials of two needles; kept in full, every retrieval head answers one trial more, random ones none."""
    rows = []
    for full, (name, n) in itertools.product((0, 2, 4), ((RETRIEVAL, 1), (RANDOM, draws))):
        for draw, trial in itertools.product(range(n), range(4)):
            right = full == 4 or (name == RETRIEVAL and trial < full)
            rows.append(
                {"heads": name, "full": full, "draw": draw, "names": "", "trial": trial, "length": LENGTHS[trial],
                 "needle": f"needle {trial // 2}", "output": "x", "recall": float(right), "exact": right,
                 "logprob": -1.0 if right else -5.0, "error": None}
            )  # fmt: skip
    return CacheCurve(pd.DataFrame(rows[::-1]), size, WINDOW, [Head(0, 0)], retrieving=1, model="constructed")


@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.sampled_from([1, 2, 4]), st.integers(0, 40),
    st.integers(0, 6), st.integers(1, 20), st.data(),
)  # fmt: skip
def test_bytes_are_those_of_every_value_that_is_kept(layers, kv_heads, d_head, width, length, sink, recent, data):
    size, window = CacheSize(layers, kv_heads, d_head, width), Window(sink, recent)
    in_full = data.draw(st.sets(st.sampled_from(list(itertools.product(range(layers), range(kv_heads))))))
    counted = 0
    for group, position in itertools.product(itertools.product(range(layers), range(kv_heads)), range(length)):
        if group in in_full or position < sink or position >= length - recent:
            counted += sum(width for _ in ("key", "value") for _ in range(d_head))
    assert size.bytes(length, len(in_full), window) == counted


def test_the_share_is_that_of_the_bytes_of_all_prompts():
    found = curve()
    shares = [found.share(full) for full in range(5)]
    assert shares[4] == 1
    assert (np.diff(shares) > 0).all()
    assert shares[0] == pytest.approx(4 * 12 / (2 * 100 + 2 * 200))
    assert shares[1] == pytest.approx(1 / 4 + 3 / 4 * shares[0])


def test_levels_and_gains_are_means_over_draws_and_trials():
    found = curve()
    assert found.fulls == [0, 2, 4]
    assert found.draws == 3
    assert found.matrix(RANDOM, 2).shape == (3, 4)
    assert found.needles == ["needle 0", "needle 0", "needle 1", "needle 1"]
    np.testing.assert_array_equal(found.matrix(RETRIEVAL, 2), [[1, 1, 0, 0]])
    assert [found.level(RETRIEVAL, full).value for full in found.fulls] == [0, 0.5, 1]
    assert [found.level(RANDOM, full, "exact").value for full in found.fulls] == [0, 0, 1]
    gains = [found.gain(full) for full in found.fulls]
    assert [gain.value for gain in gains] == [0, 0.5, 0]
    assert (gains[1].low, gains[1].high) == (0, 1), "one needle of two"
    assert all(gain.low <= gain.value <= gain.high for gain in gains)


def test_log_probabilities_are_bounded_by_nothing():
    found = curve()
    assert found.level(RETRIEVAL, 2, "logprob").value == -3
    for interval in (found.level(RANDOM, 2, "logprob"), found.gain(2, "logprob")):
        assert interval.low <= interval.value <= interval.high
    assert found.gain(2, "logprob").value == 2
    assert found.gain(0, "logprob")[:3] == (0, 0, 0)


def test_the_summary_has_a_row_a_cache(tmp_path):
    found = curve()
    table = found.summary()
    assert list(zip(table["heads"], table["full"], strict=True)) == [
        (heads, full) for heads in (RETRIEVAL, RANDOM) for full in (0, 2, 4)
    ]
    assert table["share"].tolist() == [found.share(full) for full in (0, 2, 4)] * 2
    assert table["draws"].tolist() == [1] * 3 + [3] * 3
    assert (table["trials"] == 4).all()
    assert table["recall"].tolist() == [0, 0.5, 1, 0, 0, 1]
    assert "exact" in found.summary("exact")
    assert repr(found) == (
        "CacheCurve(constructed: [0, 2, 4] of 4 key-value heads in full, 2 + 10 positions for the others, 3 draws)"
    )
    assert found._repr_html_().count("<tr") == 7
    assert len(pd.read_csv(found.save(tmp_path / "deep" / "answers.csv"))) == len(found.answers)


@pytest.mark.parametrize(("heads", "full"), [(RETRIEVAL, 1), ("others", 2)])
def test_caches_that_were_not_tried_are_named(heads, full):
    with pytest.raises(ValueError, match=rf"no cache kept {full} '{heads}' key-value heads .* \[0, 2, 4\]"):
        curve().matrix(heads, full)


def test_a_curve_shows_its_recall():
    found = curve()
    page = shown(found)
    assert (page.line, page.label) == (repr(found), "recall")
    assert page.cells["retrieval full=2"] == "0.500"
    assert page.cells["random full=4"] == "1.000"
    assert page.headings == list(found.summary())
    assert "CacheCurve(model: " in repr(CacheCurve(found.answers, SIZE, WINDOW, [], 1))


def test_the_usual_window_is_that_of_attention_sinks():
    assert Window() == (4, 64)
    assert CacheCurve(curve().answers, SIZE, WINDOW, [], 1).phase == "decode"
