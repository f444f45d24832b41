"""Options that nobody should type: one sentence and exit code 2, soon, or what they say."""

import os
import time

import pytest

from rhlens import cli
from tests.support import tiny_checkpoint

SOON = 10  # seconds, on a busy machine
HUGE, ENDLESS = "1000000000", "9" * 5000


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_checkpoint("llama", tmp_path_factory.mktemp("tiny") / "model")


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        *(("detect", ["--lengths", x]) for x in (HUGE, ENDLESS, "1e9", "-1", "0", "", "²", "200,", "nan", "0x10")),
        *(("detect", ["--depths", x]) for x in (HUGE, ENDLESS, "-3", "--3", "0", "", "²", "nan", "inf", "0,nan")),
        *(("detect", ["--needles", x]) for x in (HUGE, "-3", "--3", "", "²", "/dev/zero", "{pipe}", "x" * 5000)),
        *(("detect", ["--distractors", x]) for x in (HUGE, "-1", "200")),
        *(("detect", ["--haystack", x]) for x in ("/dev/zero", "{pipe}", "{tiny}/model.safetensors", "x" * 5000)),
        *(("detect", ["--stop-when-stable", x]) for x in ("nan", "inf", "-1", "2")),
        *(("detect", ["--device", x]) for x in ("", "cpu:", "cuda:99999999999999", "٣")),
        *(("detect", ["--out", x]) for x in ("{pipe}", "/dev/null", "{tiny}/config.json", "x" * 5000)),
        *(("ablate", ["--draws", x, "--k", "1", "--heads", "L0H0"]) for x in (HUGE, "-1", "9" * 30)),
        *(("ablate", ["--heads", x, "--k", "1"]) for x in (",", "L0H0,", "L0H0,L0H0", "L٠H٠", f"L{ENDLESS}H0")),
        *(("ablate", ["--k", x, "--heads", "L0H0"]) for x in (HUGE, ENDLESS, "-1", "²", "nan")),
        *(("ablate", ["--scores", x, "--k", "1"]) for x in ("/dev/zero", "{pipe}", "{tiny}/model.safetensors")),
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_is_one_sentence_at_once(tiny, tmp_path, monkeypatch, capsys, verb, options):
    os.mkfifo(tmp_path / "pipe")
    given = [option.replace("{pipe}", str(tmp_path / "pipe")).replace("{tiny}", str(tiny)) for option in options]
    usual = {"--lengths": "200", "--depths": "1", "--needles": "1"}
    given += [x for name, value in usual.items() if name not in given for x in (name, value)]
    monkeypatch.setattr("sys.argv", ["rhlens", verb, str(tiny), *given])
    began = time.monotonic()
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert time.monotonic() - began < SOON
    assert stop.value.code == 2
    said = [line for line in capsys.readouterr().err.splitlines() if ": cpu (" not in line]
    assert len(said) == 1
    assert said[0].startswith("rhlens: ")
    assert "sys.set_int_max_str_digits" not in said[0]


@pytest.mark.parametrize("name", ["", ".", "/", "../..", "~", "x" * 5000, "@", "nano-llama@../x", "\udcff", "/dev/zero",
                                  "a/..", "a\nb/c", "https://x.invalid/a"])  # fmt: skip
def test_a_model_that_cannot_be_is_one_sentence(monkeypatch, capsys, name):
    monkeypatch.setattr("sys.argv", ["rhlens", "detect", name])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
