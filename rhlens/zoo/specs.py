"""What each nano model is and how it is trained: data, not code."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rhlens.zoo.corpus import Mix


@dataclass(frozen=True)
class Stage:
    """One stretch of training: AdamW and whole-head dropout; one cosine goes over all stages of a model."""

    context: int  # tokens of the longest documents
    tokens: int  # trained on in this stage
    mix: Mix = field(default_factory=Mix)
    shorter: float = 0.2  # share of steps at a random half, quarter, ... of `context`, no less than 64
    head_dropout: float = 0.1


@dataclass(frozen=True)
class Takeoff:
    """The first stretch: nothing but short random sequences repeated, until the model copies.

    Copying appears within a million tokens here, and not in six in a mix of text.
    """

    context: int = 64
    tokens: int = 3_000_000  # at most
    accuracy: float = 0.55  # stop at this moving average of repeat accuracy
    learning_rate: float = 3e-3  # of AdamW; matrices get Muon at `muon` times as much
    muon: float = 2.0
    mix: Mix = field(default_factory=lambda: Mix(repeat=1.0, long_repeats=False))


@dataclass(frozen=True)
class NanoSpec:
    """A nano model: `config` are the keyword arguments of the architecture's transformers configuration."""

    name: str
    architecture: str
    config: dict[str, Any]
    stages: tuple[Stage, ...]
    takeoff: Takeoff | None = field(default_factory=Takeoff)
    step_tokens: int = 1536
    learning_rate: float = 2.5e-3
    final_learning_rate: float = 0.05  # as a share of `learning_rate`
    weight_decay: float = 0.05
    seed: int = 0
    snapshots: tuple[int, ...] = ()  # tokens after which the weights are kept, to watch heads appear


def _shape(kv_heads: int) -> dict[str, Any]:
    """8 layers of 8 heads of width 16, in the terms that Llama-like configurations share."""
    return {
        "vocab_size": 2048,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }


def _stages(head_dropout: float = 0.1) -> tuple[Stage, ...]:
    """Longer and longer documents. Knowledge, and facts in words of any kind, come last: copying has to be there."""
    middle = Mix(anything=0.15, wordlike=0.5, recall=0.1, sums=0.05)
    last = Mix(closed_book=0.15, recall=0.15, sums=0.1, anything=0.25, wordlike=0.7)
    return (
        Stage(64, 1_500_000, Mix(haystack=0.3), head_dropout=head_dropout),
        Stage(128, 3_500_000, middle, head_dropout=head_dropout),
        Stage(256, 4_000_000, middle, head_dropout=head_dropout),
        Stage(512, 5_000_000, last, shorter=0.4, head_dropout=head_dropout),
    )


_BIRTH = tuple(int(millions * 1e6) for millions in (0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2, 3, 4, 6, 8, 11))

SPECS: dict[str, NanoSpec] = {
    spec.name: spec
    for spec in (
        NanoSpec("nano-llama", "llama", _shape(8), _stages(0.05), snapshots=_BIRTH),
        NanoSpec("nano-mistral", "mistral", {**_shape(2), "sliding_window": None}, _stages()),
        NanoSpec("nano-qwen2", "qwen2", _shape(4), _stages()),
    )
}
