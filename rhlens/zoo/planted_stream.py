"""What a planted model's residual stream holds: its blocks, the codes that tokens have in them, and how both ends read.

The stream is a row of blocks, none of which is written by two kinds of writer, so no head disturbs another:

    identity   which token stands here (what a copy head copies)          written by the embedding
    output     the identity of the token to say next                      written by copy heads, read by the unembedding
    back(0)    a second, shorter code of the token (what heads match on)  written by the embedding
    back(n)    the beginning of the same of the token n places back       written by a previous-token head
    constant   always 1 (lets a query depend on position alone)           written by the embedding
    position   the sinusoids of the position (GPT-2 only)                 written by the position embedding
    spare      whatever keeps the mean at zero (GPT-2 only)               written by everybody

A block that an embedding or a previous-token head writes has the same length for *every* token. So the stream's norm,
and with it what a normalisation layer does, is known beforehand and the same everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

CODE_BITS = 32
STARTS_WORD, ENDS_SENTENCE = 0, 1  # the two bits of an identity code that mean something

MATCHED = (5, 4, 3, 3, 2, 2, 2)
"""How many angles of the token 0, 1, ... 6 places back a copy head compares. Recent ones get more: a chance likeness of
"is" and "?" costs a whole class of questions. With three angles there, one seed in four got 2.5 % of trials wrong."""
N_BACK, ANGLES = len(MATCHED), max(MATCHED)

CLOCK = tuple(10 ** (-i / 2) for i in range(7))  # radians a token: 1, .32, .1 ... .001
"""Frequencies that tell positions apart: sum(1 - cos(f * d)) >= .51 at every distance d = 1 ... 60000."""

COPIED_NORM = 0.15  # length of the output block when every copy head copies the same token: small beside the rest,
# since it adds to the norm, .15^2 / 7.2 / 2 = .15 %, and so takes up to 1.3 nats off a match in a later layer
COPIED_LOGIT = 30.0  # logit of a token that every copy head copies
STOP_LOGIT = 45.0  # weight of the sentence end in the logit of EOS


@dataclass(frozen=True)
class Stream:
    """Where the blocks lie in a residual stream."""

    has_position: bool  # False where the architecture itself rotates queries and keys

    @property
    def identity(self) -> slice:
        return slice(0, CODE_BITS)

    @property
    def output(self) -> slice:
        return slice(CODE_BITS, 2 * CODE_BITS)

    def back(self, n: int) -> slice:
        """The token `n` = 0 ... 7 places back: as many of its angles, 2 numbers each, as are matched."""
        sizes = [2 * ANGLES, *(2 * angles for angles in MATCHED)]
        start = self.output.stop + sum(sizes[:n])
        return slice(start, start + sizes[n])

    @property
    def constant(self) -> int:
        return self.back(N_BACK).stop

    @property
    def position(self) -> slice:
        start = self.constant + 1
        return slice(start, start + 2 * len(CLOCK) * self.has_position)

    @property
    def width(self) -> int:
        """Dimensions in use; what a wider stream has left over is spare."""
        return self.position.stop

    def norm(self, layer: int) -> float:
        """Expected length of the stream where `layer` reads it."""
        embedded = 3 + self.has_position  # identity, back(0), constant and position have length 1 each
        return math.sqrt(embedded + (sum(MATCHED) / ANGLES if layer else 0))

    def gain(self, layer: int, width: int) -> float:
        """Factor by which the normalisation in front of `layer` scales a stream of `width` dimensions.

        RMSNorm divides by norm / sqrt(width). So does LayerNorm where the mean is zero, which `balance` sees to.
        """
        return math.sqrt(width) / self.norm(layer)


def identity_codes(starts_word: Tensor, ends_sentence: Tensor, rng: torch.Generator) -> Tensor:
    """One code of 32 signs / sqrt(32) per token, [vocab, 32]: length 1, mean 0, and cosine <= .5 between any two.

    They are words of the Reed-Muller code RM(2, 5): the values of the quadratic forms over five bits, any two of which
    differ in at least 8 of 32 places. Random codes of this length would come as close as .8. Two places mean something:
    `STARTS_WORD` and `ENDS_SENTENCE` are positive for the tokens for which the arguments ([vocab], bool) say so.

    Raises:
        ValueError: the vocabulary is too large for distinct codes.
    """
    points = (torch.arange(CODE_BITS)[:, None] >> torch.arange(5)) & 1  # [32, 5]
    i, j = torch.triu_indices(5, 5)
    forms = torch.cat([torch.ones(CODE_BITS, 1), points[:, i] * points[:, j]], dim=1)  # [32, 16]; x * x = x: linear too
    messages = (torch.randperm(2**16, generator=rng)[:, None] >> torch.arange(16)) & 1
    words = 1 - 2 * ((messages.float() @ forms.T) % 2)
    words = words[words.sum(1) == 0]  # as many + as -: LayerNorm takes no mean away
    kinds = 2 * (words[:, STARTS_WORD] > 0) + (words[:, ENDS_SENTENCE] > 0)
    codes = torch.empty(len(starts_word), CODE_BITS)
    for kind in range(4):
        members = (2 * starts_word + 1 * ends_sentence == kind).nonzero().flatten()
        pool = words[kinds == kind]
        if len(members) > len(pool):
            raise ValueError(
                f"a planted model has {len(pool)} codes for {len(members)} tokens: use a smaller vocabulary"
            )
        codes[members] = pool[: len(members)]
    return codes / math.sqrt(CODE_BITS)


def angle_codes(words: Tensor, rng: torch.Generator) -> Tensor:
    """Random angles per token as (cos, sin) pairs, [vocab, 2 * ANGLES]: of length 1, and each pair of the same length.

    The score of a match is then a sum of cosines of differences of angles: at its maximum for the same tokens *only*,
    which random projections of codes, being of unequal length, would not promise. `words` ([vocab], each the id of a
    token) says whose angles a token has: "On" at the start of a text has those of " On" elsewhere, and matches it.
    """
    angles = 2 * math.pi * torch.rand(len(words), ANGLES, generator=rng)[words]
    return torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(1) / math.sqrt(ANGLES)


def embedding(stream: Stream, codes: Tensor, angles: Tensor, width: int) -> Tensor:
    """Token embedding [vocab, width] from identity codes [vocab, 32] and angle codes [vocab, 2 * ANGLES]."""
    table = torch.zeros(len(codes), width)
    table[:, stream.identity] = codes
    table[:, stream.back(0)] = angles
    table[:, stream.constant] = 1
    return table


def position_embedding(stream: Stream, positions: int, width: int) -> Tensor:
    """Position embedding [positions, width]: (cos, sin) of each clock frequency, together of length 1."""
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * torch.tensor(CLOCK, dtype=torch.float64)
    table = torch.zeros(positions, width)
    table[:, stream.position] = torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(1).float()
    return table / math.sqrt(len(CLOCK))


def unembedding(stream: Stream, codes: Tensor, eos: int, last_layer: int, width: int) -> Tensor:
    """Unembedding [vocab, width]: a token's logit is 30 times the cosine of the output with its code; EOS ends it.

    With s the share of copy heads at work, the token they copy has logit 30 s, any other at most 15 s. EOS has
    45 (e - 1) + 60 s w, where e = ±1 says whether the current token ends a sentence and w = ±1 whether the copied one
    starts a word. That is 60 s after "47193." before " The"; -60 s between "3." and "5"; at most 60 s - 90 elsewhere.
    So EOS wins in the first case and in no other, a full stop *inside* an answer is copied, and s does not matter.
    """
    gain = stream.gain(last_layer + 1, width)
    table = torch.zeros(len(codes), width)
    table[:, stream.output] = codes * COPIED_LOGIT / COPIED_NORM / gain
    unit = math.sqrt(CODE_BITS) / gain  # makes one bit of a code ±1
    table[eos] = 0
    table[eos, stream.identity.start + ENDS_SENTENCE] = STOP_LOGIT * unit
    table[eos, stream.constant] = -STOP_LOGIT / gain
    table[eos, stream.output.start + STARTS_WORD] = 2 * COPIED_LOGIT / COPIED_NORM * unit
    return table


def balance(writes: Tensor, stream: Stream) -> Tensor:
    """`writes` [..., width] with each row's sum taken off again in the spare dimensions, so that a LayerNorm, which
    removes the mean, leaves every block as it was written."""
    writes = writes.clone()
    writes[..., stream.width :] -= writes.sum(-1, keepdim=True) / (writes.shape[-1] - stream.width)
    return writes
