"""Figures of what retrieval heads are for show the numbers they are made of; views of support link to true sources."""

import re

import numpy as np
import pytest

from rhlens.results.heads import Head
from rhlens.results.support import Support
from rhlens.show.factuality import cache_figure, chain_figure, detection_figure, drops_figure, hits_figure
from rhlens.show.plot import plot
from rhlens.show.support import MARGIN, SHORT, support
from tests.claims.test_factuality import HEADS, cache, curve_of, detection, hits_that


def copied(n_prompt: int = 6) -> Support:
    """Of five output tokens two are copied from the prompt, one of them weakly, and one from the output."""
    prompt = ["The", " code", " is", " <b>7</b>", " &", "\n", *(f" w{i}" for i in range(n_prompt - 6))]
    texts = [*prompt, " <b>7</b>", " &", " <b>7</b>", " new", "\n"]
    ids = [sorted(set(texts)).index(text) for text in texts]
    source = np.array([[3, 0], [4, 0], [n_prompt, 0], [0, 0], [0, 1]], dtype=np.int32)
    weight = np.array([[0.9, 0.5], [0.3, 0.5], [0.8, 0.5], [0.9, 0.5], [0.9, 0.5]], dtype=np.float32)
    return Support(np.array(ids), texts, n_prompt, [Head(1, 2), Head(0, 0)], source, weight)


def test_signs_stand_beside_random_heads():
    ax = hits_figure(hits_that(foretell=True), HEADS).axes[0]
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels == ["all trials", "k", "64 tokens"]
    assert "the same by 2 random heads" in [text.get_text() for text in ax.get_legend().get_texts()]
    assert len(ax.containers) == 3


def test_drops_stand_in_the_order_that_is_claimed():
    curves = {name: curve_of(name, top) for name, top in (("needle", 0.0), ("facts", 0.9))}
    left, right = drops_figure(curves, 2).axes
    assert [text.get_text() for text in left.get_yticklabels()] == ["needle (n = 60)", "facts (n = 60)"]
    widths = [bar.get_width() for bar in right.patches]
    assert widths == [curves[name].contrast(2).value for name in curves]


def test_the_cache_is_drawn_by_its_share_of_the_bytes():
    curve = cache({0: 0.2, 2: 1.0, 8: 1.0}, {0: 0.2, 2: 0.3, 8: 1.0})
    ax = plot(curve).axes[0]
    shares = [curve.share(full) for full in curve.fulls]
    for line in ax.lines[:2]:
        np.testing.assert_allclose(line.get_xdata(), shares)
    assert [text.get_text() for text in ax.texts] == ["0", "2", "8"]
    assert cache_figure(curve).get_supxlabel().startswith("numbers: key-value heads kept in full, of 8")


def test_support_is_counted_on_both_sides():
    found = detection(0.1)
    ax = detection_figure({"toy": found}).axes[0]
    heights = sum(bar.get_height() for bar in ax.patches)
    assert heights == len(found.trials)
    assert "AUROC 1.00" in ax.get_title(loc="left")


def test_a_chain_names_every_source():
    ax = chain_figure(copied()).axes[0]
    assert [text.get_text() for text in ax.texts] == ["3", "4", "+0"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["·<b>7</b>", "·&", "·<b>7</b>", "·new", "⏎"]


def test_the_view_links_supported_tokens_to_their_sources_and_escapes_them():
    page = support(copied()).html()
    links = re.findall(r'<a href="#(\S+)" title="([^"]*)"[^>]*>(.*?)</a>', page)
    assert [(told, text) for _, told, text in links] == [("0.90 from token 3 by L1H2", " &lt;b&gt;7&lt;/b&gt;")]
    assert f'id="{links[0][0]}"> &lt;b&gt;7&lt;/b&gt;</span>' in page
    assert page.count("rh-none") == 4 + 1, "four tokens without support, and the rule that styles them"
    assert "<b>7" not in page
    assert "<script" not in page


def test_of_a_long_prompt_only_the_neighbourhood_of_sources_is_shown():
    page = support(copied(SHORT + 100)).html()
    assert f" w{MARGIN - 6 + 3} " in page
    assert f" w{MARGIN + 20} " not in page
    assert " … " in page
    assert f" w{SHORT + 93}" in page, "the question is at the end"


def test_views_of_one_notebook_do_not_link_into_each_other():
    ids = [re.findall(r'href="#(rh-\w+)-', support(copied(n)).html())[0] for n in (6, 8)]
    assert ids[0] != ids[1]


@pytest.mark.parametrize("said", [0, 1])
def test_an_answer_of_hardly_a_token_is_shown_too(said):
    found = copied()
    cut = Support(
        found.tokens[: 6 + said], found.texts[: 6 + said], 6, found.heads, found.source[:said], found.weight[:said]
    )
    assert ("nothing said" in support(cut).html()) is (said == 0)
