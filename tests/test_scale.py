"""Runs that are divided: by hand into shares. The table is the one that a single process gives."""

import json
import random

import numpy as np
import pandas as pd
import pytest

import rhlens as rh
from rhlens.results.share import Share
from tests.test_interruption import VERBS, lines_of

ROUNDING = 1e-5
"""Nats a token, in 32 bits."""


@pytest.fixture(scope="module")
def model():
    return rh.load("planted-llama", quiet=True)


def same(one, other) -> None:
    """All that two results hold is the same; log-probabilities but for the rounding of batches of other sizes."""
    assert type(one) is type(other)
    for name, value in vars(one).items():
        found = getattr(other, name)
        if isinstance(value, pd.DataFrame):
            exact = [column for column in value if column != "logprob"]
            pd.testing.assert_frame_equal(value[exact], found[exact], check_exact=True)
            pd.testing.assert_frame_equal(value, found, rtol=0, atol=ROUNDING)
        elif isinstance(value, np.ndarray):
            np.testing.assert_allclose(value, found, rtol=0, atol=ROUNDING if isinstance(one, rh.CausalMap) else 0)
        else:
            assert value == found, name


def keys_of(folder) -> list[str]:
    return sorted(json.loads(line)["key"] for line in lines_of(folder))


DIVIDED = {
    "detect": {}, "ablate": {"phase": "decode"}, "ablate both": {"phase": "both"}, "causal_map": {"phase": "decode"},
    "patch": {}, "patch_top": {},
}  # fmt: skip


@pytest.mark.parametrize("name", list(DIVIDED))
def test_shares_in_any_order_add_up_to_the_whole_and_the_last_gives_it(model, tmp_path, name):
    verb, options = name.split()[0], DIVIDED[name]
    trials = rh.niah(model, [120, 130], 2, needles=2)
    whole = VERBS[verb](model, trials, out=tmp_path / "whole", **options)
    numbers = random.Random(name).sample(range(1, 6), 5)
    sizes, there = [], tmp_path / "shared"
    for left, number in zip(range(4, -1, -1), numbers, strict=True):
        before = len(lines_of(there))
        share = Share(there, number, 5)
        if left:
            with pytest.raises(rh.Unfinished, match=f"share {number} of 5, is done") as caught:
                VERBS[verb](model, trials, out=share, **options)
            assert caught.value.n_left == len(lines_of(tmp_path / "whole")) - len(lines_of(there))
        else:
            same(VERBS[verb](model, trials, out=share, **options), whole)
        sizes.append(len(lines_of(there)) - before)
    assert max(sizes) - min(sizes) <= 1
    assert keys_of(there) == keys_of(tmp_path / "whole"), "each unit once"
    same(VERBS[verb](model, trials, out=there, **options), whole)
    assert len(lines_of(there)) == len(lines_of(tmp_path / "whole")), "nothing is measured again"


def test_a_share_holds_neighbours_and_every_unit_is_in_one():
    for n in (1, 3, 7, 20):
        shares = [Share("x", i, n).of(range(11)) for i in range(1, n + 1)]
        assert [unit for share in shares for unit in share] == list(range(11))


@pytest.mark.parametrize("text", ["9/8", "0/8", "x", "2", "1/0", "-1/2", "1/2/3", "²/3", ""])
def test_no_such_shard_is_told_with_what_there_is(text):
    with pytest.raises(ValueError, match="--shard must be which shard and of how many, from 1/8 to 8/8"):
        Share.parse("x", text)


def test_when_to_stop_is_not_for_a_share_to_tell(model, tmp_path):
    with pytest.raises(ValueError, match="leave out stop_when_stable"):
        rh.detect(model, rh.niah(model, [120], 1, needles=6), out=Share(tmp_path, 1, 2), stop_when_stable=0.9)
