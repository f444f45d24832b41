"""Shared prefixes: what is read is counted by brute force, and nothing that is measured changes."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rhlens as rh
from rhlens.model.engine import Engine
from rhlens.model.plan import WASTE, n_common, plan, walk
from rhlens.model.reading import PromptReader
from rhlens.tasks.trials import Grid
from tests.support import ARCHITECTURES, tiny_checkpoint

# Few tokens and cuts of one haystack: prompts share beginnings of all kinds, and some are the same.
TOKENS = st.lists(st.integers(2, 4), min_size=3, max_size=12).map(tuple)
HAYSTACK = tuple(range(10, 40))
NEEDLED = st.tuples(st.integers(0, 20), st.lists(st.integers(2, 5), min_size=1, max_size=4), st.integers(24, 28)).map(
    lambda x: (*HAYSTACK[: x[0]], *x[1], *HAYSTACK[x[0] :])[: x[2]]
)
PROMPTS = st.lists(st.one_of(TOKENS, NEEDLED), min_size=1, max_size=12)


def tree_size(prompts) -> int:
    """Tokens to read if every beginning is read once: nodes of the prefix tree of all prompts but their last tokens.

    A prompt whose every token was read before still needs one step, to say something.
    """
    return sum(
        max(1, len(prompt) - 1 - max((min(n_common(prompt, q), len(q) - 1) for q in before), default=0))
        for before, prompt in ((prompts[:i], prompts[i]) for i in range(len(prompts)))
    )


@given(PROMPTS)
def test_on_a_walk_the_prompt_before_shares_as_much_as_any_earlier(prompts):
    order = walk(prompts)
    assert sorted(order) == list(range(len(prompts)))
    for at, i in enumerate(order[1:], 1):
        earlier = [n_common(prompts[i], prompts[j]) for j in order[:at]]
        assert earlier[-1] == max(earlier)


@settings(max_examples=200)
@given(PROMPTS, st.integers(1, 6))
def test_groups_are_of_one_length_and_read_little_twice(prompts, most):
    groups = plan(prompts, lambda length: most)
    assert sorted(i for group in groups for i in group) == list(range(len(prompts)))
    assert all(len(group) <= most and len({len(prompts[i]) for i in group}) == 1 for group in groups)
    assert {frozenset(prompts[i] for i in g) for g in plan(prompts[::-1], lambda length: 1)} == {
        frozenset([p]) for p in prompts
    }


@settings(max_examples=60)
@given(PROMPTS)
def test_one_by_one_the_reader_reads_every_beginning_once(tiny_llama, prompts):
    reader = PromptReader(Engine(tiny_llama))
    ordered = [prompts[i] for (i,) in plan(prompts, lambda length: 1)]
    for prompt in ordered:
        reader.read([prompt])
    assert reader.n_read == tree_size(ordered) <= tree_size(prompts)


@settings(max_examples=60)
@given(PROMPTS, st.integers(2, 6))
def test_side_by_side_it_reads_a_little_more(tiny_llama, prompts, most):
    reader, prompts = PromptReader(Engine(tiny_llama)), list(dict.fromkeys(prompts))
    groups = plan(prompts, lambda length: most)
    for group in groups:
        reader.read([prompts[i] for i in group])
    least = tree_size([prompts[i] for group in groups for i in group])
    assert least <= reader.n_read <= (least + len(prompts)) / (1 - WASTE)


@pytest.mark.parametrize(("options", "share"), [({}, 0.56), ({"distractors": 1}, 0.8), ({"restate": False}, 0.56)])
def test_a_grid_shares_its_haystack(tokenizer, options, share):
    prompts = [t.tokens for t in Grid([1024], 10, 6, **options).trials(tokenizer)]
    assert tree_size(prompts) < share * sum(map(len, prompts))


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("with_twin", [True, False])
def test_prompts_read_after_others_are_as_if_read_alone(arch, with_twin, tmp_path):
    engine = copy.copy(Engine(rh.load(tiny_checkpoint(arch, tmp_path), quiet=True)))
    engine.twin = engine.twin if with_twin else None
    haystack = torch.randint(2, 2048, (90,), generator=torch.Generator().manual_seed(3)).tolist()
    needled = [(*haystack[:at], *needle, *haystack[at:])[:80] for at in (0, 30, 60) for needle in ((7, 8), (9,))]
    prompts = [*needled, tuple(haystack[:40]), tuple(haystack[:41])]
    reader, n = PromptReader(engine), 0
    for group in plan(prompts, lambda length: 3):
        rows = [prompts[i] for i in group]
        shared, alone = reader.read(rows), engine.prefill(torch.tensor(rows))
        torch.testing.assert_close(shared.outputs, alone.outputs, atol=2e-5, rtol=1e-4)
        for a, b in zip(engine.decode(shared, 4), engine.decode(alone, 4), strict=True):
            np.testing.assert_array_equal(a.tokens, b.tokens)
            np.testing.assert_array_equal(a.position, b.position)
            np.testing.assert_allclose(a.weight, b.weight, atol=1e-5)
            n += 1
    assert n == len(prompts)
    assert engine.rows_at_once(80) > 1
    assert reader.n_read < 0.75 * sum(map(len, prompts))


def test_a_prefix_that_was_given_up_says_so(tiny_llama):
    engine = Engine(tiny_llama)
    reader = PromptReader(engine)
    old = reader.read([(2, 3, 4, 5)])
    reader.read([(2, 3, 4, 6)])
    with pytest.raises(RuntimeError, match="given up"):
        engine.decode(old, 1)
