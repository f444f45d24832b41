"""A model's folder and its card, damaged: one sentence each."""

import json
import os
import shutil
import struct

import pytest

from rhlens.show.card import summary
from rhlens.zoo.registry import CARD, WEIGHTS, facts_of, models_folder


@pytest.fixture
def folder(tmp_path):
    for name in ("config.json", CARD, WEIGHTS):
        shutil.copy(models_folder() / "nano-llama" / name, tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b""), ("config.json", b"[]"), ("config.json", b"{}"), ("config.json", b"[" * 100_000),
        ("config.json", b'{"model_type": "llama", "num_hidden_layers": "x"}'), ("config.json", b"\xff"),
        ("config.json", b'{"model_type": "llama", "num_hidden_layers": Infinity, "n_head": 1, "n_positions": 1}'),
        (WEIGHTS, b""), (WEIGHTS, struct.pack("<Q", 2**62) + b"{}"), (WEIGHTS, struct.pack("<Q", 3) + b"[1]"),
        (WEIGHTS, struct.pack("<Q", 10**5) + b"[" * 10**5),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_model_is_one_sentence(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"is no trained model .*: give a folder") as caught:
        facts_of(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_a_pipe_is_not_waited_for(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match="no plain file"):
        facts_of(folder)


@pytest.mark.parametrize(
    "change",
    [{"tokens": "x"}, {"minutes": None}, {"skills": 3}, {"skills": [{}]}, {"heads": 3}, {"aims": [3]}, b"[", b"[]",
     b"null", b"", b"\xff", b"[" * 100_000, b'{"tokens": 1, "tokens": 2}'],
)  # fmt: skip
def test_a_damaged_card_is_one_sentence(folder, change):
    card = json.loads((folder / CARD).read_text())
    assert summary(folder)["retrieval heads"] == ", ".join(card["heads"])
    (folder / CARD).write_bytes(change if isinstance(change, bytes) else json.dumps(card | change).encode())
    with pytest.raises(ValueError, match=r"card\.json is damaged .*: measure it again with rhlens zoo card") as caught:
        summary(folder)
    assert "\n" not in str(caught.value)
