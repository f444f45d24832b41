"""Work that is left out because nothing depends on it: what is measured is the same."""

import numpy as np
import pytest
import torch

import rhlens as rh
from rhlens.model.ablation import Ablation
from rhlens.model.engine import Engine
from rhlens.results.heads import Head
from tests.support import ARCHITECTURES, tiny_checkpoint


def test_prompts_are_read_up_to_the_last_layers_keys(tiny_llama):
    engine, ran = Engine(tiny_llama), []
    handles = [layer.mlp.register_forward_hook(lambda *_, i=i: ran.append(i))
               for i, layer in enumerate(engine.twin.model.layers)]  # fmt: skip
    prefix = engine.prefill(torch.randint(2, 2048, (1, 40)))
    for handle in handles:
        handle.remove()
    assert ran == list(range(engine.n_layers - 1))
    assert all(layer.keys.shape[2] == 39 for layer in prefix.cache.layers)


def test_layers_below_every_ablation_are_read_as_one_row(tiny_llama):
    engine, last = Engine(tiny_llama), Engine(tiny_llama).n_layers - 1
    clean = engine.prefill(torch.randint(2, 2048, (1, 40)))
    prefix = engine.under(clean, [Ablation([(last, 0)], "both"), Ablation([(last, 1)], "both")], [0, 0])
    assert [len(layer.keys) for layer in prefix.cache.layers] == [1] * last + [2]
    assert prefix.outputs.shape[1] == 2


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_conditions_side_by_side_are_as_if_read_alone_whatever_layers_they_share(arch, tmp_path):
    engine = Engine(rh.load(tiny_checkpoint(arch, tmp_path), quiet=True))
    last = engine.n_layers - 1
    sets = [(Head(last, 0),), (Head(last, 1), Head(last, 0)), ()]
    prompts = torch.randint(2, 2048, (2, 40), generator=torch.Generator().manual_seed(5))
    prompts[1, :20] = prompts[0, :20]
    outlines = [engine.prefill(row[None]) for row in prompts]
    ablations = [Ablation(heads, "both", "zero", True) for heads in sets]
    before = None
    for clean in outlines:
        together = engine.under(clean, ablations, [0] * len(sets), before=before)
        replies = [[7, 8, 9]] * len(sets)
        together.guesses = [[7, 8, 9, 10]] * len(sets)
        traces, scored = engine.decode_and_score(together, replies, 6)
        for i, ablation in enumerate(ablations):
            alone = engine.under(clean, [ablation])
            np.testing.assert_allclose(scored[i], engine.log_probs(alone, replies[:1])[0], atol=1e-4)
            np.testing.assert_array_equal(traces[i].tokens, engine.decode(alone, 6)[0].tokens)
        before = together
