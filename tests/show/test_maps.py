import numpy as np
import pandas as pd
import pytest

import rhlens as rh
from rhlens.results.curves import AblationCurve
from rhlens.results.maps import CausalMap
from rhlens.results.patching import PatchingCurve, PatchingMap
from rhlens.results.scores import HeadScores
from rhlens.show.figures import method_grid
from rhlens.show.tables import map_table, patch_table

TRIALS = pd.DataFrame({"trial": range(4), "needle": list("abcd")})


@pytest.fixture
def effects():
    values = np.zeros((4, 2, 3))
    values[:, 1, 2], values[:, 0, 1] = 1.5, 0.4
    return CausalMap(values, TRIALS, "toy")


@pytest.fixture
def scores():
    mean = np.zeros((1, 2, 3))
    mean[0, 1, 2], mean[0, 0, 0] = 0.9, 0.5
    return HeadScores(mean, mean, pd.DataFrame({"trial": [0]}), "toy")


def patching(direction="denoise", **options):
    patched = np.zeros((4, 2, 3))
    patched[:, 1, 2] = 3.0
    clean, corrupt = np.full(4, 4.0), np.zeros(4)
    return PatchingMap(patched, patched[:, None], clean, corrupt, TRIALS, "toy", direction=direction, **options)


def text_of(table) -> str:
    from rich.console import Console

    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


def test_the_causal_map_shows_effects_and_names_disagreements(effects, scores):
    figure = rh.plot(effects, scores=scores)
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), effects.mean())
    assert {text.get_text() for text in figure.axes[1].texts} == {"L0H1", "L0H0"}
    assert "n = 4 trials" in figure.get_supxlabel()
    assert len(rh.plot(effects).axes) == 2, "map and colour bar"
    text = text_of(map_table(effects, scores, 1))
    assert "effect without score" in text
    assert "score without effect" in text
    assert "2 heads disagree" in text


def test_a_patching_map_is_on_a_scale_from_corrupt_to_clean():
    found = patching()
    assert found.recovered()[1, 2] == pytest.approx(0.75)
    assert found.recovered_ci((1, 2))[:3] == pytest.approx((0.75, 0.75, 0.75))
    assert found.top(1) == [(1, 2)]
    noise = patching("noise")
    assert noise.effect()[1, 2] == pytest.approx(0.25)
    assert noise.effect()[0, 0] == 1.0
    figure = rh.plot(found)
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), found.effect())
    assert figure.axes[0].get_xlabel() == "head"
    assert rh.plot(patching(site="k")).axes[0].get_xlabel() == "key-value group"
    assert "0.750" in text_of(patch_table(found))
    assert "L1H2 0.75" in repr(found)
    assert "<table" in found._repr_html_()


def test_a_model_that_does_not_retrieve_cannot_be_patched():
    with pytest.raises(ValueError, match="nothing to patch"):
        PatchingMap(np.zeros((1, 1, 1)), np.zeros((1, 1, 1, 1)), np.zeros(1), np.ones(1), TRIALS[:1])


def test_the_curve_of_heads_patched_together():
    rows = [{"heads": heads, "k": k, "draw": 0, "needle": n, "trial": n, "patched": p, "clean": 2.0, "corrupt": 0.0}
            for heads, k, p in (("top", 0, 0.0), ("top", 2, 1.5), ("random", 2, 0.5)) for n in "abc"]  # fmt: skip
    curve = PatchingCurve(pd.DataFrame(rows), "toy")
    assert curve.level("top", 2).value == pytest.approx(0.75)
    lines = {line.get_label(): line.get_ydata() for line in rh.plot(curve).axes[0].lines}
    np.testing.assert_allclose(lines["top heads by retrieval score"], [0, 0.75])
    np.testing.assert_allclose(lines["random other heads"], [0, 0.25])
    with pytest.raises(ValueError, match="no k = 1"):
        curve.level("top", 1)
    with pytest.raises(ValueError, match="nothing to patch"):
        PatchingCurve(pd.DataFrame(rows).assign(clean=-1.0))


def test_an_interval_of_controls_spreads_over_draws_too():
    rows = [{"heads": "random", "k": 2, "draw": d, "needle": n, "trial": n, "patched": p, "clean": 1.0, "corrupt": 0.0}
            for d, p in enumerate((0.0, 0.0, 0.0, 1.0)) for n in "abc"]  # fmt: skip
    level = PatchingCurve(pd.DataFrame(rows)).level("random", 2)
    assert level.value == pytest.approx(0.25)
    assert level.low == 0
    assert level.high >= 0.5, "one draw in four may be two in four"


def test_maps_are_written_trial_by_trial(effects, tmp_path):
    table = pd.read_csv(effects.save(tmp_path / "new" / "effects.csv"))
    assert len(table) == effects.effects.size
    for row in table.sample(5, random_state=0).itertuples():
        assert row.effect == pytest.approx(
            effects.effects[list(effects.trials["needle"]).index(row.needle), row.layer, row.head]
        )
    found = patching()
    table = pd.read_csv(found.save(tmp_path / "patching.csv"))
    assert table.query("layer == 1 and head == 2")["patched"].tolist() == found.patched[:, 1, 2].tolist()
    assert {"clean", "corrupt"} < set(table.columns)


def test_methods_and_phases_stand_beside_each_other():
    rows = [{"heads": h, "k": k, "draw": 0, "trial": t, "recall": r, "needle": t}
            for h, k, r in (("top", 0, 1.0), ("top", 2, 0.1), ("random", 2, 0.9)) for t in range(4)]  # fmt: skip
    curves = [AblationCurve(pd.DataFrame(rows), "toy", m, p) for m in ("zero", "mean") for p in ("decode", "both")]
    figure = method_grid(curves, 2)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["in prompt and answer", "while answering"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["output set to zero", "output set to its mean"]


def test_what_cannot_be_drawn_is_said():
    with pytest.raises(TypeError, match="nothing draws a int"):
        rh.plot(3)  # pyright: ignore[reportArgumentType] (what is tested)
