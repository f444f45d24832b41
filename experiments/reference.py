"""The same measurements as people make them without rhlens, written plainly: what `benchmark.py` compares with.

`Reference` is the published procedure: Hugging Face, one SDPA prefill a trial and condition, then eager attention with
`output_attentions=True`, token by token. `transformer_lens_traces` uses TransformerLens and nothing else.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from rhlens.model.trace import Trace
from rhlens.results.heads import Head
from rhlens.tasks.pairs import Pair
from rhlens.tasks.trials import Trial


class Reference:
    """A Llama as Hugging Face runs it."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.fast = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval()
        self.eager = copy.deepcopy(self.fast, {id(t): t for t in [*self.fast.parameters(), *self.fast.buffers()]})
        self.eager.set_attn_implementation("eager")
        config = self.fast.config
        self.shape = config.num_hidden_layers, config.num_attention_heads
        self.d_head = config.head_dim

    @torch.inference_mode()
    def trace(self, tokens: Sequence[int], limit: int) -> Trace:
        """Answer one prompt greedily, and keep where every head looked most."""
        cache, said, positions, weights = self.prefill(tokens), [], [], []
        current = torch.tensor([tokens[-1:]])
        while len(said) < limit:
            out = self.eager(current, past_key_values=cache, output_attentions=True)
            token = int(out.logits[0, -1].argmax())
            if token == self.tokenizer.eos_token_id:
                break
            rows = torch.stack([attention[0, :, -1] for attention in out.attentions])  # [layer, head, key]
            said.append(token)
            positions.append(rows.argmax(-1).numpy())
            weights.append(rows.amax(-1).numpy())
            if "\n" in self.tokenizer.decode(said).lstrip():
                break
            current = torch.tensor([[token]])
        return Trace(
            np.array(said),
            np.zeros(len(said)),
            np.array(positions, dtype=np.int32).reshape(-1, *self.shape),
            np.array(weights),
        )

    @torch.inference_mode()
    def answer(self, tokens: Sequence[int], heads: Sequence[Head], phase: str, limit: int) -> str:
        """Answer one prompt without some heads."""
        with self.without(heads if phase == "both" else ()):
            cache = self.prefill(tokens)
        said, current = [], torch.tensor([tokens[-1:]])
        with self.without(heads):
            while len(said) < limit:
                token = int(self.eager(current, past_key_values=cache).logits[0, -1].argmax())
                if token == self.tokenizer.eos_token_id:
                    break
                said.append(token)
                if "\n" in self.tokenizer.decode(said).lstrip():
                    break
                current = torch.tensor([[token]])
        text = self.tokenizer.decode(said, skip_special_tokens=True).strip()
        return text.splitlines()[0].strip() if text else ""

    @torch.inference_mode()
    def effects(self, trial: Trial, cells: Sequence[Head]) -> np.ndarray:
        """What log-probability the right reply loses without each of these heads while it is written."""
        whole = self._log_prob(trial, ())
        return np.array([whole - self._log_prob(trial, [head]) for head in cells])

    def _log_prob(self, trial: Trial, heads: Sequence[Head]) -> float:
        cache, reply = self.prefill(trial.tokens), torch.tensor(trial.reply)
        with self.without(heads):
            logits = self.eager(
                torch.cat([torch.tensor(trial.tokens[-1:]), reply[:-1]])[None], past_key_values=cache
            ).logits
        return float(logits[0].log_softmax(-1).gather(-1, reply[:, None]).mean())

    @torch.inference_mode()
    def patched(self, pair: Pair, cells: Sequence[Head]) -> np.ndarray:
        """The answers' logit difference when each of these heads outputs of the clean run enter the corrupt one."""
        reply, start = list(pair.clean.reply), pair.clean.length - 1
        clean, corrupt = (torch.tensor([[*trial.tokens, *reply[:-1]]]) for trial in (pair.clean, pair.corrupt))
        kept: dict[int, Tensor] = {}
        with self._hooked(range(self.shape[0]), lambda layer, z: kept.__setitem__(layer, z.clone())):
            self.fast(clean)
        found = []
        for layer, head in cells:
            part = slice(head * self.d_head, (head + 1) * self.d_head)

            def patch(i: int, z: Tensor, part: slice = part) -> Tensor:
                z = z.clone()
                z[:, start:, part] = kept[i][:, start:, part]
                return z

            with self._hooked([layer], patch):
                logits = self.fast(corrupt).logits[0, start:]
            at = list(pair.differs)
            right, wrong = (torch.tensor([trial.reply[i] for i in at]) for trial in (pair.clean, pair.corrupt))
            found.append(float((logits[at, right] - logits[at, wrong]).mean()))
        return np.array(found)

    def prefill(self, tokens: Sequence[int]) -> DynamicCache:
        """All but the last token, in one piece."""
        cache = DynamicCache()
        self.fast(torch.tensor([tokens[:-1]]), past_key_values=cache, logits_to_keep=1)
        return cache

    @contextmanager
    def without(self, heads: Sequence[Head]) -> Iterator[None]:
        """Heads whose outputs are zero, while inside."""

        def zero(layer: int, z: Tensor) -> Tensor:
            z = z.clone()
            for head in (h.head for h in heads if h.layer == layer):
                z[..., head * self.d_head : (head + 1) * self.d_head] = 0
            return z

        with self._hooked(sorted({h.layer for h in heads}), zero):
            yield

    @contextmanager
    def _hooked(self, layers: Sequence[int], edit: Any) -> Iterator[None]:
        """`edit(layer, z)` of what the output projections of some layers receive; None leaves it."""
        handles = []
        for model in (self.fast, self.eager):
            for layer in layers:
                module = model.model.layers[layer].self_attn.o_proj

                def hook(module: Any, args: tuple[Tensor], layer: int = layer) -> Any:
                    z = edit(layer, args[0])
                    return None if z is None else (z,)

                handles.append(module.register_forward_pre_hook(hook))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@torch.inference_mode()
def transformer_lens_trace(bridge: Any, tokens: Sequence[int], limit: int) -> Trace:
    """Answer by `run_with_cache` on everything so far, for every token."""
    said, positions, weights = [], [], []
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(bridge.cfg.n_layers)]
    while len(said) < limit:
        logits, cache = bridge.run_with_cache(torch.tensor([[*tokens, *said]]), names_filter=names)
        token = int(logits[0, -1].argmax())
        if token == bridge.tokenizer.eos_token_id:
            break
        rows = torch.stack([cache[name][0, :, -1] for name in names])
        said.append(token)
        positions.append(rows.argmax(-1).numpy())
        weights.append(rows.amax(-1).numpy())
        if "\n" in bridge.tokenizer.decode(said).lstrip():
            break
    shape = bridge.cfg.n_layers, bridge.cfg.n_heads
    return Trace(
        np.array(said), np.zeros(len(said)), np.array(positions, dtype=np.int32).reshape(-1, *shape), np.array(weights)
    )
