"""Which form of prompt a model answers: a few needles under each, before anybody measures for an hour."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from rhlens.measure.detect import answer_limit, answers_of, bar_disabled
from rhlens.measure.recall import judge
from rhlens.model.engine import Engine
from rhlens.results.prompt_check import PromptCheck
from rhlens.results.stats import mean_ci
from rhlens.tasks.forms import PromptForm
from rhlens.tasks.haystack import PYTHON_DOCS, Haystack
from rhlens.tasks.needles import Needle
from rhlens.tasks.trials import niah

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

LENGTH, NEEDLES, REASONING_TOKENS = 512, 5, 256
CALM: tuple[dict[str, Any], ...] = ({"enable_thinking": False}, {"thinking": False}, {"reasoning_effort": "low"})
"""What chat templates call it to reason little or not at all."""


def check(
    model: TransformerBridge,
    haystack: str | Path | Haystack | None = None,
    length: int | None = None,
    needles: int | Sequence[Needle] = NEEDLES,
    seed: int = 0,
    progress: bool | None = None,
) -> PromptCheck:
    """Ask a few needles in the middle of each haystack under every sensible form of prompt.

    The forms: restated and as a question alone; with a chat template, both in chat, and where it can be told to reason
    less, that too. A form that cannot be asked stays, with the reason.

    Args:
        haystack: text of your own; None takes generated English and Python's documentation, which is real prose.
        length: of the prompts, in tokens; None takes 512, or what the model's context leaves.
        needles: the needles, or how many to draw.
        progress: show a progress bar; None shows it on a terminal only.

    Raises:
        ValueError: no needle, or a length that the model's context does not hold.
    """
    engine = Engine(model)
    n_tokens = length or min(LENGTH, (engine.n_ctx or LENGTH) * 4 // 5)
    haystacks = [None, PYTHON_DOCS] if haystack is None else [haystack]
    cells = [(form, stack) for form in _forms(engine.tokenizer) for stack in haystacks]
    rows = []
    for (name, options), stack in tqdm(cells, desc="check", unit="form", disable=bar_disabled(progress)):
        about = {"form": name, "haystack": str(stack or "generated"), "flags": _flags(options, stack)}
        grid = {"haystack": stack, "needles": needles, "seed": seed, "max_reasoning_tokens": REASONING_TOKENS}
        rows.append(about | {"options": options | {"haystack": stack}} | _asked(engine, n_tokens, grid | options))
    table = pd.DataFrame(rows).sort_values("recall", ascending=False, kind="stable")
    return PromptCheck(table.reset_index(drop=True), engine.name)


def _forms(tokenizer: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names of the forms, and the options that ask so."""
    yield "restated", {}
    yield "question", {"restate": False}
    if not tokenizer.chat_template:
        return
    yield "chat", {"chat": True, "restate": False}
    yield "chat, restated", {"chat": True}
    plain = _rendered(tokenizer, {})
    for arguments in CALM:
        if (calm := _rendered(tokenizer, arguments)) is not None and calm != plain:
            name = ", ".join(f"{name} {value}".lower() for name, value in arguments.items())
            yield f"chat, {name}", {"chat": True, "restate": False, "chat_template_kwargs": arguments}


def _rendered(tokenizer: Any, arguments: dict[str, Any]) -> str | None:
    try:
        return PromptForm(chat=True, chat_template_kwargs=arguments).render(tokenizer, "text")
    except ValueError:
        return None


def _asked(engine: Engine, length: int, grid: dict[str, Any]) -> dict[str, Any]:
    """Recall under one form, with its interval; or why it could not be asked."""
    began = time.perf_counter()
    try:
        trials = niah(engine.model, [length], [0.5], **grid)
    except ValueError as error:
        return {"recall": float("nan"), "note": str(error)}
    found = list(answers_of(engine, trials, answer_limit(trials)))
    judged = [judge(trial, trace.output) for trial, trace in found]
    recall = mean_ci(np.array([row["recall"] for row in judged]), [trial.needle.statement for trial, _ in found])
    unfinished = sum(trace.ended == "reasoning limit" for _, trace in found)
    return {
        "recall": recall.value,
        "low": recall.low,
        "high": recall.high,
        "n": len(found),
        "exact": float(np.mean([row["exact"] for row in judged])),
        "empty": float(np.mean([not row["output"] for row in judged])),
        "seconds": (time.perf_counter() - began) / len(found),
        "note": f"{unfinished} still reasoning after {REASONING_TOKENS} tokens" if unfinished else "",
    }


def _flags(options: dict[str, Any], haystack: Any) -> str:
    """The options as the command line takes them."""
    flags = [] if haystack is None else [f"--haystack {haystack}"]
    flags += ["--chat"] if options.get("chat") else []
    flags += ["--no-restate"] if options.get("restate") is False else []
    if arguments := options.get("chat_template_kwargs"):
        flags.append(f"--chat-template-args '{json.dumps(arguments)}'")
    return " ".join(flags)
