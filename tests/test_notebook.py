"""The tour as a reader meets it: it runs from top to bottom, and exported it works without kernel or network."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser import in_chromium, needs_chromium

NOTEBOOK = Path(__file__).parents[1] / "experiments" / "explore.ipynb"
# Put before everything else on the page, so that nothing goes wrong unseen.
_WATCH = """<script>window.wrong = [];
addEventListener("error", event => wrong.push(String(event.message || event.target.outerHTML).slice(0, 200)), true);
addEventListener("unhandledrejection", event => wrong.push(String(event.reason)));
for (const level of ["error", "warn"]) console[level] = (...said) => wrong.push(said.join(" ").slice(0, 200));
</script>"""
# What a reader would do, and what they would then see; written into the page, which Chromium dumps.
_READ = """<script>addEventListener("load", async () => {
  const wait = () => new Promise(done => setTimeout(done, 400)), seen = {};
  const table = document.querySelector(".rh-table"), titles = [...table.tHead.rows[0].cells];
  const column = i => [...table.tBodies[0].rows].map(row => row.cells[i].textContent);
  const [score, head] = ["score", "name"].map(name => titles.findIndex(th => th.textContent === name));
  seen.unsorted = column(score);
  seen.names = column(head);
  titles[score].firstChild.click();
  seen.ascending = column(score);
  titles[score].firstChild.click();
  seen.descending = column(score);
  titles[head].firstChild.click();
  seen.by_name = column(head);
  const view = document.querySelector(".rh-browser"), [trial, choice] = view.querySelectorAll("select");
  const drawn = () => view.querySelector("canvas") && view.querySelector("canvas").toDataURL() + view.innerText;
  await wait();
  const first = seen.drawn = drawn();
  seen.heads = choice.options.length;
  choice.selectedIndex = seen.heads - 1; choice.dispatchEvent(new Event("change")); await wait();
  const other = drawn();
  choice.selectedIndex = 0; choice.dispatchEvent(new Event("change")); await wait();
  seen.back = drawn() === first;
  seen.head_changed = other !== first;
  trial.selectedIndex = 1; trial.dispatchEvent(new Event("change")); await wait();
  seen.trial_changed = drawn() !== first;
  seen.maps = [...document.querySelectorAll("svg.rh-map")].map(map => map.querySelectorAll("rect").length);
  seen.tables = document.querySelectorAll(".rh-table").length;
  seen.fetched = performance.getEntriesByType("resource").map(entry => entry.name).filter(url => /^http/.test(url));
  seen.wrong = wrong;
  document.body.innerHTML = ""; document.body.append(Object.assign(document.createElement("pre"),
    {id: "seen", textContent: btoa(encodeURIComponent(JSON.stringify(seen)))}));
});</script>"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> Path:
    """The notebook, run by nbmake on one thread; it may take a minute."""
    copy = Path(shutil.copy(NOTEBOOK, tmp_path_factory.mktemp("tour")))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbmake", "--overwrite", copy.name]
    path = os.pathsep.join([str(NOTEBOOK.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "PYTHONWARNINGS": "ignore:IProgress"}
    run = subprocess.run(command, cwd=copy.parent, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
    return copy


def test_it_is_kept_without_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]


def test_every_result_shows_itself_and_nothing_is_printed_as_an_error(executed):
    cells = [cell for cell in json.loads(executed.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "stream"], "no warnings, no progress bars"
    rich = [output for output in outputs if "text/html" in output.get("data", {})]
    assert len(rich) == len(cells) - 1, "all but the first cell, which shows a needle"


@needs_chromium
def test_a_browser_shows_the_exported_page_offline_and_it_can_be_used(executed, tmp_path):
    from nbconvert import HTMLExporter

    html, _ = HTMLExporter(template_name="basic").from_filename(str(executed))
    page = tmp_path / "tour.html"
    page.write_text(f'<!doctype html><meta charset="utf-8">{_WATCH}{html}{_READ}', encoding="utf-8")
    seen = _seen(in_chromium(page, 30_000, "--window-size=1200,900", timeout=180).stdout)
    assert seen["wrong"] == []
    assert seen["fetched"] == []
    assert seen["unsorted"] == seen["descending"] != seen["ascending"] == sorted(seen["ascending"], key=float)
    assert seen["by_name"] == sorted(seen["names"], key=lambda name: [int(n) for n in re.findall(r"\d+", name)])
    assert seen["drawn"], "the pattern of the first head is drawn"
    assert seen["heads"] == 4
    assert seen["head_changed"]
    assert seen["trial_changed"]
    assert seen["back"], "the first head again looks as it did"
    assert seen["maps"][0] == 64, "a cell for every head of nano-llama"
    assert seen["tables"] >= 10


def _seen(dump: str) -> dict:
    from base64 import b64decode
    from urllib.parse import unquote

    found = re.search(r'<pre id="seen">([^<]*)</pre>', dump)
    assert found, dump[-2000:]
    return json.loads(unquote(b64decode(found[1]).decode()))
