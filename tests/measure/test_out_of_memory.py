"""Memory that runs out is survived in halves, without a change of results; only a single prompt too many ends a run."""

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

import rhlens as rh
from rhlens.model.engine import Engine
from rhlens.model.memory import OutOfMemoryError
from rhlens.model.patching import PatchRun
from rhlens.model.reading import PromptReader
from tests.test_cli import run as run_cli

FULL = RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
ERRORS = [FULL, MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")]


@pytest.fixture(scope="module")
def trials(tiny_llama):
    return rh.niah(tiny_llama, [120], 2, needles=4)


def only(monkeypatch, n_rows: int, where, method: str, error: BaseException = FULL) -> list[int]:
    """From now on more than `n_rows` rows are too much for a method; returns the sizes that it is called with."""
    real, tried = getattr(where, method), []

    def small(self, rows, *args, **options):
        tried.append(len(rows))
        if len(rows) > n_rows:
            raise error
        return real(self, rows, *args, **options)

    monkeypatch.setattr(where, method, small)
    return tried


ablate = partial(rh.ablate, heads=[(0, 1)], k=1, draws=1, max_new_tokens=3)
VERBS = {
    "detect": (partial(rh.detect, max_new_tokens=3), PromptReader, "read"),
    "ablate": (ablate, PromptReader, "read"),
    "mean": (partial(ablate, method="mean"), Engine, "_read"),
    "resample": (partial(ablate, method="resample"), PromptReader, "read"),
    "causal_map": (partial(rh.causal_map, phase="decode"), PromptReader, "read"),
    "patch": (rh.patch, PatchRun, "patched"),
    "patch_top": (partial(rh.patch_top, heads=[(0, 1)], k=1, draws=5), PatchRun, "patched"),
    "path_patch": (partial(rh.path_patch, receivers=[(1, 0)]), PatchRun, "through"),
}


def numbers_of(result) -> dict[str, np.ndarray]:
    """All that a result holds in numbers."""
    tables = {name: value.select_dtypes("number") for name, value in vars(result).items()
              if isinstance(value, pd.DataFrame)}  # fmt: skip
    arrays = {name: value for name, value in vars(result).items() if isinstance(value, np.ndarray)}
    return {name: np.asarray(value, dtype=float) for name, value in (tables | arrays).items()}


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_goes_on_in_halves_and_finds_the_same(tiny_llama, trials, verb, monkeypatch):
    measure, where, method = VERBS[verb]
    trials = rh.niah(tiny_llama, [120], 1, needles=2) if where is PatchRun else trials
    expected = numbers_of(measure(tiny_llama, trials))
    tried = only(monkeypatch, 2, where, method)
    found = numbers_of(measure(tiny_llama, trials))
    assert max(tried) > 2, "the test can see the difference"
    assert found.keys() == expected.keys()
    assert any(values.size for values in found.values())
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], atol=1e-4, err_msg=name)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_what_was_finished_is_kept_when_not_even_one_prompt_fits(tiny_llama, trials, tmp_path, error, monkeypatch):
    detect, _, _ = VERBS["detect"]
    expected = detect(tiny_llama, trials)
    with monkeypatch.context() as patch:
        calls, real = [], PromptReader.read

        def full_after_three(self, prompts):
            calls.append(len(prompts))
            if len(prompts) > 1 or calls.count(1) > 3:
                raise error
            return real(self, prompts)

        patch.setattr(PromptReader, "read", full_after_three)
        with pytest.raises(OutOfMemoryError, match=r"out of memory with a single prompt .*: use shorter prompts"):
            detect(tiny_llama, trials, out=tmp_path)
    kept = (tmp_path / "records.jsonl").read_text().splitlines()
    assert len(kept) == 3
    again = detect(tiny_llama, trials, out=tmp_path)
    np.testing.assert_array_equal(again.sum_scores, expected.sum_scores)
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    assert lines[:3] == kept
    assert len({json.loads(line)["key"] for line in lines}) == len(lines) == len(trials)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("place", ["rhlens.model.load.reference", "rhlens.measure.detect.PromptReader.read"])
def test_the_command_line_ends_in_one_sentence(place, error, monkeypatch, capsys):
    def full(*args, **options):
        raise error

    monkeypatch.setattr(place, full)
    assert run_cli(monkeypatch, "detect", "planted-llama", "--needles", "2", "--depths", "1", "--lengths", "120") == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("rhlens: out of memory ")
    assert said[-1].endswith("use shorter prompts, a smaller model, or dtype='bfloat16'")
    assert not any("Traceback" in line or "alloc_cpu" in line for line in said)
