"""Every page that is written, all of it by an attacker, opened in a browser: nothing runs, nothing is fetched."""

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import rhlens as rh
from rhlens.claims.claim import Claim
from rhlens.cli.output import print_rich
from rhlens.model.attention import Window
from rhlens.results.html import result_html, small_map
from rhlens.results.scores import HeadScores
from rhlens.results.stats import Interval
from rhlens.results.support import Support
from rhlens.show.browser import AttentionBrowser
from rhlens.show.canvas import save_figure
from rhlens.show.publish import Drawn, publish
from rhlens.show.report import write_report
from rhlens.show.support import SupportView
from rhlens.show.tables import score_table
from rhlens.show.views import AttentionView, save_page
from rhlens.tasks.needles import Needle
from rhlens.tasks.trials import Trial
from tests.browser import in_chromium, needs_chromium

NAME = "'\"><img src=x onerror=window.pwned=1>"
"""What a file may be called."""


class Lure(BaseHTTPRequestHandler):
    """A server on this machine that notes who fell for a link."""

    def do_GET(self):
        self.server.fallen.append(self.path)  # pyright: ignore
        self.send_response(404)
        self.end_headers()

    def log_message(self, format, *args):
        pass


@pytest.fixture(scope="module")
def lure() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Lure)
    server.fallen = []  # pyright: ignore
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def evil(lure) -> str:
    """All ways out of text, an attribute, a script, a style, a comment or a template, in one text."""
    do, there = "window.pwned=1", f"http://127.0.0.1:{lure.server_port}"
    return (
        f"</title></style></textarea><script>{do}</script></script><script>{do};alert(1)</script>"
        f"\"><img src=x onerror={do}>'><svg onload={do}>`${{{do}}}\\u003cscript\\u003e{do}\\u003c/script\\u003e"
        f"<img src='{there}/img'><link rel=stylesheet href='{there}/css'><iframe src='{there}/frame'></iframe>"
        f"<script src={there}/js></script><style>@import '{there}/import';</style><base href='{there}/'>"
        f'"+({do})+"\';{do};//{{{{ 7*191 }}}}{{% raise %}}&lt;script&gt;\u2028{do}\u2029\u202e\0]]>-->'
        f'<meta http-equiv="refresh" content="0;url={there}/refresh"><!--<script>'
    )


def looked_at(evil):
    """A trial, heads and the attention between texts, none of which the author of the page chose."""
    needle = Needle(evil, f"{evil} is x9q.", evil, "x9q")
    trial = Trial(needle, 9, 0.5, (0,) * 9, (1, 2), (0, 3), (5, 9), (1, 2), text=evil)
    texts = [evil, *evil.split("<"), "</script>", "<!--", "\n", "\u2028"]
    n = len(texts)
    window = Window(texts, np.full((2, n, n), 1 / n, np.float32), np.ones(2), np.zeros(2), n + 3)
    return trial, [rh.Head(0, 1), rh.Head(1, 0)], window


def attention_view(evil, tmp_path):
    return AttentionView(*looked_at(evil)).save(tmp_path / "attention.html")


def attention_browser(evil, tmp_path):
    trial, heads, window = looked_at(evil)
    return AttentionBrowser([trial, trial], heads, [window, window]).save(tmp_path / "browser.html")


def support_view(evil, tmp_path):
    texts = [evil, *evil.split("<"), evil, evil]
    n = len(texts) - 2
    source, weight = np.zeros((2, 1), np.int32), np.array([[0.9], [0.1]], np.float32)
    found = Support(np.array([7, *range(100, 99 + n), 7, 7]), texts, n, [rh.Head(0, 0)], source, weight)
    assert found.copied().all(), "one token is a link, the other is not"
    return SupportView(found).save(tmp_path / "support.html")


def report(evil, tmp_path):
    figure, ax = plt.subplots(figsize=(2, 1))
    ax.plot([0, 1])
    claim = Claim(evil, evil, Interval(0.5, 0.1, 0.9, 3), f"yes, {evil}; NO, {evil}", evil, holds=True)
    settings = {evil: evil, "list": [evil, evil], "deep": {evil: [evil]}}
    folder = tmp_path / "published" / NAME
    publish(folder, evil, {NAME: Drawn(figure, pd.DataFrame({evil: [evil]}), evil)}, [claim], settings)
    findings = json.loads((folder / "findings.json").read_text())
    findings["provenance"] = {evil: evil}
    (folder / "findings.json").write_text(json.dumps(findings))
    return write_report(tmp_path / "published", tmp_path / "report.html")


def notebook(evil, tmp_path):
    values = np.full((2, 2, 2), 0.5)
    scores = HeadScores(values, values, pd.DataFrame({"recall": [1.0, 1.0], "needle": [evil] * 2}), model=evil)
    claim = Claim(evil, evil, Interval(0.5, 0.1, 0.9, 3), f"yes, {evil}", evil, holds=True)
    drawn = small_map(np.eye(2), [evil, evil], [evil, evil], evil)
    shown = scores._repr_html_() + claim._repr_html_() + result_html(evil, pd.DataFrame({evil: [evil]}), drawn)
    assert "pwned" in shown
    return save_page(tmp_path / "notebook.html", evil, shown)


def opened(page) -> tuple[str, str]:
    """The document after all scripts have run, with what became of `window.pwned` in it; and what the console said."""
    probe = "<script>setTimeout(() => {document.documentElement.dataset.found = String(window.pwned)}, 2000)</script>"
    page.write_text(
        page.read_text().replace("<head>", f"<head>{probe}<script>alert = () => window.pwned = 2</script>", 1)
    )
    run = in_chromium(page, 4000, reachable="127.0.0.1")
    return run.stdout, "\n".join(line for line in run.stderr.splitlines() if "CONSOLE" in line)


@needs_chromium
@pytest.mark.parametrize("write", [attention_view, attention_browser, support_view, report, notebook])
def test_nothing_from_a_prompt_a_name_or_a_file_runs_or_is_fetched(write, evil, lure, tmp_path):
    lure.fallen.clear()
    page = write(evil, tmp_path)
    document, console = opened(page)
    assert 'data-found="undefined"' in document
    assert lure.fallen == []
    assert console == ""
    assert "<base" not in document
    assert "1337" not in document, "no template was rendered twice"


@needs_chromium
def test_the_same_text_unescaped_runs_and_fetches(evil, lure, tmp_path):
    """Else the test above would tell nothing."""
    lure.fallen.clear()
    (page := tmp_path / "naked.html").write_text(f"<html><head></head><body>{evil.partition('<meta')[0]}</body></html>")
    document, _ = opened(page)
    assert 'data-found="1"' in document or 'data-found="2"' in document
    assert {"/img", "/js", "/frame"} <= set(lure.fallen)


@pytest.fixture
def published(tmp_path):
    figure, ax = plt.subplots(figsize=(2, 1))
    ax.plot([0, 1])
    claim = Claim("sparse", "toy", Interval(0.5, 0.1, 0.9, 3), "yes, few", "none", holds=True)
    return publish(tmp_path / "one", "One", {"line": Drawn(figure, pd.DataFrame({"x": [1]}), "A line.")}, [claim], {})


@pytest.mark.parametrize(
    "change",
    [
        {"figures": {"../secret": "x"}}, {"figures": {"/etc/passwd": "x"}}, {"figures": {"..": "x"}}, {"figures": []},
        {"figures": {"none": "x"}}, {"figures": {"short": "x"}}, {"figures": 3}, {"claims": 3}, {"claims": [3]},
        {"claims": [{}]}, {"claims": [{"criterion": "x", "statistic": {"value": "0.5", "low": 0, "high": 1}}]},
        {"settings": 3}, {"provenance": None}, None,
    ],
)  # fmt: skip
def test_damaged_findings_are_one_sentence(published, change):
    findings = json.loads((published / "findings.json").read_text())
    shutil.copy(published / "line.png", published.parent / "secret.png")
    (published / "short.png").write_bytes(b"\x89PNG")
    (published / "findings.json").write_text("[" * 100_000 if change is None else json.dumps(findings | change))
    with pytest.raises(ValueError, match=r"findings\.json is damaged .*: publish that experiment again") as caught:
        write_report(published.parent)
    assert "\n" not in str(caught.value)


def test_a_name_is_no_formula_in_a_figure(tmp_path):
    values = np.full((2, 2, 2), 0.5)
    scores = HeadScores(values, values, pd.DataFrame({"recall": [1.0, 1.0]}), model=r"a$\nonsense{$b")
    assert save_figure(rh.plot(scores), tmp_path / "map.png").stat().st_size > 1000


@pytest.mark.parametrize("name", ["[/]", "[red]a[/red]", "[link=file:///x]y", ":smile:", "a[/b]"])
def test_a_name_is_no_markup_in_the_terminal(name, capsys):
    values = np.full((2, 2, 2), 0.5)
    print_rich(score_table(HeadScores(values, values, pd.DataFrame({"recall": [1.0, 1.0]}), model=name)))
    assert name in "".join(capsys.readouterr().out.split())
