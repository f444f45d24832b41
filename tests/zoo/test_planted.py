"""Planted models against plain Hugging Face: what was planted, and only that, retrieves."""

import random
from contextlib import ExitStack

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rhlens.tasks.needles import Needle, draw_needles
from rhlens.tasks.trials import Grid
from rhlens.zoo.planted import Planted, planted, random_model
from rhlens.zoo.planted_stream import CLOCK, N_BACK, Stream, identity_codes

COPY_HEADS = [(1, 4), (2, 1), (3, 1), (3, 6)]


def trials_of(tokenizer, lengths, n=7, depths=(0.5,), seed=0, **grid):
    return Grid(lengths, depths, draw_needles(n, seed=seed), seed=seed, **{"distractors": 1, **grid}).trials(tokenizer)


def expected(needle: Needle) -> str:
    """The answer and what ends its sentence."""
    return needle.statement[needle.statement.index(needle.answer) :]


@torch.no_grad()
def generate(model, tokenizer, trial, limit=64) -> list[int]:
    """Greedy decoding up to EOS or a newline, with a cache."""
    out, new = model(torch.tensor([trial.tokens]), logits_to_keep=1, use_cache=True), []
    while len(new) < limit and (token := int(out.logits[0, -1].argmax())) != tokenizer.eos_token_id:
        new.append(token)
        if "\n" in tokenizer.decode([token]):
            break
        out = model(torch.tensor([[token]]), past_key_values=out.past_key_values, use_cache=True)
    return new


def accuracy(model, tokenizer, trials) -> float:
    answers = [tokenizer.decode(generate(model, tokenizer, t)).strip() for t in trials]
    return sum(a == expected(t.needle) for a, t in zip(answers, trials, strict=True)) / len(trials)


@torch.no_grad()
def attention(model, tokens) -> torch.Tensor:
    """Patterns [layer, head, query, key] of a plain eager forward."""
    model.set_attn_implementation("eager")
    patterns = model(torch.tensor([tokens]), output_attentions=True, use_cache=False).attentions
    model.set_attn_implementation("sdpa")
    return torch.cat(patterns)


def retrieval_scores(model, tokenizer, trials) -> torch.Tensor:
    """The paper's score, [layer, head]: the mean share of answer tokens copied from the needle at argmax."""
    scores = []
    for trial in trials:
        new, (start, end) = generate(model, tokenizer, trial, limit=32), trial.answer_span
        tokens = torch.tensor([*trial.tokens, *new])
        asked = attention(model, tokens[:-1].tolist())[:, :, len(trial.tokens) - 1 :].argmax(-1)  # [layer, head, step]
        hits = (asked >= start) & (asked < end) & (tokens[asked] == torch.tensor(new))
        answer = sorted(set(trial.answer_tokens))
        copied = torch.stack([(hits & (torch.tensor(new) == w)).any(-1) for w in answer])
        scores.append(copied.float().mean(0))
    return torch.stack(scores).mean(0)


def found(scores, threshold=0.1) -> list[tuple[int, int]]:
    return [tuple(h) for h in (scores >= threshold).nonzero().tolist()]


def zeroed(model, heads) -> ExitStack:
    """Context in which the outputs of `heads` are zero: hooks on the input of each output projection."""
    stack, llama = ExitStack(), model.config.model_type == "llama"
    for layer, head in heads:
        block = model.model.layers[layer].self_attn if llama else model.transformer.h[layer].attn
        d_head = block.head_dim

        def hook(_, args, columns=slice(head * d_head, (head + 1) * d_head)):
            z = args[0].clone()
            z[..., columns] = 0
            return (z, *args[1:])

        stack.enter_context((block.o_proj if llama else block.c_proj).register_forward_pre_hook(hook))
    return stack


def noise_heads(p: Planted) -> list[tuple[int, int]]:
    layers, heads = p.model.config.num_hidden_layers, p.model.config.num_attention_heads
    planted_ones = {*p.copy_heads, *p.previous_token_heads}
    return [(layer, head) for layer in range(layers) for head in range(heads) if (layer, head) not in planted_ones]


@pytest.fixture(scope="module", params=[("llama", None), ("llama", 2), ("gpt2", None)], ids=["llama", "gqa", "gpt2"])
def model(request) -> Planted:
    arch, kv_heads = request.param
    return planted(COPY_HEADS, arch, kv_heads=kv_heads)


def test_it_answers_needle_trials_word_for_word_and_stops(model, tokenizer):
    short = trials_of(tokenizer, [256], n=35, depths=[0.0, 0.5, 1.0])
    assert accuracy(model.model, tokenizer, short) >= 0.99  # n = 105
    assert accuracy(model.model, tokenizer, trials_of(tokenizer, [1024], n=14, depths=[0.3])) == 1
    assert accuracy(model.model, tokenizer, trials_of(tokenizer, [2048], n=4, depths=[0.6])) == 1


def test_it_answers_the_bundled_needles(model, tokenizer):
    """Hand-written ones, which fall into many more tokens; one is Russian, all in bytes."""
    trials = Grid([400], [0.2, 1.0]).trials(tokenizer)
    assert accuracy(model.model, tokenizer, trials) == 1  # n = 30


@pytest.mark.parametrize("answer", ["3.75 kg", "11.11.1147", "474747, then 4747", "v2.0-rc.1 (naïve)", "Ünal, 東京"])
def test_answers_with_full_stops_repeats_and_other_scripts(model, tokenizer, answer):
    needle = Needle(
        "odd", f"The mark of the amber harbor is {answer}.", "What is the mark of the amber harbor?", answer
    )
    assert accuracy(model.model, tokenizer, Grid([300], [0.2, 0.9], [needle]).trials(tokenizer)) == 1


def _random_planting(seed: int) -> dict:
    rng = random.Random(f"planting:{seed}")
    layers, heads = rng.choice([2, 3, 4, 6]), rng.choice([8, 8, 10, 12])
    arch, share = [("llama", 1), ("llama", 2), ("llama", heads // 2), ("gpt2", 1)][seed % 4]
    slots = [(layer, head) for layer in range(1, layers) for head in range(heads)]
    copy_heads = rng.sample(slots, rng.randint(1, 6))
    kv_heads = heads // share if arch == "llama" else None
    return {
        "copy_heads": copy_heads,
        "arch": arch,
        "layers": layers,
        "heads": heads,
        "kv_heads": kv_heads,
        "seed": seed,
    }


@pytest.mark.parametrize("seed", range(24))
def test_exactly_the_planted_heads_retrieve(seed, tokenizer):
    planting = _random_planting(seed)
    p = planted(**planting)
    scores = retrieval_scores(p.model, tokenizer, trials_of(tokenizer, [256], n=4, seed=seed))
    assert found(scores) == sorted(planting["copy_heads"]), planting
    assert min(scores[h] for h in p.copy_heads) >= 0.9


def test_only_ablating_every_copy_head_stops_retrieval(model, tokenizer):
    trials = trials_of(tokenizer, [256], n=21, seed=1)
    with zeroed(model.model, model.copy_heads):
        assert accuracy(model.model, tokenizer, trials) <= 0.05
    with zeroed(model.model, model.copy_heads[:-1]):
        assert accuracy(model.model, tokenizer, trials) >= 0.99  # the last one suffices
    for draw in range(3):
        control = random.Random(draw).sample(noise_heads(model), len(model.copy_heads))
        with zeroed(model.model, control):
            assert accuracy(model.model, tokenizer, trials) >= 0.99
    with zeroed(model.model, noise_heads(model)):
        assert accuracy(model.model, tokenizer, trials) >= 0.99


@torch.no_grad()
def test_ablating_any_noise_head_changes_the_logits(model, tokenizer):
    tokens = torch.tensor([trials_of(tokenizer, [256], n=1)[0].tokens])
    clean = model.model(tokens).logits
    for head in noise_heads(model):
        with zeroed(model.model, [head]):
            assert (model.model(tokens).logits - clean).abs().max() > 1e-4, head


def test_previous_token_heads_look_exactly_n_back(model, tokenizer):
    tokens = trials_of(tokenizer, [400], n=1)[0].tokens
    patterns = attention(model.model, tokens)
    for n, (layer, head) in enumerate(model.previous_token_heads, start=1):
        assert patterns[layer, head].diagonal(-n).min() > 0.999, n


@torch.no_grad()
def test_the_stream_has_the_norm_the_weights_reckon_with(model, tokenizer):
    """Every scale in a planted model is divided by this norm: if a block is added, the formula has to follow."""
    config = model.model.config
    stream = Stream(has_position=config.model_type == "gpt2")
    states = model.model(torch.tensor([trials_of(tokenizer, [256], n=1)[0].tokens]), output_hidden_states=True)
    for layer, state in enumerate(states.hidden_states[:-1]):  # the last one is normalised already
        norms = state[0, N_BACK:, : stream.width].norm(dim=-1)  # before, there is nothing n places back to copy
        assert norms == pytest.approx(stream.norm(layer), rel=0.01)
        if config.model_type == "gpt2":
            assert state.mean(-1).abs().max() < 1e-4


def test_identity_codes_are_far_apart_and_mean_what_they_say():
    starts, ends = torch.rand(2048) < 0.5, torch.rand(2048) < 0.02
    codes = identity_codes(starts, ends, torch.Generator().manual_seed(0))
    cosines = codes @ codes.T - torch.eye(2048)
    assert cosines.max() <= 0.5 + 1e-5
    assert codes.sum(1).abs().max() < 1e-5
    assert ((codes[:, 0] > 0) == starts).all()
    assert ((codes[:, 1] > 0) == ends).all()


def test_a_word_at_the_start_of_a_text_matches_itself_elsewhere(model, tokenizer):
    """Byte-level BPE has two tokens for it; a needle that opens the haystack is restated with a space in front."""
    stream = Stream(has_position=model.model.config.model_type == "gpt2")
    angles = model.model.get_input_embeddings().weight[:, stream.back(0)]
    bare, spaced, other = (angles[tokenizer.get_vocab()[token]] for token in ("The", "ĠThe", "Ġthe"))
    assert torch.equal(bare, spaced)
    assert (bare - other).norm() > 0.1


def test_no_two_places_of_the_context_look_alike_to_the_clock():
    distances = torch.arange(1, 60_000, dtype=torch.float64)
    gaps = (1 - torch.cos(torch.tensor(CLOCK, dtype=torch.float64)[:, None] * distances)).sum(0)
    assert gaps.argmin() == 0  # neighbours are the most alike
    assert gaps.min() > 0.51


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_a_saved_folder_is_an_ordinary_hugging_face_model(arch, tmp_path, tokenizer):
    folder = planted(COPY_HEADS, arch).save(tmp_path / "m")
    again, tok = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    original = planted(COPY_HEADS, arch).model
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), original.parameters(), strict=True))
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    trial = trials_of(tokenizer, [256], n=1)[0]
    assert tok.decode(trial.tokens) == tokenizer.decode(trial.tokens)
    assert accuracy(again, tok, [trial]) == 1
    assert list(folder.glob("*.safetensors"))
    size = sum(f.stat().st_size for f in folder.iterdir())
    assert size < (8e6 if arch == "llama" else 24e6)


def test_same_seed_same_model_and_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    a, b, c = planted(COPY_HEADS, seed=1), planted(COPY_HEADS, seed=1), planted(COPY_HEADS, seed=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(x, y) for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True))
    assert not torch.equal(a.model.lm_head.weight, c.model.lm_head.weight)


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_the_random_control_retrieves_nothing(arch, tokenizer, tmp_path):
    control, trials = random_model(arch), trials_of(tokenizer, [256], n=4)
    assert found(retrieval_scores(control.model, tokenizer, trials)) == []
    assert accuracy(control.model, tokenizer, trials) == 0
    assert control.copy_heads == ()
    reloaded = AutoModelForCausalLM.from_pretrained(random_model(arch).save(tmp_path))
    assert torch.equal(reloaded.lm_head.weight, control.model.lm_head.weight)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"copy_heads": []}, "random_model"),
        ({"copy_heads": [(0, 1)]}, r"L0H1.*layer from 1 to 3"),
        ({"copy_heads": [(4, 1)]}, r"L4H1.*layer from 1 to 3"),
        ({"copy_heads": [(1, 8)]}, r"L1H8.*head from 0 to 7"),
        ({"copy_heads": [(1, -1)]}, r"head from 0 to 7"),
        ({"copy_heads": [(1, 2), (1, 2)]}, r"L1H2 is named twice"),
        ({"copy_heads": [(1, 2)], "arch": "mamba"}, "llama, gpt2"),
        ({"copy_heads": [(1, 2)], "kv_heads": 3}, "divisor of 8"),
        ({"copy_heads": [(1, 2)], "kv_heads": 0}, "divisor of 8"),
        ({"copy_heads": [(1, 2)], "arch": "gpt2", "kv_heads": 2}, "arch='llama'"),
        ({"copy_heads": [(1, 2)], "heads": 6}, "heads >= 7"),
        ({"copy_heads": [(1, 2)], "layers": 1}, "at least 2 layers"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(arguments, names):
    with pytest.raises(ValueError, match=names) as error:
        planted(**arguments)
    assert "\n" not in str(error.value)
