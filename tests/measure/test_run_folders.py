"""What measures do alike with a run folder and a bar: say what was asked, count, and measure nothing twice."""

import json
import re
from dataclasses import replace

import pytest

import rhlens as rh
from rhlens.measure.detect import bar_disabled
from rhlens.model.engine import Engine
from rhlens.results.cache import Window
from rhlens.tasks.prompts import closed_book_prompts

HEADS = [(2, 3), (3, 1)]
SETTINGS = {
    "detect": {"protocol": "paper", "max_new_tokens": 50},
    "ablate": {"method": "zero", "phase": "decode", "by": "head", "control": "random", "k": [0, 1], "draws": 2,
               "seed": 1, "max_new_tokens": 4},
    "causal_map": {"method": "uniform", "phase": "decode", "seed": 1},
    "cut_cache": {"full": [0, 2, 32], "window": [2, 20], "phase": "decode", "draws": 1, "seed": 1},
    "patch": {"site": "z", "direction": "noise", "positions": "answer", "seed": 1},
    "attribution": {"site": "z", "direction": "denoise", "positions": "all", "seed": 1},
    "path_patch": {"site": "q", "receivers": ["L2H3", "L3H1"], "direction": "noise", "positions": "all", "seed": 1},
    "patch_top": {"heads": ["L2H3", "L3H1"], "k": [0, 1, 2], "controls": ["random"], "draws": 2, "direction": "denoise",
                  "positions": "answer", "seed": 1},
}  # fmt: skip
BARS = {
    "detect": ("detect", 2, "trial"),
    "ablate": ("ablate", (2 + 2) * 2, "answer"),
    "causal_map": ("causal map", 33 * 2, "pass"),
    "cut_cache": ("cut cache", 3 * 2 * 2, "answer"),
} | dict.fromkeys(("patch", "attribution", "path_patch", "patch_top"), ("patch", 2, "trial"))


@pytest.fixture(scope="module")
def asked(planted_llama):
    model, _ = planted_llama
    return model, rh.niah(model, [150], 1, needles=2), rh.detect(model, rh.niah(model, [150], 1, needles=2))


def measure(verb: str, model, trials, scores, **options):
    return {
        "detect": lambda: rh.detect(model, trials, **options),
        "ablate": lambda: rh.ablate(model, trials, HEADS, 1, draws=2, seed=1, max_new_tokens=4, **options),
        "causal_map": lambda: rh.causal_map(model, trials, "uniform", "decode", 1, **options),
        "cut_cache": lambda: rh.cut_cache(
            model, trials, scores, [0, 2], Window(2, 20), "decode", 1, 1, max_new_tokens=4, **options
        ),
        "patch": lambda: rh.patch(model, trials, direction="noise", seed=1, **options),
        "attribution": lambda: rh.patch(model, trials, positions="all", attribution=True, seed=1, **options),
        "path_patch": lambda: rh.path_patch(model, trials, HEADS, "q", seed=1, **options),
        "patch_top": lambda: rh.patch_top(model, trials, HEADS, draws=2, seed=1, **options),
    }[verb]()


@pytest.mark.parametrize("verb", SETTINGS)
def test_a_folder_says_what_was_asked_and_a_bar_what_is_done(verb, asked, tmp_path, capsys):
    model, trials, scores = asked
    capsys.readouterr()
    once = measure(verb, model, trials, scores, out=tmp_path, progress=True)
    assert once.run == Engine(model).about
    assert getattr(once, "phase", None) == SETTINGS[verb].get("phase")
    name, total, unit = BARS[verb]
    shown = capsys.readouterr().err
    assert re.search(rf"{name}: 100%.* {total}/{total} \[.*({unit}/s|s/{unit})\]", shown), shown
    settings = json.loads((tmp_path / "config.json").read_text())
    asked_for = {"trials": 2, "lengths": [150], "depths": [0.5], "needles": [t.needle.statement for t in trials]}
    assert settings == {verb: asked_for | {"model": "planted-llama"} | SETTINGS[verb] | Engine(model).about}
    records = (tmp_path / "records.jsonl").read_bytes()
    again = measure(verb, model, trials, scores, out=tmp_path, progress=False)
    assert repr(again) == repr(once)
    assert (tmp_path / "records.jsonl").read_bytes() == records, "nothing is measured twice"
    assert "100%" not in capsys.readouterr().err


def test_a_bar_is_shown_where_it_is_wanted_and_else_on_a_terminal():
    assert (bar_disabled(None), bar_disabled(True), bar_disabled(False)) == (None, False, True)


def test_an_answer_is_taken_up_only_where_nothing_that_it_depends_on_has_changed(tiny_llama, tmp_path):
    prompts = closed_book_prompts(tiny_llama, 2, 80)
    other = [replace(p, reply=(*p.reply, 7)) for p in prompts]

    def n_records(asks=prompts, heads=((0, 1),), **options) -> int:
        usual = {"k": 1, "draws": 1, "max_new_tokens": 2, "method": "uniform", "out": tmp_path}
        rh.ablate(tiny_llama, asks, heads, **usual | options)
        return len((tmp_path / "records.jsonl").read_text().splitlines())

    assert n_records() == n_records() == n_records(prompts[::-1]) == 3 * 2, "unablated, top and control"
    assert n_records(heads=((1, 2),)) == 6 + 2 * 2, "other heads, but the same unablated model"
    counts = [n_records(**changed) for changed in (
        {"asks": other}, {"method": "zero"}, {"phase": "both"}, {"max_new_tokens": 3}, {"method": "resample"},
        {"method": "mean"}, {"asks": prompts[:1], "method": "mean"},
    )]  # fmt: skip
    assert counts == [16, 22, 28, 34, 40, 46, 49], "all of it is asked anew"


@pytest.mark.parametrize(("verb", "each"), [("ablate", 1), ("causal_map", 9)])
def test_what_came_from_one_prompt_is_not_taken_up_for_another(verb, each, tiny_llama, tmp_path):
    three = closed_book_prompts(tiny_llama, 3, 80)

    def n_records(seed: int) -> int:
        options = {"method": "resample", "phase": "decode", "seed": seed, "out": tmp_path}
        if verb == "ablate":
            rh.ablate(tiny_llama, three, [(0, 1)], 0, max_new_tokens=2, **options)
        else:
            rh.causal_map(tiny_llama, three, **options)
        return len((tmp_path / "records.jsonl").read_text().splitlines())

    counts = [n_records(seed) for seed in range(8)]
    assert counts[0] == 3 * each
    assert counts[-1] == 3 * 2 * each, "each of three prompts with either of the two others"
    assert [n_records(seed) for seed in range(3)] == [counts[-1]] * 3


def test_causal_effects_are_taken_up_only_where_nothing_has_changed(tiny_llama, tmp_path):
    prompts = closed_book_prompts(tiny_llama, 2, 80)

    def n_records(asks=prompts, **options) -> int:
        rh.causal_map(tiny_llama, asks, phase="decode", out=tmp_path, **options)
        return len((tmp_path / "records.jsonl").read_text().splitlines())

    assert n_records() == n_records() == n_records(prompts[::-1]) == 9 * 2
    assert n_records([replace(p, reply=(*p.reply, 7)) for p in prompts]) == 36
    assert n_records(method="uniform") == 54
