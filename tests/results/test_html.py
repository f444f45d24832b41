"""What notebooks show of results: every public result, all of it escaped, and maps that say what the numbers say."""

import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

import rhlens as rh
from rhlens.results.html import dose_map, head_map, result_html, small_map
from rhlens.results.stats import Interval
from rhlens.results.support import Support

ATTACK = '<img src=x onerror="alert(1)">&'


def cells(svg: str) -> dict[str, ElementTree.Element]:
    return {r.findtext("title", "").rpartition(": ")[0]: r for r in ElementTree.fromstring(svg).iter("rect")}


@pytest.mark.parametrize(
    "shown",
    [
        result_html(ATTACK, pd.DataFrame({ATTACK: [ATTACK]})),
        small_map(np.ones((1, 1)), [ATTACK], [ATTACK], ATTACK),
        rh.KVHeadScores(np.ones((2, 2)), ATTACK)._repr_html_(),
        rh.HeadList((rh.Head(1, 0),), ATTACK)._repr_html_(),
        rh.Claim(ATTACK, ATTACK, Interval(1, 1, 1, 1), f"yes, {ATTACK}", ATTACK, True)._repr_html_(),
        Support(np.array([1, 1]), [ATTACK] * 2, 1, [rh.Head(0, 0)], np.array([[0]]), np.array([[0.9]]))._repr_html_(),
    ],
)
def test_nothing_leaves_its_place(shown):
    assert "<img" not in shown
    assert "&lt;img" in shown


def test_a_table_shows_three_digits_and_nothing_where_nothing_is_known():
    table = pd.DataFrame({"a": [1, 2], "b": [0.12345, np.nan], "c": ["x", None], "d": [-1e-9, 1.0], "e": [True, False]})
    rows = re.findall("<td>(.*?)</td>", result_html("", table.astype({"a": "Int64"})))
    assert rows == ["1", "0.123", "x", "0.000", "True", "2", "", "", "1.000", "False"]


def test_a_map_of_heads_has_layer_0_at_the_bottom_and_deepens_with_the_value():
    found = cells(head_map(np.array([[0.0, 0.2], [-0.4, 0.1]]), "effect"))
    assert set(found) == {"L0 H0", "L0 H1", "L1 H0", "L1 H1"}
    assert float(found["L0 H0"].attrib["y"]) > float(found["L1 H0"].attrib["y"])
    assert float(found["L1 H1"].attrib["x"]) > float(found["L1 H0"].attrib["x"])
    assert [float(found[h].attrib["fill-opacity"]) for h in ("L0 H0", "L0 H1", "L1 H0")] == [0, 0.5, 1]
    assert found["L1 H0"].attrib["fill"] != found["L0 H1"].attrib["fill"], "below 0 is another colour"


def test_a_map_of_doses_is_blank_where_nothing_was_measured():
    summary = pd.DataFrame({"heads": ["top", "top", "random"], "k": [0, 2, 2], "recall": [1.0, 0.0, 0.9]})
    assert set(cells(dose_map(summary, "recall"))) == {"top k=0", "top k=2", "random k=2"}


def test_empty_and_unknown_results_show_too():
    assert "<svg" in rh.HeadList(())._repr_html_()
    assert cells(head_map(np.full((2, 2), np.nan), "x")) == {}
    assert "0 heads" in rh.HeadList(())._repr_html_()


def test_a_list_with_a_head_far_out_is_shown_without_a_map():
    shown = rh.HeadList((rh.Head(10**9, 10**6),))._repr_html_()
    assert "<svg" not in shown
    assert "L1000000000H1000000" in shown
