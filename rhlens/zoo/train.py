"""Train a nano model, on one CPU core or a GPU: `rhlens zoo train nano-qwen2 --out DIR`.

Kill it at any time: it goes on from its last checkpoint, on a CPU to the same weights bit for bit.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from rhlens.zoo.build import HeadDropout, build_model, is_embedding, save_model, tokenizer_of
from rhlens.zoo.corpus import ANSWER, FIRST_ANSWER, Corpus
from rhlens.zoo.muon import Muon
from rhlens.zoo.specs import NanoSpec, Stage, same_training

CHECKPOINT, HISTORY = "checkpoint.pt", "history.jsonl"
WARM_UP_STEPS = 100


class Trainer:
    """All state of one training run; `step` advances it, `save` and `load` make it survive anything.

    Args:
        base: the folder of the parent that `spec` starts from.
        device: where the model is trained.
    """

    def __init__(self, spec: NanoSpec, base: Path | None = None, device: str = "cpu") -> None:
        torch.manual_seed(spec.seed)
        self.spec, self.device = spec, torch.device(device)
        self.model = build_model(spec, base).train()
        nn.Module.to(self.model, self.device)
        self.dropout = HeadDropout(self.model)
        self.tokenizer = tokenizer_of(spec)
        self.rng = random.Random(f"{spec.name}:{spec.seed}")
        self.progress: dict[str, Any] = {
            "stage": 0 if spec.takeoff else 1,  # 0 is the takeoff
            "step": 0,  # since the optimisers began
            "tokens": 0,  # of this stage
            "takeoff_tokens": 0,
            "main_tokens": 0,  # of all stages but the takeoff
            "accuracy": 0.0,  # of answer tokens, a moving average
        }
        self.optimizers = self._make_optimizers()

    @property
    def stage(self) -> Stage | None:
        """The current stage, None during the takeoff."""
        return self.spec.stages[self.progress["stage"] - 1] if self.progress["stage"] else None

    @property
    def done(self) -> bool:
        return self.progress["stage"] > len(self.spec.stages)

    @property
    def tokens(self) -> int:
        """How many tokens the model has been trained on."""
        return self.progress["takeoff_tokens"] + self.progress["main_tokens"]

    def step(self) -> dict[str, float]:
        """One optimiser step; its loss and the accuracies of all answer tokens and of the first ones."""
        spec, stage = self.spec, self.stage
        phase = stage or spec.takeoff
        assert phase is not None
        context, mix = self._context(stage) if stage else phase.context, phase.mix
        encode = self.tokenizer.backend_tokenizer.encode
        corpus = Corpus(mix, lambda s: encode(s, add_special_tokens=False).ids, len(self.tokenizer), self.rng)
        batch = corpus.batch(max(1, spec.step_tokens // context), context + 1)
        ids, weights = (torch.from_numpy(a).to(self.device) for a in batch)
        self._set_learning_rate()
        self.dropout.p = stage.head_dropout if stage else 0.0
        logits = self.model(
            input_ids=ids[:, :-1], position_ids=self._positions(*ids[:, 1:].shape), use_cache=False
        ).logits
        loss, metrics = _loss(logits, ids[:, 1:], weights[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.model.zero_grad(set_to_none=True)
        self._advance(ids[:, 1:].numel(), metrics["answers"])
        return metrics

    def _positions(self, n_rows: int, n_tokens: int) -> Tensor | None:
        """Where the tokens of each document stand, [n_rows, n_tokens]; None from the first position on."""
        if not self.spec.positions:
            return None
        spare = self.model.config.max_position_embeddings - n_tokens
        starts = torch.tensor([self.rng.randint(0, spare) for _ in range(n_rows)])
        return (starts[:, None] + torch.arange(n_tokens)).to(self.device)

    def _context(self, stage: Stage) -> int:
        """Mostly the stage's context, sometimes a shorter one, so that short prompts stay in practice."""
        contexts = [stage.context]
        while contexts[-1] >= 128:
            contexts.append(contexts[-1] // 2)
        return self.rng.choice(contexts[1:]) if len(contexts) > 1 and self.rng.random() < stage.shorter else contexts[0]

    def _advance(self, n_tokens: int, accuracy: float) -> None:
        p, takeoff = self.progress, self.spec.takeoff
        p["step"] += 1
        p["tokens"] += n_tokens
        p["takeoff_tokens" if p["stage"] == 0 else "main_tokens"] += n_tokens
        p["accuracy"] += 0.05 * (accuracy - p["accuracy"])
        phase = self.stage or takeoff
        took_off = not self.stage and takeoff and p["accuracy"] >= takeoff.accuracy
        if took_off or (phase and p["tokens"] >= phase.tokens):
            p.update(stage=p["stage"] + 1, tokens=0)
            if p["stage"] == 1:  # the takeoff is over: a new optimiser with fresh averages, and a new warm-up
                p["step"] = 0
                self.optimizers = self._make_optimizers()

    def _make_optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices and AdamW for the rest during the takeoff, AdamW for all afterwards.

        Positions that `spec` begins with stay as they are during the takeoff, and then have a rate of their own.
        """
        if self.spec.positions:
            self.model.get_submodule("transformer.wpe").requires_grad_(self.progress["stage"] > 0)
        decayed = [p for n, p in self.model.named_parameters() if p.ndim > 1 and not is_embedding(n)]
        ids = {id(p) for p in decayed}
        rest = [p for p in self.model.parameters() if id(p) not in ids]
        decay, betas = self.spec.weight_decay, (0.9, 0.98)
        if self.progress["stage"] == 0:
            matrices = [p for p in decayed if p.ndim == 2]
            rest += [p for p in decayed if p.ndim != 2]
            adamw = torch.optim.AdamW(rest, betas=betas, weight_decay=0.0, fused=True)
            return [Muon(matrices, weight_decay=decay), adamw]
        groups = [{"params": decayed, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
        if self.spec.positions:
            positions = self.model.get_submodule("transformer.wpe").get_parameter("weight")
            groups[1]["params"] = [p for p in rest if p is not positions]
            groups.append({"params": [positions], "weight_decay": 0.0, "share": self.spec.positions.rate})
        return [torch.optim.AdamW(groups, betas=betas, fused=True)]

    def _set_learning_rate(self) -> None:
        spec, p = self.spec, self.progress
        warm = min(1.0, (p["step"] + 1) / WARM_UP_STEPS)
        if spec.takeoff and not p["stage"]:
            rate = spec.takeoff.learning_rate * warm
        else:
            highest, done = self._cycle()
            cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
            rate = highest * warm * (cosine + (1 - cosine) * spec.final_learning_rate)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                muon = spec.takeoff.muon if spec.takeoff and isinstance(optimizer, Muon) else 1.0
                group["lr"] = rate * muon * group.get("share", 1.0)

    def _cycle(self) -> tuple[float, float]:
        """The highest learning rate of the cosine that is under way, and the share of its tokens that are done."""
        stages, at = self.spec.stages, self.progress["stage"] - 1
        begins = [i for i, stage in enumerate(stages) if i == 0 or stage.restart]
        first = max(i for i in begins if i <= at)
        end = next((i for i in begins if i > first), len(stages))
        before, whole = (sum(stage.tokens for stage in stages[a:b]) for a, b in ((0, first), (first, end)))
        return stages[first].restart or self.spec.learning_rate, (self.progress["main_tokens"] - before) / whole

    def save(self, path: Path) -> None:
        """Write everything needed to go on, at once or not at all."""
        version, words, gauss = self.rng.getstate()
        state = {
            "spec": json.dumps(asdict(self.spec)),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": self.progress,
            "data_rng": [version, list(words), gauss],
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all(),  # empty without a GPU
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: the checkpoint belongs to another spec.
        """
        state = torch.load(path, weights_only=True, map_location="cpu")
        if not same_training(json.loads(state["spec"]), self.spec, state["progress"]["stage"]):
            raise ValueError(f"{path} was written for another spec than {self.spec.name!r}: use an empty --out folder")
        self.progress = state["progress"]
        self.model.load_state_dict(state["model"])
        self.optimizers = self._make_optimizers()
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        version, words, gauss = state["data_rng"]
        self.rng.setstate((version, tuple(words), gauss))
        torch.set_rng_state(state["torch_rng"])
        if len(cuda := state.get("cuda_rng", [])) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(cuda)


def _loss(logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, dict[str, float]]:
    """The weighted cross-entropy of logits [batch, tokens, vocab] and the accuracies that tell how training goes."""
    losses = nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    loss = (losses * weights.flatten()).sum() / weights.sum()
    right = logits.detach().argmax(-1) == targets

    def accuracy(where: Tensor) -> float:
        return (right & where).sum().item() / max(1, int(where.sum()))

    metrics = {"answers": accuracy(weights >= ANSWER), "first": accuracy(weights == FIRST_ANSWER)}
    return loss, {"loss": loss.item(), **metrics}


def train(
    spec: NanoSpec,
    out: str | Path,
    resume: bool = True,
    threads: int = 1,
    base: str | Path | None = None,
    device: str = "auto",
    checkpoint_seconds: float = 60.0,
    stop_after: int | None = None,
) -> Path | None:
    """Train `spec` and save model and tokenizer in `out`, as `from_pretrained` reads them.

    Args:
        resume: go on from the checkpoint in `out` if there is one; otherwise begin anew.
        base: the folder of the model that a descendant starts from.
        device: `auto` takes a GPU if there is one.
        stop_after: break off after so many steps of this call, without a last checkpoint, as a kill would.

    Returns:
        `out`, or None if broken off.

    Raises:
        ValueError: the checkpoint in `out` belongs to another spec, or a descendant's `base` is missing or unfit.
    """
    torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    out = Path(out)
    trainer, checkpoint = Trainer(spec, Path(base) if base else None, device), out / CHECKPOINT
    out.mkdir(parents=True, exist_ok=True)
    if resume and checkpoint.exists():
        trainer.load(checkpoint)
    else:
        (out / HISTORY).unlink(missing_ok=True)
    saved_at = time.monotonic()
    history = _History(trainer, out / HISTORY)
    n_steps = 0
    while not trainer.done:
        if stop_after is not None and n_steps >= stop_after:
            return None
        before = trainer.tokens
        history(trainer.step())
        n_steps += 1
        if any(before < tokens <= trainer.tokens for tokens in spec.snapshots):
            save_model(trainer.model, out / "snapshots" / f"{trainer.tokens}-tokens")
        if time.monotonic() - saved_at >= checkpoint_seconds:
            trainer.save(checkpoint)
            saved_at = time.monotonic()
    trainer.save(checkpoint)
    history.close()
    save_model(trainer.model.eval(), out, trainer.tokenizer, spec.int8)
    return out


def seconds_spent(history: Path) -> float:
    """Seconds of training that a history file tells of, whoever resumed it; 0 where there is none."""
    rows = [json.loads(line) for line in history.read_text().splitlines()] if history.exists() else []
    return float(rows[-1]["seconds"]) if rows else 0.0


class _History:
    """Shows a progress bar of tokens, and appends every 50 steps' averages to a JSON-lines file.

    `seconds` in the file adds up over all runs that went on from one another, the lost work of kills included.
    """

    def __init__(self, trainer: Trainer, path: Path, every: int = 50) -> None:
        self._trainer, self._path, self._every = trainer, path, every
        self._rows: list[dict[str, float]] = []
        phases = (trainer.spec.takeoff, *trainer.spec.stages)
        self._bar = tqdm(total=sum(phase.tokens for phase in phases if phase), unit="tok")
        self._started = time.monotonic() - seconds_spent(path)

    def __call__(self, metrics: dict[str, float]) -> None:
        self._rows.append(metrics)
        if len(self._rows) >= self._every:
            self._write()

    def close(self) -> None:
        """Write what is left, so that the file ends with the last step."""
        if self._rows:
            self._write()
        self._bar.close()

    def _write(self) -> None:
        p = self._trainer.progress
        row: dict[str, Any] = {
            key: round(sum(r[key] for r in self._rows) / len(self._rows), 4) for key in self._rows[0]
        }
        self._bar.set_postfix(stage=p["stage"], **row, refresh=False)
        self._bar.update(self._trainer.tokens - self._bar.n)
        row |= {**p, "seconds": round(time.monotonic() - self._started)}
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._rows = []
