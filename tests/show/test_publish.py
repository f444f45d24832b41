import json
from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from rhlens.claims.claim import Claim
from rhlens.results.stats import Interval
from rhlens.show.publish import Drawn, publish
from rhlens.show.report import write_report

CLAIM = Claim(
    "sparse", "toy", Interval(0.25, 0.1, float("nan"), 12, 4), "yes, few; NO, <b>none</b>", "half of them", False
)


def drawn(width=3.0):
    figure, ax = plt.subplots(figsize=(width, 2))
    ax.plot([0, 1], [0, 1])
    return Drawn(figure, pd.DataFrame({"x": [0, 1]}), "A <script>alert(1)</script> line.")


@pytest.fixture
def folder(tmp_path):
    publish(tmp_path / "zebra", "Zebra", {"line": drawn()}, [], {"seed": 0})
    publish(tmp_path / "causal-toy", "Causal: toy", {"line": drawn(8)}, [replace(CLAIM, holds=True)], {"seed": 1})
    publish(tmp_path / "sparse", "Sparse", {"one": drawn(), "two": drawn()}, [CLAIM], {"seed": 0, "models": "toy"})
    return tmp_path


def test_what_is_published_is_all_there_and_strict_json(folder):
    refuse = lambda name: pytest.fail(f"{name} is no JSON")  # noqa: E731
    findings = json.loads((folder / "sparse" / "findings.json").read_text(), parse_constant=refuse)
    assert findings["title"] == "Sparse"
    assert findings["claims"][0]["statistic"] == {"value": 0.25, "low": 0.1, "high": None, "n": 12, "clusters": 4}
    assert findings["claims"][0]["holds"] is False
    assert findings["settings"] == {"seed": 0, "models": "toy"}
    assert {"commit", "torch", "rhlens"} <= set(findings["provenance"])
    for name in findings["figures"]:
        assert (folder / "sparse" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert pd.read_csv(folder / "sparse" / f"{name}.csv")["x"].tolist() == [0, 1]


def test_the_same_results_are_the_same_bytes(folder, tmp_path):
    again = publish(
        tmp_path / "again", "Sparse", {"one": drawn(), "two": drawn()}, [CLAIM], {"seed": 0, "models": "toy"}
    )
    for path in again.iterdir():
        assert path.read_bytes() == (folder / "sparse" / path.name).read_bytes()


def test_the_report_holds_everything_and_nothing_from_elsewhere(folder):
    page = write_report(folder).read_text()
    assert page.index("<h2>Sparse") < page.index("<h2>Causal: toy") < page.index("<h2>Zebra"), "the paper's order first"
    assert page.count("data:image/png;base64,") == 4
    assert page.count('<figure class="wide">') == 1
    assert "<script" not in page
    assert "A &lt;script&gt;alert(1)&lt;/script&gt; line." in page
    assert "<li>NO, &lt;b&gt;none&lt;/b&gt;</li>" in page
    assert "0.25 [0.10, unknown] (n = 12 of 4 needles)" in page
    assert ('class="verdict no">does not hold' in page, 'class="verdict yes">holds' in page) == (True, True)
    links = [part.split('"')[0] for part in page.split('src="')[1:]]
    assert all(link.startswith("data:") for link in links), "it opens without a network"


def test_a_folder_without_experiments_is_one_clear_sentence(tmp_path):
    with pytest.raises(ValueError, match="run one with --out"):
        write_report(tmp_path)
