"""The engine against plain Hugging Face eager forwards, over architectures that differ in what could go wrong."""

import copy

import numpy as np
import pytest
import torch

import rhlens as rh
from rhlens.model import engine as engine_module
from rhlens.model.ablation import InterventionError
from rhlens.model.engine import Engine
from rhlens.model.trace import Row
from rhlens.model.twin import twin_of
from tests.support import ARCHITECTURES, assert_as_plain, plain_model, plain_rows, tiny_checkpoint

N_PROMPT, STEPS = 70, 6
NO_TWIN = {"gemma2", "gptj"}
SWITCHES = {"gptj": "transformer.h.{}.attn.out_proj", "gpt2": "transformer.h.{}.attn.c_proj",
            "neox": "gpt_neox.layers.{}.attention.dense"}  # fmt: skip


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def pair(request, tmp_path_factory):
    folder = tiny_checkpoint(request.param, tmp_path_factory.mktemp(request.param))
    return request.param, Engine(rh.load(folder, quiet=True)), plain_model(folder)


def prompts(batch: int = 2, n: int = N_PROMPT) -> torch.Tensor:
    return torch.randint(2, 2048, (batch, n), generator=torch.Generator().manual_seed(1))


def generate(engine: Engine, tokens: torch.Tensor):
    return engine.decode(engine.prefill(tokens), STEPS)


def test_which_prefill_runs_is_known(pair):
    arch, engine, _ = pair
    assert (engine.twin is None) is (arch in NO_TWIN)
    assert ("twin" in engine.path) is (arch not in NO_TWIN)


def test_logits_and_every_heads_argmax_equal_a_plain_eager_forward(pair):
    _, engine, plain = pair
    tokens = prompts()
    prefix = engine.prefill(tokens)
    with torch.inference_mode():
        first = engine.model(prefix.last, past_key_values=prefix.fork(), use_cache=True)[:, -1]
    for b, trace in enumerate(generate(engine, tokens)):
        answer = torch.from_numpy(trace.tokens)[None]
        logits, rows = plain_rows(plain, torch.cat([tokens[b : b + 1], answer], 1), N_PROMPT)
        assert (first[b] - logits[0, 0]).abs().max() < 1e-4
        assert len(trace.tokens) == STEPS or int(logits[0, len(trace.tokens)].argmax()) in engine.eos_tokens
        assert_as_plain(trace, logits, rows)


def test_the_bridge_alone_and_small_chunks_give_the_same(pair, monkeypatch):
    _, engine, _ = pair
    tokens = prompts()
    expected = generate(engine, tokens)
    monkeypatch.setattr(engine_module, "TWIN_CHUNK", 13)
    monkeypatch.setattr(engine_module, "BRIDGE_CHUNK", 11)
    alone = copy.copy(engine)
    alone.twin = None
    for variant in (engine, alone):
        for got, want in zip(generate(variant, tokens), expected, strict=True):
            np.testing.assert_array_equal(got.tokens, want.tokens)
            np.testing.assert_array_equal(got.position, want.position)
            np.testing.assert_allclose(got.weight, want.weight, atol=1e-5)


def test_a_batch_equals_its_rows_and_a_prefix_can_be_decoded_twice(pair):
    _, engine, _ = pair
    tokens = prompts(3)
    prefix = engine.prefill(tokens)
    twice = [engine.decode(prefix, STEPS), engine.decode(prefix, STEPS)]
    alone = [generate(engine, tokens[b : b + 1])[0] for b in range(3)]
    for got in twice:
        for row, one in zip(got, alone, strict=True):
            np.testing.assert_array_equal(row.tokens, one.tokens)
            np.testing.assert_array_equal(row.position, one.position)


def test_a_layer_without_a_pattern_is_an_error(tiny_llama):
    engine = Engine(tiny_llama)
    engine.n_layers = 3
    with pytest.raises((InterventionError, KeyError, AttributeError, ValueError)):
        generate(engine, prompts())


def test_numbers_that_are_not_numbers_are_reported(tiny_llama):
    weight = tiny_llama.original_model.model.norm.weight
    saved = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
    try:
        with pytest.raises(
            ArithmeticError, match=r"in the logits, but in no attention \(in float32\): .* get its files anew"
        ):
            generate(Engine(tiny_llama), prompts())
    finally:
        with torch.no_grad():
            weight.copy_(saved)


def test_decoding_stops_at_the_context_and_at_line_ends(tiny_llama, monkeypatch):
    engine = Engine(tiny_llama)
    tokens = prompts(1, 510)
    assert len(engine.decode(engine.prefill(tokens), 50)[0].tokens) <= 512 - 510 + 1
    row = Row(engine.eos_tokens, engine.tokenizer.decode, 50)
    for token in engine.tokenizer("\n Yes it is\n and", add_special_tokens=False).input_ids:
        row.add(token)
    assert engine.text_of(row.tokens) == "Yes it is"
    assert row.done
    ended = Row(engine.eos_tokens, engine.tokenizer.decode, 50)
    ended.add(engine.tokenizer.eos_token_id)
    assert ended.done
    assert ended.tokens == []


def test_the_wrong_kind_of_model_is_refused(tiny_llama):
    with pytest.raises(TypeError, match=r"use rhlens\.load"):
        Engine(torch.nn.Linear(1, 1))  # pyright: ignore[reportArgumentType]
    compatible = copy.copy(tiny_llama)
    compatible.__dict__["compatibility_mode"] = True
    with pytest.raises(ValueError, match="compatibility mode"):
        Engine(compatible)


def test_rotary_frequencies_that_depend_on_length_are_not_cut_into_chunks(tmp_path, monkeypatch):
    """longrope changes frequencies beyond the original window: a first chunk below it would be rotated wrongly."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "original_max_position_embeddings": 64}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, **factors}
    folder = tiny_checkpoint("phi3", tmp_path, rope_parameters=rope, original_max_position_embeddings=64)
    engine, plain = Engine(rh.load(folder, quiet=True)), plain_model(folder)
    monkeypatch.setattr(engine_module, "TWIN_CHUNK", 40)
    tokens = prompts(1, 120)
    prefix = engine.prefill(tokens)
    with torch.inference_mode():
        got = engine.model(prefix.last, past_key_values=prefix.fork(), use_cache=True)[:, -1]
        want = plain(tokens).logits[:, -1]
    assert (got - want).abs().max() < 1e-4
    monkeypatch.setitem(engine.__dict__, "one_piece", False)
    cut = engine.prefill(tokens)
    with torch.inference_mode():
        wrong = engine.model(cut.last, past_key_values=cut.fork(), use_cache=True)[:, -1]
    assert (wrong - want).abs().max() > 1e-2, "the test can see the difference"


def test_a_prompt_beyond_the_context_is_refused(tiny_llama):
    with pytest.raises(ValueError, match="exceeds the model's context of 512"):
        Engine(tiny_llama).prefill(prompts(1, 513))


def test_twins_share_their_weights(tiny_llama):
    twin = twin_of(tiny_llama)
    assert twin is not None
    own = {p.data_ptr() for p in tiny_llama.original_model.parameters()}
    assert {p.data_ptr() for p in twin.parameters()} <= own  # 3.9 gives every bridge an unembedding bias of its own


def test_hooks_of_the_users_own_act(tiny_llama):
    """The twin would not see them."""
    trials = rh.niah(tiny_llama, [120], 1, needles=2)
    tokens = torch.tensor([trial.tokens for trial in trials])
    plain = Engine(tiny_llama)
    silence = [(f"blocks.{i}.attn.hook_z", lambda z, hook: z * 0) for i in range(2)]
    with tiny_llama.hooks(fwd_hooks=silence), torch.inference_mode():
        hooked = Engine(tiny_llama)
        [trace, _] = hooked.decode(hooked.prefill(tokens), 3)
        expected = tiny_llama(tokens)[0, -1].argmax()
        assert hooked.about["decode"] == "bridge"
    assert trace.tokens[0] == expected
    assert plain.decode(plain.prefill(tokens), 3)[0].tokens[0] != expected, "the hooks make a difference"
    assert Engine(tiny_llama).twin is not None, "gone with the hooks"
