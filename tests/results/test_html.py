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
from tests.support import shown

ATTACK = '<img src=x onerror="alert(1)">&'


def cells(svg: str) -> dict[str, ElementTree.Element]:
    return {r.findtext("title", "").rpartition(": ")[0]: r for r in ElementTree.fromstring(svg).iter("rect")}


@pytest.mark.parametrize(
    "page",
    [
        result_html(ATTACK, pd.DataFrame({ATTACK: [ATTACK]})),
        small_map(np.ones((1, 1)), [ATTACK], [ATTACK], ATTACK),
        rh.KVHeadScores(np.ones((2, 2)), ATTACK)._repr_html_(),
        rh.HeadList((rh.Head(1, 0),), ATTACK)._repr_html_(),
        rh.Claim(ATTACK, ATTACK, Interval(1, 1, 1, 1), f"yes, {ATTACK}", ATTACK, True)._repr_html_(),
        Support(np.array([1, 1]), [ATTACK] * 2, 1, [rh.Head(0, 0)], np.array([[0]]), np.array([[0.9]]))._repr_html_(),
    ],
)
def test_nothing_leaves_its_place(page):
    assert "<img" not in page
    assert "&lt;img" in page


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
    page = rh.HeadList((rh.Head(10**9, 10**6),))._repr_html_()
    assert "<svg" not in page
    assert "L1000000000H1000000" in page


def test_a_map_stays_within_its_frame_and_its_words_beside_it():
    for rows, columns in ((1, 1), (3, 40), (64, 64), (2, 3)):
        svg = ElementTree.fromstring(
            small_map(
                np.ones((rows, columns)), [f"row {i}" for i in range(rows)], [f"{i}" for i in range(columns)], "x"
            )
        )
        width, height = (float(svg.attrib[name]) for name in ("width", "height"))
        rects = [{name: float(r.attrib[name]) for name in ("x", "y", "width", "height")} for r in svg.iter("rect")]
        side = rects[0]["width"]
        assert side == pytest.approx(min(13, 420 / max(rows, columns)), abs=0.06)
        assert {r["width"] for r in rects} == {r["height"] for r in rects} == {side}
        words = [(text.text, float(text.attrib["y"])) for text in svg.iter("text")]
        ends = dict.fromkeys(["row 0", f"row {rows - 1}"])
        assert [text for text, _ in words] == [*ends, f"x, 0 to {columns - 1}, deepest 1.00"]
        assert 6 * len(f"row {rows - 1}") < min(r["x"] for r in rects) < 8 * len(f"row {rows - 1}") + 8
        assert max(r["x"] for r in rects) + side <= width + 0.6
        lowest = max(r["y"] for r in rects) + side
        assert min(r["y"] for r in rects) == 0
        assert lowest < words[-1][1] < height, "what the map is of stands below it"
        for (_, y), top in zip(words[:-1], (0, max(r["y"] for r in rects)), strict=False):
            assert y - 4 == pytest.approx(top + side / 2, abs=0.2), "a name stands in the middle of its row"
        assert width >= 7 * len(words[-1][0])


def test_columns_run_to_the_right_and_rows_down():
    places = cells(small_map(np.ones((2, 3)), ["a", "b"], ["x", "y", "z"], "m"))
    at = {name: (float(r.attrib["x"]), float(r.attrib["y"])) for name, r in places.items()}
    assert at["a y"][0] - at["a x"][0] == at["a z"][0] - at["a y"][0] == at["b x"][1] - at["a x"][1] == 13
    assert at["b x"][0] == at["a x"][0]
    doses = cells(dose_map(pd.DataFrame({"heads": ["b", "a"], "k": [1, 2], "x": [0.1, -0.2]}), "x"))
    assert {r.attrib["width"] for r in doses.values()} == {"26.0"}
    assert float(doses["b k=1"].attrib["y"]) < float(doses["a k=2"].attrib["y"]), "in the order of the table"


def test_a_page_has_the_line_then_the_map_then_the_table():
    page = result_html("what & why", pd.DataFrame({"a": [1]}, index=[7]), "<svg/>")
    assert re.search(r"</style><p>what &amp; why</p><div[^>]*><svg/><div[^>]*><table", page)
    head = r'<thead><tr><th><button type="button">a</button></th></tr></thead>'
    assert f"{head}<tbody><tr><td>1</td></tr></tbody></table></div></div><script>" in page
    two = result_html("", pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}))
    assert "<tr><td>1</td><td>x</td></tr><tr><td>2</td><td>y</td></tr></tbody>" in two


def test_lists_and_tables_of_heads_show_what_they_hold():
    gates = shown(rh.KVHeadScores(np.array([[0.1, 0.9], [0.5, 0.2]]), "toy"))
    assert gates.line == "KVHeadScores(toy: 2 x 2 key-value heads)"
    assert (gates.label, gates.cells["L0 KV1"]) == ("value", "0.900")
    assert gates.headings == ["name", "layer", "kv_head", "value"]
    assert gates.rows[0] == ["L0H1", "0", "1", "0.900"]
    heads = shown(rh.HeadList(tuple(rh.Head(0, i) for i in (2, 0, 1, 3))))
    assert heads.line == "HeadList(model: 4 heads; L0H2, L0H0, L0H1, ...)"
    assert repr(rh.HeadList((rh.Head(0, 2),), "toy")) == "HeadList(toy: 1 heads; L0H2)"
    assert heads.label == "listed heads, first ones deepest"
    assert heads.cells == {"L0 H2": "4.000", "L0 H0": "3.000", "L0 H1": "2.000", "L0 H3": "1.000"}
    assert (heads.headings, heads.rows[1]) == (["rank", "name", "layer", "head"], ["2", "L0H0", "0", "0"])
