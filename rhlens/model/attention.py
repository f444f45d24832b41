"""Attention patterns of a few heads over a few tokens: needle, question and answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rhlens.model.drift import evaluating
from rhlens.model.engine import Engine
from rhlens.model.numbers import not_finite
from rhlens.results.heads import Head
from rhlens.tasks.spelling import exact_decoder, pieces
from rhlens.tasks.trials import Trial

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True, eq=False)
class Window:
    """Patterns among the tokens of a crop.

    Attributes:
        pattern: attention among the crop's tokens; rows of tokens before the question are not computed and are zero.
        to_needle: each head's attention to the needle, mean over the rows that produced the answer.
        outside: the same rows' attention to tokens that the crop leaves out.
        n_tokens: tokens of the whole prompt and answer.
    """

    texts: list[str]
    pattern: Float[np.ndarray, "head token token"]
    to_needle: Float[np.ndarray, " head"]
    outside: Float[np.ndarray, " head"]
    n_tokens: int


@torch.inference_mode()
def attention_window(
    model: TransformerBridge, trial: Trial, heads: Sequence[Head], margin: int, max_tokens: int
) -> Window:
    """Answer `trial`, then read the rows of question and answer of `heads` once, over the cached haystack."""
    engine = Engine(model)
    engine.check(heads)
    prompt = torch.tensor([trial.tokens])
    answer = engine.decode(engine.prefill(prompt), 2 * len(trial.answer_tokens) + 8)[0].tokens
    tokens = torch.cat([prompt, torch.from_numpy(answer)[None]], dim=1)
    first = trial.question_span[0]
    prefix = engine.prefill(tokens[:, : first + 1])
    rows: dict[int, Float[Tensor, "head query key"]] = {}

    def read(pattern: Float[Tensor, "1 head query key"], hook: Any) -> None:
        if not torch.isfinite(pattern).all():
            raise not_finite(f"attention weights of layer {hook.layer()}", pattern.dtype)
        rows[hook.layer()] = pattern[0].float().cpu()

    hooks = [(f"blocks.{layer}.attn.hook_pattern", read) for layer in {h.layer for h in heads}]
    with evaluating(engine.model), engine.model.hooks(fwd_hooks=hooks):
        engine.model(tokens[:, first:].to(engine.device), past_key_values=prefix.fork(), use_cache=True)
    picked = torch.stack([rows[h.layer][h.head] for h in heads]).numpy()  # [head, query, key]
    return _crop(engine, trial, tokens[0], picked, first, margin, max_tokens)


def _crop(
    engine: Engine, trial: Trial, tokens: Tensor, picked: np.ndarray, first: int, margin: int, max_tokens: int
) -> Window:
    n = len(tokens)
    start, end = trial.needle_span
    tail = list(range(first, n))[-max_tokens // 2 :]
    near = list(range(max(0, start - margin), min(first, end + margin)))[: max_tokens - len(tail)]
    keep = near + [i for i in tail if i not in near]
    pattern = np.zeros((len(picked), len(keep), len(keep)), dtype=np.float32)
    computed = [i for i, position in enumerate(keep) if position >= first]
    pattern[:, computed] = picked[:, [keep[i] - first for i in computed]][:, :, keep]
    texts = pieces(exact_decoder(engine.tokenizer), tokens.tolist())
    answering = picked[:, trial.length - 1 - first : max(n - 1, trial.length) - first]
    return Window(
        texts=[texts[i] for i in keep],
        pattern=pattern,
        to_needle=answering[:, :, slice(*trial.needle_span)].sum(-1).mean(-1),
        outside=1 - answering[:, :, keep].sum(-1).mean(-1),
        n_tokens=n,
    )
