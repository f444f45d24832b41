"""Patching results on activations made up so that what comes back is known."""

import numpy as np
import pandas as pd
import pytest

import rhlens as rh
from rhlens.results.patching import PatchingCurve, PatchingMap, check_retrieves, recovered_ci
from rhlens.results.scores import HeadScores
from tests.support import shown

SHARES = np.array([[0.0, 0.5, 0.2], [-0.1, 1.0, 0.3]])
"""How much of the way from the corrupt to the clean run each head brings back."""
NEEDLES = np.repeat(list("abcde"), 4)
RANDOM = np.random.default_rng(0)
CLEAN, CORRUPT = 3 + RANDOM.random(20), -1 - RANDOM.random(20)


def on_the_way(shares, clean=CLEAN, corrupt=CORRUPT):
    """Logit differences [..., trial] that lie `shares` of the way from the corrupt run to the clean one."""
    return corrupt + np.asarray(shares)[..., None] * (clean - corrupt)


def patching_map(shares=SHARES, needles=NEEDLES, **about) -> PatchingMap:
    patched = np.moveaxis(on_the_way(shares), -1, 0)
    trials = pd.DataFrame({"needle": needles, "corrupt_answer": "no"})
    return PatchingMap(patched, patched[:, None], CLEAN, CORRUPT, trials, **about)


def curve(top, random, ks=(1,)) -> PatchingCurve:
    """At every k the top heads bring back `top` of the way, and each control set its share of `random`."""
    sets = [("top", 0, top), *(("random", draw, share) for draw, share in enumerate(random))]
    rows = [
        {"heads": heads, "k": k, "draw": draw, "trial": t, "needle": NEEDLES[t], "clean": CLEAN[t],
         "corrupt": CORRUPT[t], "patched": on_the_way(share)[t]}
        for k in ks for heads, draw, share in sets for t in range(len(CLEAN))
    ]  # fmt: skip
    return PatchingCurve(pd.DataFrame(rows).sample(frac=1, random_state=0), "toy")


def test_the_scale_runs_from_the_corrupt_run_to_the_clean_one():
    np.testing.assert_allclose(patching_map().recovered(), SHARES)
    np.testing.assert_allclose(patching_map(direction="denoise").effect(), SHARES)
    np.testing.assert_allclose(patching_map(direction="noise").effect(), 1 - SHARES, atol=1e-12)


def test_what_comes_back_in_every_trial_alike_is_sure():
    for head in ((0, 1), (1, 0)):
        ci = patching_map().recovered_ci(head)
        assert ci == (*[pytest.approx(SHARES[head])] * 3, 20, 5)


def test_what_comes_back_of_some_needles_only_is_not():
    patched = CORRUPT + np.repeat([0.9, 0.1, 0.5, 0.7, 0.3], 4) * (CLEAN - CORRUPT)
    honest, naive = (recovered_ci(patched[None], CLEAN, CORRUPT, list(of)) for of in (NEEDLES, range(20)))
    assert honest.low < honest.value < honest.high
    assert honest.high - honest.low > 1.5 * (naive.high - naive.low), "trials of one needle are alike"
    by_trial = PatchingMap(patched[:, None, None], patched[:, None, None, None], CLEAN, CORRUPT, patching_map().trials)
    assert by_trial.recovered_ci((0, 0)) == honest


def test_the_largest_effects_come_first():
    found = patching_map()
    assert found.top(3) == [rh.Head(1, 1), rh.Head(0, 1), rh.Head(1, 2)]
    assert patching_map(direction="noise").top(1) == [rh.Head(1, 0)]
    assert len(patching_map(np.linspace(0, 1, 12).reshape(2, 6)).top()) == 10
    table = found.frame()
    assert list(table) == ["name", "layer", "head", "effect", "recovered", "low", "high"]
    assert len(table) == 6
    assert table["effect"].is_monotonic_decreasing
    row = found.frame(k=2).iloc[-1]
    assert (row["name"], row["layer"], row["head"]) == ("L0H1", 0, 1)
    np.testing.assert_allclose(row[["effect", "recovered", "low", "high"]].to_list(), 0.5)
    noise = patching_map(direction="noise").frame(k=1).iloc[0]
    assert (noise["effect"], noise["recovered"]) == (pytest.approx(1.1), pytest.approx(-0.1))


def test_maps_of_one_shape_are_correlated_head_by_head():
    found, other = patching_map(), patching_map(RANDOM.random((2, 3)), direction="noise")
    expected = np.corrcoef(found.effect().ravel(), other.effect().ravel())[0, 1]
    assert found.pearson(other) == pytest.approx(expected)
    assert other.pearson(found) == pytest.approx(expected)
    values = np.repeat(np.clip(SHARES, 0, 1)[None], 2, 0)
    scores = HeadScores(values, values, pd.DataFrame({"needle": [0, 1]}))
    assert found.pearson(scores) == pytest.approx(np.corrcoef(SHARES.ravel(), scores.mean().ravel())[0, 1])
    constant = patching_map(np.ones((2, 3)))
    constant = PatchingMap(np.ones((20, 2, 3)), constant.by_position, CLEAN, CORRUPT, constant.trials)
    assert np.isnan(found.pearson(constant))
    assert np.isnan(constant.pearson(found))
    with pytest.raises(ValueError, match=r"maps of \(2, 3\) and \(1, 1\) heads cannot be compared: take the same mod"):
        found.pearson(patching_map(np.ones((1, 1))))


def test_every_trial_and_head_has_a_row(tmp_path):
    found = patching_map()
    table = pd.read_csv(found.save(tmp_path / "new" / "map.csv"))
    assert list(table) == ["needle", "corrupt_answer", "clean", "corrupt", "layer", "head", "patched"]
    assert len(table) == 20 * 6
    row = table.iloc[6 * 7 + 4]  # the eighth trial's L1H1
    assert (row["needle"], row["layer"], row["head"]) == (NEEDLES[7], 1, 1)
    assert (row["clean"], row["corrupt"]) == (pytest.approx(CLEAN[7]), pytest.approx(CORRUPT[7]))
    assert row["patched"] == pytest.approx(CLEAN[7])


def test_parts_that_do_not_fit_together_are_refused():
    whole = patching_map()
    for patched, clean, corrupt in (
        (whole.patched[0], CLEAN, CORRUPT),
        (whole.patched[1:], CLEAN, CORRUPT),
        (whole.patched, CLEAN[1:], CORRUPT),
        (whole.patched, CLEAN, CORRUPT[1:]),
    ):
        with pytest.raises(ValueError, match=r"patched must be \[trial, layer, head\], one row a trial, not \("):
            PatchingMap(patched, whole.by_position, clean, corrupt, whole.trials)


def test_a_model_that_does_not_retrieve_has_nothing_to_patch():
    check_retrieves(np.array([0.1]), np.array([0.0]))
    for corrupt in (CLEAN, CLEAN + 1):
        with pytest.raises(ValueError, match=r"no more with the clean prompt .* shorter prompts or another model$"):
            check_retrieves(CLEAN, corrupt)
    with pytest.raises(ValueError, match="nothing to patch"):
        PatchingMap(np.ones((20, 1, 1)), np.ones((20, 1, 1, 1)), CORRUPT, CLEAN, patching_map().trials)
    with pytest.raises(ValueError, match="nothing to patch"):
        PatchingCurve(curve(0.5, [0.1]).values.rename(columns={"clean": "corrupt", "corrupt": "clean"}))


def test_a_curve_reads_heads_patched_together_trial_by_trial():
    found = curve(0.8, [0.1, 0.3], ks=(4, 2))
    assert found.ks == [2, 4]
    assert found.level("top", 2) == (*[pytest.approx(0.8)] * 3, 20, 5)
    random = found.level("random", 4)
    assert random.value == pytest.approx(0.2)
    assert (random.low, random.high) == (pytest.approx(0.1), pytest.approx(0.3)), "two draws that differ"
    table = found.summary()
    assert list(table) == ["heads", "k", "recovered", "low", "high", "n", "clusters"]
    assert len(table) == 4
    rows = table.set_index(["heads", "k"])
    np.testing.assert_allclose(rows.loc[("top", 4)].to_list(), [0.8, 0.8, 0.8, 20, 5])
    np.testing.assert_allclose(rows.loc[("random", 2)].to_list(), [0.2, 0.1, 0.3, 20, 5])
    for heads, k in (("top", 3), ("nobody", 2)):
        with pytest.raises(ValueError, match=rf"no k = {k} of '{heads}' heads: measured were \[2, 4\]"):
            found.level(heads, k)


def test_a_curve_resamples_needles():
    found = curve(0.8, [0.1])
    uneven = found.values.assign(patched=lambda v: np.where(v["needle"] == "a", v["corrupt"], v["clean"]))
    ci = PatchingCurve(uneven).level("top", 1)
    assert 0.3 < ci.low < ci.value - 0.1
    assert ci.high == pytest.approx(1), "one needle of five is missed by many a resample"


def test_a_curve_is_written_whole(tmp_path):
    found = curve(0.8, [0.1])
    pd.testing.assert_frame_equal(pd.read_csv(found.save(tmp_path / "c.csv")), found.values.reset_index(drop=True))


def test_both_say_what_they_are():
    about = "exact, z, denoise, positions: answer, 20 trials; L1H1 1.00, L0H1 0.50, L1H2 0.30"
    assert repr(patching_map(model="toy")) == f"PatchingMap(toy: {about})"
    assert repr(patching_map()) == f"PatchingMap(model: {about})"
    assert repr(curve(0.8, [0.1], ks=(1, 3))) == "PatchingCurve(toy: denoise, k = [1, 3])"
    assert repr(PatchingCurve(curve(0.8, [0.1]).values)) == "PatchingCurve(model: denoise, k = [1])"


def test_both_show_their_map_and_table():
    found = patching_map(np.linspace(0, 1, 12).reshape(3, 4))
    page = shown(found)
    assert (page.line, page.label) == (repr(found), "effect")
    assert (page.cells["L2 H3"], page.cells["L0 H0"], len(page.cells)) == ("1.000", "0.000", 12)
    assert page.headings == list(found.frame())
    assert [row[0] for row in page.rows] == [str(h) for h in found.top(10)]
    together = curve(0.8, [0.1, 0.3])
    page = shown(together)
    assert (page.line, page.label) == (repr(together), "recovered")
    assert page.cells == {"top k=1": "0.800", "random k=1": "0.200"}
    assert page.headings == list(together.summary())
