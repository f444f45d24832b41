"""Planted weights as `transformers` models: what Llama and GPT-2 need to hold them, and where each matrix goes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from rhlens.zoo.planted_heads import NEARNESS_HANDS, NOISE_NORM, HeadSpace, LayerHeads
from rhlens.zoo.planted_stream import MATCHED, Stream, balance, position_embedding
from rhlens.zoo.tokenizer import BOS, EOS

Arch = Literal["llama", "gpt2"]
PlantedModel = LlamaForCausalLM | GPT2LMHeadModel

MLP_WIDTH = 32

LLAMA_D_HEAD, LLAMA_POSITIONS = 64, 8192
LLAMA_THETA = 1e16  # pair p = 0 ... 31 turns by 10^(-p / 2) radians a token: the first seven pairs are the clock,
LLAMA_MATCH_PAIRS = tuple(range(32 - sum(MATCHED), 32))  # and these turn by less than .03 radians in 8192 tokens

GPT2_POSITIONS = 4096
GPT2_MATCH_PAIRS = tuple(p for p in range(sum(MATCHED) + len(NEARNESS_HANDS)) if p not in NEARNESS_HANDS)
GPT2_D_HEAD = 2 * (len(GPT2_MATCH_PAIRS) + len(NEARNESS_HANDS))  # 48; seven heads of it are wide enough for the stream


@dataclass(frozen=True)
class Shape:
    """The size of a model. GPT-2 has as many `kv_heads` as heads."""

    arch: Arch
    layers: int
    heads: int
    kv_heads: int

    def head_space(self) -> HeadSpace:
        """The stream, and the dimensions of a head, of a planted model of this shape."""
        if self.arch == "llama":
            stream = Stream(has_position=False)
            width = self.heads * math.ceil(stream.width / self.heads)
            return HeadSpace(stream, width, LLAMA_D_HEAD, LLAMA_MATCH_PAIRS)
        return HeadSpace(Stream(has_position=True), self.heads * GPT2_D_HEAD, GPT2_D_HEAD, GPT2_MATCH_PAIRS)

    def build(self, vocab: dict[str, int], seed: int) -> PlantedModel:
        """A model of this shape with transformers' own random weights; the global random state is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.arch == "llama":
                return LlamaForCausalLM(self._llama(vocab)).eval()
            return GPT2LMHeadModel(self._gpt2(vocab)).eval()

    def _llama(self, vocab: dict[str, int]) -> LlamaConfig:
        space = self.head_space()
        return LlamaConfig(
            vocab_size=len(vocab),
            hidden_size=space.width,
            intermediate_size=MLP_WIDTH,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=space.d_head,
            max_position_embeddings=LLAMA_POSITIONS,
            rope_parameters={"rope_type": "default", "rope_theta": LLAMA_THETA},
            bos_token_id=vocab[BOS],
            eos_token_id=vocab[EOS],
            pad_token_id=vocab[EOS],
            tie_word_embeddings=False,
        )

    def _gpt2(self, vocab: dict[str, int]) -> GPT2Config:
        return GPT2Config(
            vocab_size=len(vocab),
            n_positions=GPT2_POSITIONS,
            n_embd=self.head_space().width,
            n_layer=self.layers,
            n_head=self.heads,
            n_inner=MLP_WIDTH,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=vocab[BOS],
            eos_token_id=vocab[EOS],
            pad_token_id=vocab[EOS],
            tie_word_embeddings=False,
        )


@torch.no_grad()
def install(model: PlantedModel, stream: Stream, embed: Tensor, layers: Sequence[LayerHeads], unembed: Tensor) -> None:
    """Overwrite `model`'s weights with planted ones (embed, unembed: [vocab, width]). MLPs stay random, but whisper."""
    weights = dict(model.named_parameters())
    if isinstance(model, LlamaForCausalLM):
        named = _llama_weights(embed, layers)
    else:
        named = _gpt2_weights(stream, embed, layers)
    for name, weight in {**named, "lm_head.weight": unembed}.items():
        weights[name].copy_(weight)
    for name, weight in weights.items():
        if name.endswith(("mlp.down_proj.weight", "mlp.c_proj.weight")):  # write about as much as a noise head does
            weight.mul_(NOISE_NORM * math.sqrt(MLP_WIDTH) / weight.norm())


def _llama_weights(embed: Tensor, layers: Sequence[LayerHeads]) -> dict[str, Tensor]:
    named = {"model.embed_tokens.weight": embed}
    for i, heads in enumerate(layers):
        block = f"model.layers.{i}.self_attn"
        named[f"{block}.q_proj.weight"] = heads.query.flatten(0, 1)
        named[f"{block}.k_proj.weight"] = heads.key.flatten(0, 1)
        named[f"{block}.v_proj.weight"] = heads.value.flatten(0, 1)
        named[f"{block}.o_proj.weight"] = heads.output.flatten(0, 1).T
    return named


def _gpt2_weights(stream: Stream, embed: Tensor, layers: Sequence[LayerHeads]) -> dict[str, Tensor]:
    """As for Llama, but transposed (GPT-2's layers multiply from the right) and with every planted write balanced."""
    positions = position_embedding(stream, GPT2_POSITIONS, embed.shape[1])
    named = {"transformer.wte.weight": balance(embed, stream), "transformer.wpe.weight": balance(positions, stream)}
    for i, heads in enumerate(layers):
        block = f"transformer.h.{i}.attn"
        readers = torch.cat([heads.query.flatten(0, 1), heads.key.flatten(0, 1), heads.value.flatten(0, 1)])
        named[f"{block}.c_attn.weight"] = readers.T
        named[f"{block}.c_proj.weight"] = balance(heads.output.flatten(0, 1), stream)
    return named
