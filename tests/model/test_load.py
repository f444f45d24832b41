import pytest
import torch
from tokenizers import processors

import rhlens as rh
from rhlens.model.load import LoadError
from rhlens.model.twin import twin_of
from tests.support import make_tokenizer, tiny_checkpoint


def test_a_folder_loads_as_a_plain_transformerlens_model_and_says_what_was_chosen(tmp_path, capsys):
    folder = tiny_checkpoint("qwen2", tmp_path / "mine")
    capsys.readouterr()
    model = rh.load(folder)
    assert type(model).__name__ == "TransformerBridge"
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert all(part in said for part in ("mine", "cpu", "float32", "SDPA twin")) or torch.cuda.is_available()
    _, cache = model.run_with_cache("Everything in TransformerLens still works.")
    assert cache["blocks.1.attn.hook_pattern"].shape[1] == 4


def test_a_transformerlens_model_is_used_as_it_is(tiny_llama):
    assert rh.load(tiny_llama) is tiny_llama
    with pytest.raises(LoadError, match="loaded already"):
        rh.load(tiny_llama, dtype="bfloat16")


def test_the_users_own_bridge_is_run_in_chunks_and_scores_the_same(tmp_path):
    from transformer_lens.model_bridge import TransformerBridge

    folder = str(tiny_checkpoint("mistral", tmp_path))
    ours, own = rh.load(folder, quiet=True), TransformerBridge.boot_transformers(folder, device="cpu")
    assert twin_of(own) is None
    trials = rh.niah(ours, [200], 2, needles=4)
    a, b = rh.detect(ours, trials, max_new_tokens=6), rh.detect(own, trials, max_new_tokens=6)
    assert list(a.trials["output"]) == list(b.trials["output"])
    assert (a.sum_scores == b.sum_scores).all()


def test_special_tokens_are_the_checkpoints_own(tmp_path):
    """TransformerLens makes tokenizers add a BOS; a model that was trained without one must not get it."""
    tok = make_tokenizer("byte-bpe")
    tok.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    model = rh.load(tiny_checkpoint("qwen2", tmp_path, tokenizer=tok), quiet=True)
    [trial] = rh.niah(model, [150], 1, needles=1)
    assert tok.bos_token_id not in trial.tokens
    assert model.to_tokens("abc", prepend_bos=False).shape[1] == len(tok("abc").input_ids)


def with_files(folder, *names):
    for name in names:
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: "nano-qwen3", "no model 'nano-qwen3' \\(did you mean nano-qwen2\\?\\): give an embedded model \\("),
        (lambda p: "nano-llama-untrained", "is not shipped: rhlens zoo train nano-llama-untrained --out DIR"),
        (lambda p: "planted_lama@900", "\\(did you mean planted-llama\\?\\)"),
        (lambda p: "xyz", "no model 'xyz': give an embedded model"),
        (lambda p: str(p / "missing"), "give an embedded model"),
        (lambda p: p, "no config.json"),
        (lambda p: with_files(p, "config.json"), "no weights"),
        (lambda p: with_files(p, "config.json", "pytorch_model.bin"), "only pickled"),
        (lambda p: "no-such-org/no-such-model", "neither on this disk nor"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence_that_names_the_fix(tmp_path, make, message):
    with pytest.raises(LoadError, match=message) as error:
        rh.load(make(tmp_path))
    assert "\n" not in str(error.value)


def test_a_damaged_checkpoint_is_one_sentence(tmp_path):
    folder = tiny_checkpoint("llama", tmp_path)
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(LoadError, match="cannot be loaded"):
        rh.load(folder)


def test_a_model_without_attention_is_refused(tmp_path):
    import transformers as hf

    from rhlens.zoo.tokenizer import zoo_tokenizer

    config = hf.MambaConfig(vocab_size=2048, hidden_size=16, num_hidden_layers=2, state_size=4)
    config.architectures = ["MambaForCausalLM"]
    hf.MambaForCausalLM(config).save_pretrained(tmp_path)
    zoo_tokenizer().save_pretrained(tmp_path)
    with pytest.raises((LoadError, ValueError), match="attention"):
        rh.detect(model := rh.load(tmp_path, quiet=True), rh.niah(model, [100], 1, needles=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu9"}, "unknown device"),
        ({"device": "cuda:77"}, "cannot be used here"),
        ({"dtype": "int3"}, "unknown dtype"),
    ],
)
def test_unknown_devices_and_dtypes_name_the_choice(tmp_path, options, message):
    with pytest.raises(LoadError, match=message):
        rh.load(tiny_checkpoint("llama", tmp_path), **options)


def test_sixteen_bit_models_run(tmp_path):
    model = rh.load(tiny_checkpoint("llama-gqa", tmp_path), dtype="bfloat16", quiet=True)
    assert next(model.parameters()).dtype == torch.bfloat16
    scores = rh.detect(model, rh.niah(model, [150], 1, needles=2), max_new_tokens=3)
    assert scores.n_trials == 2
