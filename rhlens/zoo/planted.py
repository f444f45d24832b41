"""Models with known retrieval heads: real `transformers` models whose weights are written down, not trained.

Retrieval is induction, done by two kinds of head:

1. *Previous-token heads* in layer 0. The nth copies the code of the token n places back into a block of its own, so
   that every position knows the last seven tokens.
2. *Copy heads* in the layers above: exactly those that `planted` is asked for. At position i they look for the
   position j before which stand the tokens that end at i; the longer the common past the higher the score, so the
   longest match wins. They attend to j and write its token where the unembedding reads it.

Everything else, heads and MLPs, is noise: small but not zero, so that ablating it is an intervention like any other.
Copy heads do the same thing and add up. Any one suffices: retrieval fails when the *last* of them is ablated.

What a planted model cannot do: answer from the question alone (the prompt has to end in the cue, the needle's own words
before its answer); tell apart two places with the same last seven tokens, except that it prefers the one further away;
stop at a full stop that the tokenizer splits into bytes ("。") or that no white space follows. With the zoo's needles
and a distractor of the same kind about one trial in a thousand goes wrong, by a chance likeness of two words' codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from rhlens.results.heads import Head
from rhlens.zoo.planted_archs import Arch, Shape, install
from rhlens.zoo.planted_heads import HeadBuilder
from rhlens.zoo.planted_stream import N_BACK, angle_codes, embedding, identity_codes, unembedding
from rhlens.zoo.tokenizer import EOS, zoo_tokenizer

SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？")


@dataclass(frozen=True)
class Planted:
    """A model in memory, its tokenizer, and the ground truth about its heads.

    `previous_token_heads[n - 1]` looks n places back. All heads named in neither tuple are noise.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    copy_heads: tuple[Head, ...]
    previous_token_heads: tuple[Head, ...]

    def save(self, folder: str | Path) -> Path:
        """Write an ordinary Hugging Face folder (safetensors and tokenizer); returns its path."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return Path(folder)


def planted(
    copy_heads: Sequence[tuple[int, int]],
    arch: Arch = "llama",
    layers: int = 4,
    heads: int = 8,
    kv_heads: int | None = None,
    seed: int = 0,
) -> Planted:
    """A model whose retrieval heads are exactly `copy_heads`, each a (layer, head) with layer >= 1.

    `seed` draws the tokens' codes, the noise, and which heads of layer 0 look back. `kv_heads` below `heads` makes a
    Llama with grouped-query attention. Weights are fp32; contexts may have 8192 tokens (GPT-2: 4096).

    Raises:
        ValueError: a copy head is impossible or named twice, there is none, or the shape cannot be built.
    """
    shape = _checked_shape(arch, layers, heads, kv_heads)
    chosen = _checked_heads(copy_heads, shape)
    tokenizer, rng = zoo_tokenizer(), torch.Generator().manual_seed(seed)
    space = shape.head_space()
    stream, width = space.stream, space.width
    codes = identity_codes(*_token_classes(tokenizer), rng)
    embed = embedding(stream, codes, angle_codes(_words(tokenizer), rng), width)
    previous = torch.randperm(heads, generator=rng)[:N_BACK].tolist()
    builder = HeadBuilder(space, heads, shape.kv_heads, rng)
    blocks = [
        builder.layer(i, previous if i == 0 else [], [h for layer, h in chosen if layer == i], len(chosen))
        for i in range(layers)
    ]
    model = shape.build(tokenizer.get_vocab(), seed)
    install(model, stream, embed, blocks, unembedding(stream, codes, tokenizer.get_vocab()[EOS], layers - 1, width))
    return Planted(model, tokenizer, tuple(chosen), tuple(Head(0, head) for head in previous))


def random_model(
    arch: Arch = "llama", layers: int = 4, heads: int = 8, kv_heads: int | None = None, seed: int = 0
) -> Planted:
    """The untrained control: the same architecture with transformers' own random weights, and no retrieval head.

    Raises:
        ValueError: the shape cannot be built.
    """
    shape, tokenizer = _checked_shape(arch, layers, heads, kv_heads), zoo_tokenizer()
    model = shape.build(tokenizer.get_vocab(), seed)
    return Planted(model, tokenizer, (), ())


def _checked_shape(arch: Arch, layers: int, heads: int, kv_heads: int | None) -> Shape:
    if arch not in get_args(Arch):
        raise ValueError(f"unknown arch {arch!r}: choose from {', '.join(get_args(Arch))}")
    if layers < 2:
        raise ValueError(f"a planted model needs at least 2 layers, not {layers}: copy heads read what layer 0 wrote")
    if heads < N_BACK:
        raise ValueError(f"layer 0 needs room for {N_BACK} previous-token heads: use heads >= {N_BACK}, not {heads}")
    if kv_heads is None:
        return Shape(arch, layers, heads, heads)
    if arch == "gpt2" and kv_heads != heads:
        raise ValueError(f"gpt2 has no grouped-query attention: leave kv_heads={kv_heads} out, or use arch='llama'")
    if kv_heads < 1 or heads % kv_heads:
        raise ValueError(f"{heads} heads cannot share {kv_heads} key/value heads evenly: use a divisor of {heads}")
    return Shape(arch, layers, heads, kv_heads)


def _checked_heads(copy_heads: Sequence[tuple[int, int]], shape: Shape) -> list[Head]:
    chosen = sorted(Head(*head) for head in copy_heads)
    if not chosen:
        raise ValueError("no copy heads to plant: name at least one (layer, head), or use random_model for a control")
    for head in chosen:
        if not (1 <= head.layer < shape.layers and 0 <= head.head < shape.heads):
            raise ValueError(
                f"copy head {head} cannot be planted: use a layer from 1 to {shape.layers - 1} "
                f"(layer 0 holds the previous-token heads) and a head from 0 to {shape.heads - 1}"
            )
        if chosen.count(head) > 1:
            raise ValueError(f"copy head {head} is named twice: name each head once")
    return chosen


def _token_classes(tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """Which tokens start a word (with white space, or being special) and which end a sentence: both [vocab], bool."""
    special = set(tokenizer.all_special_ids)
    texts = [" " if i in special else str(tokenizer.decode([i])) for i in range(len(tokenizer))]
    starts_word = [text[:1].isspace() for text in texts]
    ends_sentence = [text.rstrip("\"'”’)]").endswith(SENTENCE_ENDS) for text in texts]
    return torch.tensor(starts_word), torch.tensor(ends_sentence)


def _words(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """For each token the first token that is the same but for a space in front: [vocab] int."""
    first: dict[str, int] = {}
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return torch.tensor([first.setdefault(token.removeprefix("Ġ") or token, i) for i, token in enumerate(tokens)])
