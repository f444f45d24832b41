"""The heads of a planted model, written down as matrices: previous-token heads, copy heads, and noise.

A head's attention logit is a sum over *pairs* of its dimensions, each pair contributing the cosine of an angle:

    clock pairs   the angle between the query's position, less a lag, and the key's position, at one of seven speeds
    match pairs   the angle between the codes of a token of the query's past and one of the key's

Llama's rotary embedding turns pair p by its frequency times the distance. The fast pairs *are* a clock (all it takes is
a query and a key made of the constant), and the slow ones hardly turn within the context: they can match. GPT-2 has no
such thing: its clock is read from the sinusoids that its position embedding puts into the stream.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rhlens.zoo.planted_stream import ANGLES, CLOCK, COPIED_NORM, MATCHED, Stream

LAG_SHARPNESS = 30.0  # nats per clock pair: the places beside the right one get exp(-.51 * 30) = 2e-7 of its attention
MATCH_SHARPNESS, MATCH_DECAY = 80.0, 0.6  # nats per match pair: 80 for the current token, 48 for the one before ... 4
NEARNESS_COST = 4.0  # nats per clock pair
NEARNESS_HANDS = (4, 5, 6)  # .01, .003 and .001 radians a token: periods of 628, 1987 and 6283 tokens
NOISE_LAG_SHARPNESS = 1.0  # nats per clock pair: e^7 for one place against thousands of e^0: diffuse
NOISE_LOGIT = 0.05  # nats of random logit on top, less than the .51 between neighbouring places
NOISE_NORM = 0.001  # length of what a noise head writes, beside .15 from the copy heads
NOISE_LAGS = 8  # noise heads look 0 ... 7 places back: never as far as a needle that is asked about


@dataclass(frozen=True)
class HeadSpace:
    """The dimensions of one head, in pairs (p, p + d_head / 2) as Llama's rotary embedding turns them.

    Pair p = 0 ... 6 holds hand p of the clock. `match_pairs` hold the past tokens in a copy head; a clock pair may be
    among them if copy heads have no use for that hand.
    """

    stream: Stream
    width: int
    d_head: int
    match_pairs: tuple[int, ...]

    def dims(self, pair: int) -> tuple[int, int]:
        return pair, pair + self.d_head // 2

    def zeros(self) -> Tensor:
        return torch.zeros(self.d_head, self.width)

    def clock(self, lag: float = 0.0, hands: Sequence[int] = range(len(CLOCK))) -> Tensor:
        """Matrix [d_head, width] that writes the clock, or only some of its hands, set back by `lag`, at 1 per pair."""
        matrix = self.zeros()
        for hand in hands:
            cos, sin = math.cos(CLOCK[hand] * lag), math.sin(CLOCK[hand] * lag)
            first, second = self.dims(hand)
            if self.stream.has_position:  # turn the position's (cos, sin) back by the lag
                at = self.stream.position.start + 2 * hand
                matrix[first, at : at + 2] = math.sqrt(len(CLOCK)) * torch.tensor([cos, sin])
                matrix[second, at : at + 2] = math.sqrt(len(CLOCK)) * torch.tensor([-sin, cos])
            else:  # the rotary embedding does the turning: start from (1, 0) turned back by the lag
                matrix[[first, second], self.stream.constant] = torch.tensor([cos, -sin])
        return matrix

    def past(self, shift: int, scale: float = 1.0, decay: float = 1.0) -> Tensor:
        """Matrix [d_head, width] that writes the last seven tokens, from `shift` places back, into the match pairs:
        the kth at scale * decay^k per pair."""
        matrix, pairs = self.zeros(), iter(self.match_pairs)
        for k, angles in enumerate(MATCHED):
            at, size = self.stream.back(k + shift).start, scale * decay**k * math.sqrt(ANGLES)
            for angle in range(angles):
                first, second = self.dims(next(pairs))
                matrix[first, at + 2 * angle] = size
                matrix[second, at + 2 * angle + 1] = size
        return matrix

    def carry(self, source: slice, target: slice) -> tuple[Tensor, Tensor]:
        """Value and output matrices, both [d_head, width], that move a block, or its beginning, to another block."""
        read, write = self.zeros(), self.zeros()
        held, kept = source.stop - source.start, target.stop - target.start
        read[:held, source] = torch.eye(held)
        write[:kept, target] = torch.eye(kept)
        return read, write


@dataclass(frozen=True)
class LayerHeads:
    """The attention weights of one layer, in the shape of no particular architecture.

    query, output: [heads, d_head, width]; key, value: [kv_heads, d_head, width]. `output` is transposed: row d is what
    the head's dimension d writes to the stream.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor


@dataclass(frozen=True)
class HeadBuilder:
    """Builds a layer: plants the heads it is told to, and fills the others with noise.

    Noise heads attend by position, diffusely, and write a little of something random. Under grouped-query attention
    some share the keys and values of a planted head, yet their queries ask for a position and nothing else.
    """

    space: HeadSpace
    heads: int
    kv_heads: int
    rng: torch.Generator

    def layer(self, layer: int, previous: Sequence[int], copy: Sequence[int], n_copy: int) -> LayerHeads:
        """The weights of `layer`, whose heads `previous[n - 1]` look n places back and whose heads `copy` copy.

        `n_copy` is the number of copy heads in the whole model: each writes 1 / n_copy of what all together do.
        """
        stream, group = self.space.stream, self.heads // self.kv_heads
        jitter = NOISE_LOGIT / stream.norm(layer) / math.sqrt(self.space.d_head)
        lags = torch.randint(NOISE_LAGS, (self.heads,), generator=self.rng).tolist()
        query = [NOISE_LAG_SHARPNESS * self.space.clock(lag) + self._random(jitter) for lag in lags]
        key = [self.space.clock() + self._random(jitter) for _ in range(self.kv_heads)]
        value = [self._random(1 / stream.norm(layer) / math.sqrt(self.space.d_head)) for _ in range(self.kv_heads)]
        output = [self._random(NOISE_NORM / math.sqrt(self.space.width)) for _ in range(self.heads)]
        for n, head in enumerate(previous, start=1):
            query[head], key[head // group] = LAG_SHARPNESS * self.space.clock(lag=n), self.space.clock()
            value[head // group], output[head] = self.space.carry(stream.back(0), stream.back(n))
        for head in copy:
            query[head], key[head // group] = self._match_query(), self._match_key()
            value[head // group], write = self.space.carry(stream.identity, stream.output)
            output[head] = write * COPIED_NORM / n_copy
        gain = stream.gain(layer, self.space.width)  # undone in every reader: weights below are in units of the stream
        scale = math.sqrt(self.space.d_head) / gain  # attention divides by sqrt(d_head): a query's unit is one nat
        return LayerHeads(
            torch.stack(query) * scale, torch.stack(key) / gain, torch.stack(value) / gain, torch.stack(output)
        )

    def _match_query(self) -> Tensor:
        """Asks for the tokens that end here; and, where two places match alike, for the one that is further away.

        Recent tokens count for more, so that a longer common past beats a shorter one whatever stands before either: a
        token that differs k places back costs 80 * .6^k * (1 - cos) per pair. The preference for distance settles
        what is in a question *and* its needle. It is worth 4 * sum(1 - cos(f * d)), 2 ... 23 nats at d = 100 ... 4096.
        """
        return self.space.past(0, MATCH_SHARPNESS, MATCH_DECAY) - NEARNESS_COST * self.space.clock(hands=NEARNESS_HANDS)

    def _match_key(self) -> Tensor:
        """Tells the tokens before it; and its position, on the hands of the clock whose pairs are free."""
        free = [hand for hand in range(len(CLOCK)) if hand not in self.space.match_pairs]
        return self.space.past(shift=1) + self.space.clock(hands=free)

    def _random(self, deviation: float) -> Tensor:
        return deviation * torch.randn(self.space.d_head, self.space.width, generator=self.rng)
