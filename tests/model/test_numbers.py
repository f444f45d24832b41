"""Numbers: ties are resolved alike on every path, and what is no finite number is reported, never scored."""

import copy
import re
import shutil
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rhlens as rh
from rhlens.measure import asker as asker_module
from rhlens.measure import detect as detect_module
from rhlens.measure.detect import answers_of
from rhlens.measure.support import watch
from rhlens.model import engine as engine_module
from rhlens.model.engine import Engine
from rhlens.model.numbers import TIE, check_numbers, likeliest, strongest
from rhlens.model.patching import PatchRun
from tests.support import plain_model, tiny_checkpoint
from tests.test_cli import run as run_cli

STEPS = 4


@pytest.fixture
def threads():
    """Sets the number of threads, until the test is over."""
    yield torch.set_num_threads
    torch.set_num_threads(1)


def on_the_bridge(engine: Engine) -> Engine:
    bridge = copy.copy(engine)
    bridge.twin = None
    return bridge


# Ties


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=300),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.floats(-0.4, 0.4),
)
def test_of_equal_weights_the_first_counts(values, dtype, rounding):
    """The largest is made to differ by rounding from the second largest on, as other ways to compute it would."""
    row = torch.tensor(values, dtype=torch.float32)
    largest = (row == row.max()).nonzero()[:, 0]
    row[largest[1:]] *= 1 + rounding * TIE
    pattern = (row / 16).to(dtype).expand(2, 3, 1, -1)
    position, weight = strongest(pattern)
    assert (position == largest[0]).all()
    assert (weight == pattern.amax(-1)).all()
    assert (likeliest(pattern) == largest[0]).all()


def test_weights_that_differ_are_told_apart():
    row = torch.tensor([0.3, 0.3 * (1 + 3 * TIE), 0.2])
    assert int(strongest(row)[0]) == 1
    assert int(likeliest(100 * row)) == 1


def scale(model, factors: dict[str, float]) -> None:
    """Multiply every parameter of a plain model whose name is like one of these by a number."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for like, factor in factors.items():
                if re.search(like, name):
                    parameter.mul_(factor)


def every_way(engine: Engine, tokens: torch.Tensor, monkeypatch) -> dict[tuple, list]:
    """Traces of greedy answers by path, size of chunks, rows side by side, and whether they are read back at once."""
    found = {}
    for path, runner in (("twin", engine), ("bridge", on_the_bridge(engine))):
        for chunk in (512, 13):
            monkeypatch.setattr(engine_module, "TWIN_CHUNK", chunk)
            monkeypatch.setattr(engine_module, "BRIDGE_CHUNK", chunk)
            together = runner.prefill(tokens)
            found[path, chunk, 16] = runner.decode(together, STEPS)
            together.guesses = [trace.tokens[:-1].tolist() for trace in found[path, chunk, 16]]
            found[path, chunk, "read back"] = runner.decode(together, STEPS)
            found[path, chunk, 1] = [runner.decode(runner.prefill(row[None]), STEPS)[0] for row in tokens]
    return found


@pytest.mark.parametrize("n_threads", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_of_equal_keys_the_first_counts_on_every_path(tmp_path, monkeypatch, threads, n_threads):
    """Without positions, the keys of a repeated token are the same in layer 0, and weighed alike but for rounding."""
    threads(n_threads)
    model = rh.load(tiny_checkpoint("gpt2", tmp_path), quiet=True)
    scale(model.original_model, {"wpe": 0})
    tokens = torch.randint(2, 12, (16, 70), generator=torch.Generator().manual_seed(0))
    ways = every_way(Engine(model), tokens, monkeypatch)
    said = [trace.tokens for trace in ways["twin", 512, 16]]
    for way, traces in ways.items():
        for row, trace, answer in zip(tokens.tolist(), traces, said, strict=True):
            np.testing.assert_array_equal(trace.tokens, answer)
            read = [*row, *answer]
            looks = trace.position[:, 0].ravel().tolist()
            assert [read.index(read[look]) for look in looks] == looks, way


def test_uniform_attention_looks_at_the_first_token_on_every_path(tmp_path, monkeypatch):
    model = rh.load(tiny_checkpoint("llama-gqa", tmp_path), quiet=True)
    scale(model.original_model, {"q_proj": 0})
    tokens = torch.randint(2, 2048, (16, 70), generator=torch.Generator().manual_seed(0))
    for way, traces in every_way(Engine(model), tokens, monkeypatch).items():
        for trace in traces:
            assert not trace.position.any(), way


def test_of_equally_likely_tokens_the_first_is_said_on_every_path(tmp_path, monkeypatch):
    model = rh.load(tiny_checkpoint("llama", tmp_path, tie_word_embeddings=False), quiet=True)
    weight = model.original_model.lm_head.weight
    with torch.no_grad():
        weight[1::2] = weight[::2]
    tokens = torch.randint(2, 2048, (16, 70), generator=torch.Generator().manual_seed(0))
    for way, traces in every_way(Engine(model), tokens, monkeypatch).items():
        for trace in traces:
            assert not (trace.tokens % 2).any(), way


# Threads and batches


@pytest.fixture(scope="module")
def nano():
    return rh.load("nano-llama", quiet=True)


def asked(model, n_rows: int, monkeypatch) -> tuple[list, pd.DataFrame]:
    """Traces of needle trials, and answers under ablations, with so many prompts side by side."""
    trials = rh.niah(model, [128], 4, needles=4)
    for module in (detect_module, asker_module):
        monkeypatch.setattr(module, "BATCH_TOKENS", n_rows * 128)
    monkeypatch.setattr(asker_module, "SHARED_ROWS", n_rows)
    traces = dict(answers_of(Engine(model), trials, 4))
    curve = rh.ablate(model, trials[::8], [(7, 3), (7, 0)], k=2, draws=1, phase="both", max_new_tokens=4)
    return [traces[trial] for trial in trials], curve.answers


@pytest.mark.parametrize(("n_threads", "n_rows"), [(1, 1), (2, 16), pytest.param(2, 1, marks=pytest.mark.slow)])
def test_threads_and_rows_side_by_side_change_nothing(nano, threads, n_threads, n_rows, monkeypatch):
    traces, answers = asked(nano, 16, monkeypatch)
    threads(n_threads)
    more_traces, more_answers = asked(nano, n_rows, monkeypatch)
    for trace, other in zip(traces, more_traces, strict=True):
        np.testing.assert_array_equal(other.tokens, trace.tokens)
        np.testing.assert_array_equal(other.position, trace.position)
        np.testing.assert_allclose(other.weight, trace.weight, atol=1e-5)
    columns = more_answers.columns.drop("logprob")
    pd.testing.assert_frame_equal(more_answers[columns], answers[columns])
    np.testing.assert_allclose(more_answers["logprob"], answers["logprob"], atol=1e-4)


# What is no number


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint("llama-gqa", tmp_path_factory.mktemp("gqa"))


OVERFLOWS = {"scores": {r"layers\.1.*[qk]_proj": 2000}, "residual": {r"layers\.0.*down_proj": 3e5}}


def watched(model, trials) -> None:
    with watch(model, [(1, 0)]):
        model.generate(trials[0].text, max_new_tokens=2, do_sample=False, verbose=False)


VERBS = {
    "detect": partial(rh.detect, max_new_tokens=2),
    "ablate": partial(rh.ablate, heads=[(0, 1)], k=1, draws=1, max_new_tokens=2),
    "ablate while reading": partial(rh.ablate, heads=[(0, 1)], k=1, draws=1, max_new_tokens=2, phase="both"),
    "mean": partial(rh.ablate, heads=[(0, 1)], k=1, draws=1, max_new_tokens=2, method="mean"),
    "causal_map": rh.causal_map,
    "patch": rh.patch,
    "attribution": partial(rh.patch, attribution=True),
    "path_patch": partial(rh.path_patch, receivers=[(1, 0)]),
    "attention": lambda model, trials: rh.attention(model, trials[0], [(1, 0)]),
    "watch": watched,
}


@pytest.mark.parametrize("path", ["twin", "bridge"])
@pytest.mark.parametrize("site", list(OVERFLOWS))
def test_what_overflows_in_float16_is_reported_by_every_verb_and_nowhere_else(folder, site, path, monkeypatch):
    trials = None
    for dtype in ("float16", "bfloat16", "float32"):
        model = rh.load(folder, dtype=dtype, quiet=True)
        assert Engine(model).twin is not None
        if path == "bridge":
            monkeypatch.setattr(engine_module, "twin_of", lambda model: None)
        scale(model.original_model, OVERFLOWS[site])
        trials = trials or rh.niah(model, [120], 1, needles=2)
        for verb, measure in VERBS.items() if site == "scores" else [("detect", VERBS["detect"])]:
            if dtype != "float16":
                measure(model, trials)
                continue
            says = r"in the attention( weights)? of layer 1 \(in float16\): .* dtype='bfloat16' or 'float32'"
            with pytest.raises(ArithmeticError, match=says):
                pytest.fail(f"{verb} finds {measure(model, trials)}")
        monkeypatch.undo()


def test_the_command_line_says_it_in_one_sentence_that_helps(folder, tmp_path, monkeypatch, capsys):
    plain = plain_model(folder)
    scale(plain, OVERFLOWS["scores"])
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    plain.save_pretrained(tmp_path)
    small = ("detect", tmp_path, "--lengths", "120", "--depths", "1", "--needles", "2", "--dtype")
    assert run_cli(monkeypatch, *small, "float16") == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("rhlens: not a finite number in the attention of layer 1 (in float16): load the model")
    assert not any("Traceback" in line for line in said)
    assert run_cli(monkeypatch, *small, "bfloat16") == 0, "the way out that it names is one"


def test_a_prompt_that_overflows_is_reported_while_it_is_read(folder):
    engine = Engine(rh.load(folder, dtype="float16", quiet=True))
    scale(engine.model.original_model, OVERFLOWS["residual"])
    for runner in (engine, on_the_bridge(engine)):
        with pytest.raises(ArithmeticError, match=r"attention of layer 1 \(in float16\)"):
            runner.prefill(torch.randint(2, 2048, (2, 40)))


def test_a_patch_that_overflows_is_reported(tiny_llama):
    engine, tokens = Engine(tiny_llama), torch.randint(2, 2048, (2, 40))
    run = PatchRun(engine, tokens[0], tokens[1], 39, [3, 4])
    with pytest.raises(ArithmeticError, match=r"attention of layer 1 \(in float32\)"):
        run.run("base", 2, [("blocks.1.attn.hook_z", lambda z, hook: z * float("inf"))])


def test_the_first_layer_that_goes_wrong_is_named():
    values = torch.zeros(5, 2, 3)
    check_numbers(values, "weights")
    values[3, 1, 0] = float("inf")
    values[4] = float("nan")
    with pytest.raises(ArithmeticError, match=r"in the weights of layer 3 \(in float16\)"):
        check_numbers(values, "weights", torch.float16)
