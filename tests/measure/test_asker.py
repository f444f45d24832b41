"""Many asks under many conditions, with all that they share, against each alone on TransformerLens."""

import numpy as np
import pytest
import torch

import rhlens as rh
from rhlens.measure import asker as asker_module
from rhlens.measure.asker import Asker
from rhlens.model.engine import Engine
from rhlens.results.heads import Head

SETS = [(), (Head(0, 1),), (Head(1, 2), Head(1, 3)), (Head(0, 0), Head(1, 1)), (Head(1, 0),)]


@pytest.fixture(scope="module")
def asks(tiny_llama):
    return rh.niah(tiny_llama, [150, 170], 2, needles=3)


def found(asker: Asker, asks, todo) -> dict:
    """Tokens of each answer and log-probabilities of each right reply."""
    result = {}
    for keys, prefix in asker.prefixes(asks, todo):
        scored = asker.log_probs(prefix, [asks[index] for _, index in keys])
        traces = asker.engine.decode(prefix, 6)
        result |= {key: (t.tokens.tolist(), p) for key, t, p in zip(keys, traces, scored, strict=True)}
    return result


def todo_of(asks) -> list:
    return [((heads, ask.index), (heads, ask)) for heads in SETS for ask in asks]


@pytest.mark.parametrize("method", ["zero", "mean", "uniform", "resample"])
@pytest.mark.parametrize("phase", ["prefill", "decode", "both"])
def test_together_they_are_as_alone(tiny_llama, asks, method, phase, monkeypatch):
    monkeypatch.setattr(asker_module, "BATCH_TOKENS", 3 * 170)
    together = found(Asker(Engine(tiny_llama), asks, method, phase), asks, todo_of(asks))
    bridge = Engine(tiny_llama)
    bridge.twin = None
    alone = Asker(bridge, asks, method, phase)
    one_by_one = {}
    for one in todo_of(asks):
        one_by_one |= found(alone, asks, [one])
    assert together.keys() == one_by_one.keys()
    for key, (tokens, scored) in together.items():
        assert tokens == one_by_one[key][0]
        np.testing.assert_allclose(scored, one_by_one[key][1], atol=2e-5)


def read_tokens(engine, run, monkeypatch) -> int:
    """Prompt tokens that went through the twin, all rows counted."""
    counts, real = [], engine.twin.forward

    def forward(tokens, *args, **kwargs):
        counts.append(tokens.numel() if "logits_to_keep" in kwargs else 0)
        return real(tokens, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(engine.twin, "forward", forward)
        run()
    return sum(counts)


def test_a_condition_reads_what_its_prompts_share_once(tiny_llama, asks, monkeypatch):
    engine = Engine(tiny_llama)
    todo = [one for one in todo_of(asks) if one[1][0]]
    shared = read_tokens(engine, lambda: found(Asker(engine, asks, "zero", "both"), asks, todo), monkeypatch)
    split = read_tokens(
        engine,
        lambda: [
            found(Asker(engine, asks, "zero", "both"), asks, [o for o in todo if o[0][1] == a.index]) for a in asks
        ],
        monkeypatch,
    )
    assert shared < 0.75 * split
    clean = read_tokens(engine, lambda: found(Asker(engine, asks, "zero", "decode"), asks, todo), monkeypatch)
    n_sets = len({heads for _, (heads, _) in todo})
    assert clean < shared < n_sets * clean * 1.1, "the layers below the first ablated one are read once for all sets"


@pytest.mark.parametrize("phase", ["decode", "both"])
def test_conditions_are_halved_where_memory_runs_out(tiny_llama, asks, phase, monkeypatch):
    expected, real = found(Asker(Engine(tiny_llama), asks, "zero", phase), asks, todo_of(asks)), Engine.under

    def small(self, clean, ablations, *args):
        if len(ablations) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return real(self, clean, ablations, *args)

    monkeypatch.setattr(Engine, "under", small)
    got = found(Asker(Engine(tiny_llama), asks, "zero", phase), asks, todo_of(asks))
    assert {k: v[0] for k, v in got.items()} == {k: v[0] for k, v in expected.items()}
    monkeypatch.setattr(Engine, "under", lambda *args: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(RuntimeError, match="out of memory with a single prompt"):
        found(Asker(Engine(tiny_llama), asks, "zero", phase), asks, todo_of(asks))
