"""Tiny checkpoints of real architectures, tokenizers made on the spot, and what several tests compare with."""

import itertools
import re
import time
from html import unescape
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from rhlens.results.scores import HeadScores
from rhlens.tasks.haystack import GeneratedHaystack
from rhlens.tasks.needles import bundled_needles, draw_needles
from rhlens.zoo.families import tiny_checkpoint as tiny_checkpoint

SOON = 5
"""Seconds in which hostile input is refused, on a busy machine."""

# Families that differ in what could go wrong; `tests/model/test_architectures.py` has them all.
ARCHITECTURES = (
    "llama",
    "llama-gqa",
    "gpt2",  # learned positions
    "gptj",  # no pluggable attention: falls back to the bridge
    "neox",  # parallel block, partial rotary
    "mistral",  # sliding window
    "qwen2",  # biases on q, k and v
    "qwen3",  # normed q and k
    "mixtral",  # mixture of experts
    "gemma2",  # soft-capped logits: no SDPA
    "gemma3",
    "phi3",  # fused qkv
)


def plain_model(folder: Path):
    """The same checkpoint as plain Hugging Face runs it, eagerly."""
    return hf.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


@torch.inference_mode()
def plain_rows(model, tokens, n_prompt: int):
    """Logits and attention rows of the positions that produce what follows a prompt of `n_prompt` tokens.

    Returns:
        logits [batch, step, vocab], rows [step][layer] of [batch, head, key].
    """
    result = model(tokens, output_attentions=True, use_cache=False)
    steps = range(n_prompt - 1, tokens.shape[1])
    return result.logits[:, n_prompt - 1 :], [[a[:, :, s] for a in result.attentions] for s in steps]


def assert_as_plain(trace, logits, rows) -> None:
    """Each token of one answer is the likeliest, and each head looks where, and as hard, as `plain_rows` say of it."""
    for step, token in enumerate(trace.tokens):
        assert int(logits[0, step].argmax()) == token
        expected = torch.stack([row[0] for row in rows[step]])  # [layer, head, key]
        np.testing.assert_array_equal(trace.position[step], expected.argmax(-1).numpy())
        np.testing.assert_allclose(trace.weight[step], expected.amax(-1).numpy(), atol=1e-4)


def refusal(read, path: Path, kind=ValueError, soon: float = SOON, longest: int = 400) -> str:
    """The sentence with which a file is refused: soon, on one line, with its name, as short as a person reads."""
    began = time.monotonic()
    with pytest.raises(kind, match=path.name) as caught:
        read(path)
    assert time.monotonic() - began < soon
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) - len(str(path)) < longest
    return sentence


class Shown(NamedTuple):
    """What a notebook shows of a result: its line, what its map is of, the map's cells, and the table, all as texts."""

    line: str
    label: str
    cells: dict[str, str]
    headings: list[str]
    rows: list[list[str]]


def shown(result) -> Shown:
    """Read what `result` shows, once it is found to be well-formed."""
    html = result._repr_html_()
    drawn, table = (re.search(f"<{tag}.*</{tag}>", html) for tag in ("svg", "table"))
    svg = ElementTree.fromstring(drawn[0] if drawn else "<svg aria-label='map of '/>")
    cells = dict(rect.findtext("title", "").rsplit(": ", 1) for rect in svg.iter("rect"))
    head, *rows = ElementTree.fromstring(table[0] if table else "<table/>").iter("tr")
    return Shown(
        unescape(html.split("<p>")[1].split("</p>")[0]),
        svg.attrib["aria-label"].removeprefix("map of "),
        cells,
        [button.text or "" for button in head.iter("button")],
        [[cell.text or "" for cell in row] for row in rows],
    )


def corpus() -> list[str]:
    needles = [*bundled_needles(), *draw_needles(70)]
    return [GeneratedHaystack("test").text(40_000), *(f"{n.statement} {n.question} Question: Answer:" for n in needles)]


def make_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A fast tokenizer of one of the families in the wild: byte-level BPE, SentencePiece-style, or whole words."""
    if kind == "byte-bpe":
        tok = Tokenizer(models.BPE())
        tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tok.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=700, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
    elif kind == "sentencepiece":
        tok = Tokenizer(models.Unigram())
        # SentencePiece never merges letters with punctuation: it splits by script first.
        tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
        tok.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=900, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>")
    else:
        tok = Tokenizer(models.WordLevel(unk_token="<unk>"))
        tok.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(vocab_size=20_000, special_tokens=["<s>", "</s>", "<unk>"])
    tok.train_from_iterator(corpus(), trainer)
    template = "<s> $A" if kind != "sentencepiece" else "<s> $A </s>"  # one of them closes with EOS, as some do
    tok.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(t, tok.token_to_id(t)) for t in ("<s>", "</s>")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tok, bos_token="<s>", eos_token="</s>")


def firing(by: str, seed: int = 0) -> HeadScores:
    """Scores of four heads: L0H0 always fires, L0H1 in half of the trials `by` something, the others never.

    28 needles of 7 kinds at 4 depths and 3 lengths, five tokens an answer. By `position`, L0H1 copies first tokens
    more often than others.
    """
    rng, rows, fires = np.random.default_rng(seed), [], []
    own = rng.permutation(np.repeat([0.1, 0.9], 14))
    cells = itertools.product(range(28), (0.0, 0.3, 0.6, 1.0), (256, 384, 512))
    for trial, (needle, depth, length) in enumerate(cells):
        chance = {"needle": own[needle], "kind": 0.9 if needle % 7 < 3 else 0.1, "depth": 0.9 if depth < 0.5 else 0.1,
                  "length": {256: 0.9, 384: 0.5, 512: 0.1}[length]}.get(by, 0.5)  # fmt: skip
        rows.append({"trial": trial, "needle": f"needle {needle}", "kind": f"kind {needle % 7}", "depth": depth,
                     "length": length, "exact": True, "recall": 1.0, "answer_tokens": 5})  # fmt: skip
        fires.append(rng.random() < chance)
    values = np.zeros((len(rows), 2, 2))
    values[:, 0, 0], values[:, 0, 1] = 1.0, np.array(fires) * 0.6
    copies = [(trial, token, 0, 0, token) for trial in range(len(rows)) for token in range(5)]
    for trial, fired in enumerate(fires):
        if by == "position":
            tokens = [t for t in range(5) if fired and rng.random() < (0.9 if t == 0 else 0.2)]
        else:
            tokens = list(rng.permutation(5)[:3]) if fired else []
        copies += [(trial, t, 0, 1, t) for t in tokens]
    return HeadScores(values, values, pd.DataFrame(rows), f"fires by {by}", copies=np.array(copies, dtype=np.int32))
