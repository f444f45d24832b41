"""Shares of a run: which units each holds, and what is no share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhlens.results.share import Share, Unfinished


@given(st.integers(0, 40), st.integers(1, 12))
def test_a_share_holds_neighbours_and_every_unit_is_in_one(n_units, n):
    shares = [Share("x", i, n).of(range(n_units)) for i in range(1, n + 1)]
    assert [unit for share in shares for unit in share] == list(range(n_units))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["1/1", "1/8", "8/8", "007/123456789"])
def test_a_share_is_written_as_which_and_of_how_many(text):
    number, n = map(int, text.split("/"))
    assert Share.parse("runs/x", text) == Share("runs/x", number, n)


@pytest.mark.parametrize("text", ["9/8", "0/8", "x", "2", "1/0", "-1/2", "1/2/3", "²/3", "", "1/1234567890"])
def test_no_such_shard_is_told_with_what_there_is(text):
    with pytest.raises(ValueError, match="--shard must be which shard and of how many, from 1/8 to 8/8"):
        Share.parse("x", text)


@pytest.mark.parametrize("number", [0, 4, -1])
def test_shares_are_numbered_from_one(number):
    with pytest.raises(ValueError, match=f"share {number} of 3 is none: shares are numbered from 1 to 3"):
        Share("x", number, 3)


def test_a_share_that_is_done_says_what_is_left():
    left = Unfinished(Share("runs/x", 2, 3), 5, 12)
    assert (left.n_left, left.n_units) == (5, 12)
    assert str(left).startswith("runs/x, share 2 of 3, is done; 5 of 12 units are left to other shares")
