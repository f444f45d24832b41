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
from rhlens.zoo.planted_stream import CLOCK, Stream, balance

Arch = Literal["llama", "gpt2"]
PlantedModel = LlamaForCausalLM | GPT2LMHeadModel

MAX_BACK = 6  # previous-token heads: as many as layer 0 has room for, up to here
MLP_WIDTH = 32

LLAMA_D_HEAD, LLAMA_POSITIONS = 64, 8192
LLAMA_THETA = 1e16  # pair p = 0 ... 31 turns by 10^(-p / 2) radians a token: the first seven pairs are the clock,
LLAMA_MATCH_PAIRS = tuple(range(9, 32))  # and these turn by less than .13 radians in 4096 tokens

GPT2_D_HEAD, GPT2_POSITIONS = 32, 4096  # d_head or more: a value holds a whole identity code
GPT2_SPARE = 8  # dimensions, or more, that keep the mean at zero


@dataclass(frozen=True)
class Shape:
    """The size of a model. `kv_heads` is ignored by GPT-2, which has none of its own."""

    arch: Arch
    layers: int
    heads: int
    kv_heads: int

    def head_space(self) -> HeadSpace:
        """The narrowest stream, and dimensions of a head, that this architecture can be planted in."""
        n_back = min(MAX_BACK, self.heads)
        if self.arch == "llama":
            stream = Stream(n_back, phases=4)
            width = self.heads * math.ceil(stream.width / self.heads)
            return HeadSpace(stream, width, LLAMA_D_HEAD, tuple(range(len(CLOCK))), LLAMA_MATCH_PAIRS)
        stream = Stream(n_back, phases=3, clock=len(CLOCK))
        d_head = max(GPT2_D_HEAD, 2 * math.ceil((stream.width + GPT2_SPARE) / self.heads / 2))
        match = tuple(pair for pair in range(d_head // 2) if pair not in NEARNESS_HANDS)
        return HeadSpace(stream, self.heads * d_head, d_head, tuple(range(len(CLOCK))), match)

    def build(self, vocab: int, bos: int | None, eos: int | None, seed: int) -> PlantedModel:
        """A model of this shape with transformers' own random weights; the global random state is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.arch == "llama":
                return LlamaForCausalLM(self._llama(vocab, bos, eos)).eval()
            return GPT2LMHeadModel(self._gpt2(vocab, bos, eos)).eval()

    def _llama(self, vocab: int, bos: int | None, eos: int | None) -> LlamaConfig:
        space = self.head_space()
        return LlamaConfig(
            vocab_size=vocab,
            hidden_size=space.width,
            intermediate_size=MLP_WIDTH,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=space.d_head,
            max_position_embeddings=LLAMA_POSITIONS,
            rope_parameters={"rope_type": "default", "rope_theta": LLAMA_THETA},
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=eos,
            tie_word_embeddings=False,
        )

    def _gpt2(self, vocab: int, bos: int | None, eos: int | None) -> GPT2Config:
        return GPT2Config(
            vocab_size=vocab,
            n_positions=GPT2_POSITIONS,
            n_embd=self.head_space().width,
            n_layer=self.layers,
            n_head=self.heads,
            n_inner=MLP_WIDTH,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=eos,
            tie_word_embeddings=False,
        )


@torch.no_grad()
def install(
    model: PlantedModel, space: HeadSpace, embed: Tensor, positions: Tensor | None, layers: Sequence[LayerHeads], unembed: Tensor
) -> None:
    """Overwrite `model`'s weights with planted ones. MLPs keep their random weights, but whisper.

    embed, unembed: [vocab, width]; positions: [positions, width], for GPT-2.
    """
    model.lm_head.weight.copy_(unembed)
    if isinstance(model, LlamaForCausalLM):
        model.model.embed_tokens.weight.copy_(embed)
        for block, heads in zip(model.model.layers, layers, strict=True):
            _install_llama(block, heads)
        return
    assert positions is not None
    model.transformer.wte.weight.copy_(balance(embed, space.stream))
    model.transformer.wpe.weight.copy_(balance(positions, space.stream))
    for block, heads in zip(model.transformer.h, layers, strict=True):
        _install_gpt2(block, heads, space.stream)


def _install_llama(block: torch.nn.Module, heads: LayerHeads) -> None:
    attention = block.self_attn
    attention.q_proj.weight.copy_(heads.query.flatten(0, 1))
    attention.k_proj.weight.copy_(heads.key.flatten(0, 1))
    attention.v_proj.weight.copy_(heads.value.flatten(0, 1))
    attention.o_proj.weight.copy_(heads.output.flatten(0, 1).T)
    _hush(block.mlp.down_proj.weight)


def _install_gpt2(block: torch.nn.Module, heads: LayerHeads, stream: Stream) -> None:
    """As for Llama, but transposed (GPT-2's layers multiply from the right) and with every write balanced."""
    readers = torch.cat([heads.query.flatten(0, 1), heads.key.flatten(0, 1), heads.value.flatten(0, 1)])
    block.attn.c_attn.weight.copy_(readers.T)
    block.attn.c_proj.weight.copy_(balance(heads.output.flatten(0, 1), stream))
    _hush(block.mlp.c_proj.weight)
    block.mlp.c_proj.weight.copy_(balance(block.mlp.c_proj.weight, stream))


def _hush(write: Tensor) -> None:
    """Scale an MLP's last matrix so that the MLP writes about what a noise head does."""
    write.mul_(NOISE_NORM / write.norm() * math.sqrt(MLP_WIDTH))
