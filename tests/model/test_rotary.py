"""Rotary frequencies that depend on length: whatever is measured is what `generate` of the model itself computes."""

import numpy as np
import pytest
import torch
import transformers as hf

import rhlens as rh
from rhlens.model.ablation import Ablation
from rhlens.model.engine import Engine
from rhlens.model.rotary import length_of
from rhlens.results.heads import Head
from rhlens.zoo.tokenizer import zoo_tokenizer
from tests.support import plain_model

SWITCH, STEPS = 306, 9
COMMON = {
    "vocab_size": 2048, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
    "tie_word_embeddings": False,
}  # fmt: skip
TYPES = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": SWITCH},
    "llama3": {
        "factor": 4.0, "original_max_position_embeddings": SWITCH, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    },
    "longrope": {
        "short_factor": [1.0] * 4, "long_factor": [4.0, 5.0, 6.0, 8.0], "original_max_position_embeddings": SWITCH,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=TYPES)
def loaded(request, tmp_path_factory):
    """A model of this rotary type, and its folder."""
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    parameters = {"rope_type": kind, "rope_theta": 10_000.0, **TYPES[kind]}
    torch.manual_seed(0)
    if kind == "longrope":
        config = hf.Phi3Config(
            **COMMON, max_position_embeddings=1024, original_max_position_embeddings=SWITCH, rope_parameters=parameters
        )
    else:
        longest = SWITCH if kind == "dynamic" else 1024
        config = hf.LlamaConfig(**COMMON, max_position_embeddings=longest, rope_parameters=parameters)
    hf.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    zoo_tokenizer().save_pretrained(folder)
    model = rh.load(folder, quiet=True)
    model.cfg.n_ctx = 1024
    return kind, folder, model


def engine_of(model) -> Engine:
    engine = Engine(model)
    engine.eos_tokens, engine.turn_ends = set(), set()
    return engine


def prompts(n: int, rows: int = 1) -> torch.Tensor:
    return torch.randint(2, 2048, (rows, n), generator=torch.Generator().manual_seed(n))


def generated(folder, tokens, steps: int = STEPS):
    """What a fresh model generates: tokens, and of each step every head's strongest key and the log-probabilities."""
    found = plain_model(folder).generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=steps, do_sample=False, eos_token_id=-1,
        pad_token_id=1, output_attentions=True, output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    looks = [np.array([a[0, :, -1].argmax(-1).numpy() for a in step]) for step in found.attentions]
    return found.sequences[0, tokens.shape[1] :].tolist(), looks, torch.stack(found.logits)[:, 0].log_softmax(-1)


LENGTHS = (SWITCH - 6, SWITCH - 1, SWITCH, SWITCH + 1, SWITCH + 5)


@pytest.mark.parametrize("drafts", ["none", "right", "wrong"])
@pytest.mark.parametrize("n", LENGTHS)
def test_answers_heads_and_log_probabilities_are_those_of_generate(loaded, n, drafts):
    _, folder, model = loaded
    engine, tokens = engine_of(model), prompts(n)
    said, looks, log_probs = generated(folder, tokens)
    line = next((i for i, t in enumerate(said) if "\n" in engine.tokenizer.decode([t])), STEPS - 1) + 1
    prefix = engine.prefill(tokens)
    prefix.guesses = {"none": [], "right": [said], "wrong": [[*said[:3], 7, 7, 7]]}[drafts]
    [trace] = engine.decode(prefix, STEPS)
    assert trace.tokens.tolist() == said[:line]
    for step in range(line):
        np.testing.assert_array_equal(trace.position[step], looks[step])
    [found] = engine.log_probs(engine.prefill(tokens), [said])
    np.testing.assert_allclose(found, log_probs[range(STEPS), said], atol=2e-4)
    again = engine.prefill(tokens)
    again.guesses = [said]
    [trace], [of_reply] = engine.decode_and_score(again, [said], STEPS)
    assert trace.tokens.tolist() == said[:line]
    np.testing.assert_allclose(of_reply, log_probs[range(STEPS), said], atol=2e-4)


def test_one_answer_does_not_depend_on_what_was_read_before(loaded):
    _, folder, model = loaded
    engine = engine_of(model)
    for n in (SWITCH + 40, SWITCH - 3, SWITCH + 9, 100, SWITCH):
        said, looks, _ = generated(folder, prompts(n), 4)
        [trace] = engine.decode(engine.prefill(prompts(n)), 4)
        k = len(trace.tokens)
        assert trace.tokens.tolist() == said[:k]
        np.testing.assert_array_equal(trace.position, np.stack(looks[:k]))


@pytest.mark.parametrize("phase", ["decode", "both"])
@pytest.mark.parametrize("n", [SWITCH - 3, SWITCH, SWITCH + 1])
def test_without_a_head_a_model_goes_on_as_generate_does_without_it(loaded, n, phase):
    kind, folder, model = loaded
    engine, tokens = engine_of(model), prompts(n)
    head = Head(1, 2)
    plain = plain_model(folder)

    def without(module, args):
        (z,) = args
        z = z.clone()
        n_read = z.shape[1]
        # `decode` leaves the prompt alone, but for its last token, also where it is read again.
        first = 0 if phase == "both" else max(0, n - 1) if n_read > 1 else 0
        z[:, first:, head.head * 8 : (head.head + 1) * 8] = 0
        return (z,)

    plain.model.layers[head.layer].self_attn.o_proj.register_forward_pre_hook(without)
    found = plain.generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=6, do_sample=False, eos_token_id=-1,
        pad_token_id=1, output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    said = found.sequences[0, n:].tolist()
    expected = torch.stack(found.logits)[:, 0].log_softmax(-1)[range(6), said]
    prefix = engine.under(engine.prefill(tokens), [Ablation((head,), phase, "zero")])
    [log_probs] = engine.log_probs(prefix, [said])
    np.testing.assert_allclose(log_probs, expected, atol=2e-4)
    prefix = engine.under(engine.prefill(tokens), [Ablation((head,), phase, "zero")])
    [trace] = engine.decode(prefix, 6, read_heads=False)
    assert trace.tokens.tolist() == said[: len(trace.tokens)]
    assert kind in TYPES


def test_rows_of_a_batch_cross_together(loaded):
    _, folder, model = loaded
    engine, tokens = engine_of(model), prompts(SWITCH - 2, 3)
    for row, trace in zip(tokens, engine.decode(engine.prefill(tokens), STEPS), strict=True):
        said, looks, _ = generated(folder, row[None])
        k = len(trace.tokens)
        assert trace.tokens.tolist() == said[:k]
        np.testing.assert_array_equal(trace.position, np.stack(looks[:k]))


def test_patching_reads_in_one_pass_or_says_why_not(loaded):
    kind, _, model = loaded
    trials = rh.niah(model, [SWITCH - 2], 1, needles=[rh.draw_needles(1)[0]])
    if kind in ("longrope", "dynamic"):
        with pytest.raises(ValueError, match=f"reach beyond {SWITCH} tokens"):
            rh.patch(model, trials)


def test_a_length_is_found_wherever_a_configuration_has_it():
    phi = hf.Phi3Config(rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    assert length_of(phi, "longrope") is None
    nested = hf.Gemma3TextConfig()
    assert length_of(nested, "dynamic") is None
