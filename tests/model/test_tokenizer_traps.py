"""Tokenizers that are not what their files say, each as it was found on a real one."""

import json

import pytest
from transformers import AutoTokenizer

import rhlens as rh
from rhlens.tasks.needles import Needle
from rhlens.zoo.tokenizer import zoo_tokenizer
from tests.real_tokenizers import real_tokenizer
from tests.support import tiny_checkpoint


def change(folder, **fields):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_promised_bos_that_is_not_added_is_said(tmp_path, capsys):
    tokenizer = zoo_tokenizer()
    kept = tiny_checkpoint("llama", tmp_path / "kept", tokenizer=tokenizer)
    change(kept, add_bos_token=True)
    rh.load(kept)
    assert "add_bos_token" not in capsys.readouterr().err, "it adds one"
    tokenizer.backend_tokenizer.post_processor = None
    folder = tiny_checkpoint("llama", tmp_path / "none", tokenizer=tokenizer)
    rh.load(folder)
    assert "add_bos_token" not in capsys.readouterr().err, "nothing was promised"
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"add_bos_token": True}))
    if AutoTokenizer.from_pretrained(folder)("").input_ids:
        pytest.skip("this transformers keeps the promise itself")
    rh.load(folder)
    assert "says add_bos_token, but its tokenizer adds none" in capsys.readouterr().err


def test_mistrals_own_file_is_not_in_the_way_of_a_tokenizer(tmp_path):
    pytest.importorskip("mistral_common")
    folder = tiny_checkpoint("mistral", tmp_path, tokenizer=zoo_tokenizer())
    (folder / "tekken.json").write_text("{}")
    model = rh.load(folder, quiet=True)
    assert model.tokenizer.is_fast
    assert rh.niah(model, [150], 1, needles=1)[0].length == 150


def test_a_folder_with_mistrals_own_file_alone_is_read_or_refused_in_a_sentence(tmp_path):
    folder = tiny_checkpoint("mistral", tmp_path, tokenizer=zoo_tokenizer())
    (folder / "tokenizer.json").unlink()
    (folder / "tekken.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tekken\.json cannot be read .*: add a tokenizer\.json"):
        rh.load(folder, quiet=True)
    tokenizer = real_tokenizer("tekken")  # which the same function made of the real file
    assert tokenizer("a").input_ids[0] == tokenizer.bos_token_id
    assert rh.niah(tokenizer, [300], 2, needles=2, chat=True)[0].text.startswith("<s>[INST]")


@pytest.mark.parametrize(
    ("answer", "haystack"),
    [
        ("青鸟", "他说密码是青鸟。大家都听见了。"),
        ("桜の花", "合言葉は桜の花だと彼は言った。"),
        ("นกแก้ว", "เขาบอกว่ารหัสคือนกแก้วเสมอ "),
    ],
)
def test_an_answer_that_stands_in_a_haystack_without_spaces_is_noticed(answer, haystack, tmp_path):
    (tmp_path / "book.txt").write_text(haystack * 80, encoding="utf-8")
    needle = Needle("mine", f"{answer}在这里。", "什么？", answer)
    with pytest.raises(ValueError, match="stands in the haystack even without"):
        rh.niah(zoo_tokenizer(), [900], 1, needles=[needle], haystack=tmp_path)
    other = Needle("mine", "金鱼在这里。", "什么？", "金鱼")
    assert rh.niah(zoo_tokenizer(), [900], 1, needles=[other], haystack=tmp_path)


def test_an_answer_that_shares_tokens_is_placed_with_whole_tokens_and_said(capsys):
    tokenizer = real_tokenizer("llama3_1")
    needle = Needle("mine", "รหัสผ่านของหอสมุดคือนกแก้วสีทอง", "รหัสผ่านของหอสมุดคืออะไร", "นกแก้วสีทอง")
    [trial] = rh.niah(tokenizer, [300], [0.5], needles=[needle])
    assert any(trial.surplus)
    assert "share a token with the text beside them" in capsys.readouterr().err
    assert needle.answer in tokenizer.decode(trial.answer_tokens)


@pytest.mark.parametrize("name", ["llama3_1", "qwen3", "gemma3"])
def test_part_of_a_word_is_refused_with_advice_that_fits_the_script(name):
    needle = Needle("mine", "The word is birdhouses today.", "Which word?", "bird")
    try:
        [trial] = rh.niah(real_tokenizer(name), [300], [0.5], needles=[needle])
    except ValueError as error:
        assert "end the answer at a word boundary" in str(error)  # noqa: PT017 (or it is a token of its own)
    else:
        assert not any(trial.surplus)


def test_trials_of_another_tokenizer_are_refused(planted_llama):
    model = planted_llama[0]
    trials = rh.niah(real_tokenizer("llama2"), [200], 1, needles=2)
    for verb in (rh.detect, lambda m, t: rh.ablate(m, t, [(0, 0)]), lambda m, t: rh.causal_map(m, t), rh.patch):
        with pytest.raises(ValueError, match="written with another tokenizer than this model's"):
            verb(model, trials)
