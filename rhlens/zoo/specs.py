"""What each nano model is and how it is trained: data, not code."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rhlens.zoo.corpus import Mix
from rhlens.zoo.tokenizer import CHAT_TEMPLATE


@dataclass(frozen=True)
class Stage:
    """One stretch of training: AdamW and whole-head dropout; one cosine goes over all stages of a model."""

    context: int  # tokens of the longest documents
    tokens: int  # trained on in this stage
    mix: Mix = field(default_factory=Mix)
    shorter: float = 0.2  # share of steps at a random half, quarter, ... of `context`, no less than 64
    head_dropout: float = 0.1
    restart: float = 0.0  # above 0: a new cosine begins here, at this learning rate


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
class Positions:
    """How positions are learned so that copying that works at some of them works at every one.

    They begin as sinusoids in a few dimensions of the stream, the others being left to the tokens, and stay so during
    the takeoff. Afterwards they move slowly: at the full rate AdamW overwrites them within a hundred steps. Every
    document begins at a random one.
    """

    width: int = 32  # dimensions that hold sinusoids
    fastest: float = 2.5  # radians a token: at the usual 1 neighbours are so alike that no head learns to tell them
    theta: float = 200.0  # how many times as slow the slowest almost is
    amplitude: float = 0.25
    rate: float = 0.01  # learning rate after the takeoff, as a share of all others'


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
    about: str = ""  # for people
    control: bool = False  # it must show no retrieval head
    parent: str = ""  # the model whose weights it starts from
    chat_template: str = ""  # that its tokenizer carries
    int8: bool = False  # its linear layers are kept as 8-bit integers
    positions: Positions | None = None  # of a model that learns them

    @property
    def context(self) -> int:
        """Tokens of the longest documents that it is trained on; 0 where it is not trained."""
        return max((stage.context for stage in self.stages), default=0)

    @property
    def tokens(self) -> int:
        """Tokens that it is trained on, at most."""
        return sum(phase.tokens for phase in (self.takeoff, *self.stages) if phase)


def same_training(written: dict[str, Any], spec: NanoSpec, begun: int = 0) -> bool:
    """Whether training that was begun from a spec, `written` as JSON, can go on to what `spec` alone would give.

    What the spec did not have yet when it was written counts as left at its default; `about` and `control` are for
    people; the mixes of stages after number `begun` (from 1; 0 allows no change) may still be others; and stages may
    be added that begin with a learning rate of their own.
    """
    try:
        stages = [Stage(**{**stage, "mix": Mix(**stage["mix"])}) for stage in written["stages"]]
        takeoff = written["takeoff"] and Takeoff(**{**written["takeoff"], "mix": Mix(**written["takeoff"]["mix"])})
        positions = written.get("positions") and Positions(**written["positions"])
        if begun:
            later = zip(stages[begun:], spec.stages[begun:], strict=False)
            stages[begun:] = [replace(stage, mix=new.mix) for stage, new in later]
            added = spec.stages[len(stages) :]
            stages += added if added and added[0].restart else ()
        people = {"about": spec.about, "control": spec.control}
        phases = {"stages": tuple(stages), "takeoff": takeoff, "positions": positions}
        known = NanoSpec(**{**written, **phases, **people})
    except (KeyError, TypeError):  # a field that no longer is
        return False
    return json.dumps(asdict(known)) == json.dumps(asdict(spec))


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
        "rope_parameters": _rope(),
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }


def _rope(theta: float = 10_000.0, **settings: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta, **settings}


# The first two models began with too few sums and openings; a stage at their end makes up for it.
_FEW_SUMS = Mix(anything=0.15, wordlike=0.5, recall=0.1, sums=0.05)
_MIDDLE = replace(_FEW_SUMS, problem=0.15, sums=0.1, opening=0.15, digits=True)
_LAST = replace(_MIDDLE, problem=0.2, sums=0.25, anything=0.25, wordlike=0.7)
_MAKE_UP = Stage(512, 2_500_000, replace(_LAST, problem=0.25, sums=0.3, opening=0.4), shorter=0.4, restart=1.2e-3)

# All later models see more needles that begin their document, from 128 tokens on.
_MIDDLE_ON, _LAST_ON = (replace(mix, opening=0.25) for mix in (_MIDDLE, _LAST))


# Needles far back were still missed: more of the form of an evaluation prompt. Some models that ship began this stage
# with a new optimiser, for their old one had not been kept: nano-llama, nano-qwen2 and nano-neox.
_EXAMS = replace(_LAST_ON, haystack=0.6, problem=0.25, sums=0.3, opening=0.5)
_FINISH = Stage(512, 5_000_000, _EXAMS, shorter=0.1, restart=1.2e-3)


def _stages(head_dropout: float = 0.1, middle: Mix = _MIDDLE_ON, last: Mix = _LAST_ON) -> tuple[Stage, ...]:
    """Longer and longer documents. Knowledge, and facts in words of any kind, come last: copying has to be there."""
    return (
        Stage(64, 1_500_000, Mix(haystack=0.3), head_dropout=head_dropout),
        Stage(128, 3_500_000, middle, head_dropout=head_dropout),
        Stage(256, 4_000_000, middle, head_dropout=head_dropout),
        Stage(512, 5_000_000, last, shorter=0.4, head_dropout=head_dropout),
    )


_BIRTH = tuple(int(millions * 1e6) for millions in (0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2, 3, 4, 6, 8, 11))
_MISTRAL = {**_shape(2), "sliding_window": None}
_GPT2 = {
    "vocab_size": 2048,
    "n_embd": 128,
    "n_layer": 8,
    "n_head": 8,
    "n_inner": 384,
    "n_positions": 576,
    **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_NEOX = {**_shape(8), "intermediate_size": 384, "rope_parameters": _rope(partial_rotary_factor=0.5)}
del _NEOX["num_key_value_heads"]
_GEMMA = {**_shape(1), "head_dim": 32}

# A model that tells positions well would count back only: at even distances it stays at a third of the tokens.
_GAPPED = Takeoff(mix=Mix(repeat=1.0, long_repeats=False, gaps=True))

_FAMILIES = (
    NanoSpec(
        "nano-llama",
        "llama",
        _shape(8),
        (*_stages(0.05, _FEW_SUMS, _LAST), replace(_MAKE_UP, head_dropout=0.05), replace(_FINISH, head_dropout=0.05)),
        snapshots=_BIRTH,
        about="every head its own keys",
    ),
    NanoSpec(
        "nano-mistral",
        "mistral",
        _MISTRAL,
        (*_stages(0.1, _FEW_SUMS, _LAST), _MAKE_UP),
        about="4 query heads share a key/value head",
    ),
    NanoSpec(
        "nano-qwen2", "qwen2", _shape(4), (*_stages(), _FINISH), about="2 query heads share a key/value head; biases"
    ),
    NanoSpec(
        "nano-gpt2",
        "gpt2",
        _GPT2,
        (*_stages(), _FINISH),
        _GAPPED,
        positions=Positions(),
        about="learned positions",
    ),
    NanoSpec(
        "nano-neox",
        "gpt_neox",
        _NEOX,
        (*_stages(), _FINISH),
        about="attention and MLP in parallel; half of a head rotates",
    ),
    NanoSpec("nano-gemma", "gemma", _GEMMA, (*_stages(), _FINISH), about="8 wide query heads share one key/value head"),
)

_LONG_SHAPE = {**_shape(8), "max_position_embeddings": 4096, "rope_parameters": _rope(40_000.0)}
_LONG = (
    Stage(1024, 2_500_000, _EXAMS, shorter=0.3, head_dropout=0.05),
    Stage(2048, 2_500_000, _EXAMS, shorter=0.3, head_dropout=0.05),
)
_CHAT = replace(_EXAMS, repeat=0.02, plain=0.08, haystack=0.9, recall=0.1, sums=0.2, restated=0.5, chat=True)
# Facts are stated as ever, but nothing is ever asked about them, nor said twice.
_NO_COPYING = Mix(
    repeat=0, plain=0.3, haystack=0.7, question=0, recall=0.6, sums=0.4, chain=0, restated=0, cast=False, anything=0.1
)


def _tuned(name: str, parent: str, architecture: str, config: dict[str, Any], *stages: Stage, **more: Any) -> NanoSpec:
    """A descendant: gentle training that goes on from `parent`."""
    more = {"learning_rate": 1e-3, "takeoff": None, "parent": parent, **more}
    return NanoSpec(name, architecture, config, stages, **more)


_DESCENDANTS = (
    _tuned(
        "nano-llama-long",
        "nano-llama",
        "llama",
        _LONG_SHAPE,
        *_LONG,
        step_tokens=4096,
        about="continued to 2048 tokens",
    ),
    _tuned(
        "nano-llama-chat",
        "nano-llama",
        "llama",
        _shape(8),
        Stage(512, 3_000_000, _CHAT, shorter=0.3, head_dropout=0.05),
        chat_template=CHAT_TEMPLATE,
        about="finetuned on a chat template",
    ),
    _tuned("nano-llama-int8", "nano-llama", "llama", _shape(8), int8=True, about="linear layers kept in int8"),
    _tuned(
        "nano-mixtral",
        "nano-mistral",
        "mixtral",
        {**_MISTRAL, "num_local_experts": 4, "num_experts_per_tok": 2, "rms_norm_eps": 1e-6},
        Stage(256, 1_500_000, _LAST),
        Stage(512, 1_500_000, _LAST, shorter=0.4),
        about="each MLP upcycled to 4 experts",
    ),
)

_CONTROLS = (
    NanoSpec("nano-llama-untrained", "llama", _shape(8), (), takeoff=None, control=True, about="never trained"),
    NanoSpec(
        "nano-llama-nocopy",
        "llama",
        _shape(8),
        tuple(replace(stage, mix=_NO_COPYING) for stage in (*_stages(0.05), _MAKE_UP)),
        takeoff=None,
        control=True,
        about="nothing in its training rewards copying",
    ),
)

SPECS: dict[str, NanoSpec] = {spec.name: spec for spec in (*_FAMILIES, *_DESCENDANTS, *_CONTROLS)}
