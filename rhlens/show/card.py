"""Model cards of the zoo: measured, not typed. `card.json` holds the numbers, `README.md` tells them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rhlens.measure.profile import MATCHED, NEEDLES, Profile
from rhlens.measure.skills import CHAIN, CLOSED_BOOK, DIRECT, QUESTION, RESTATED
from rhlens.results.curves import TOP, AblationCurve
from rhlens.results.scores import RETRIEVAL_THRESHOLD
from rhlens.show.aims import RANDOM, aims_of
from rhlens.zoo.registry import CARD, MODELS, facts_of, models_folder, of_card

if TYPE_CHECKING:
    from rhlens.results.stats import Interval
    from rhlens.zoo.specs import NanoSpec

_FRONT = """---
library_name: transformers
pipeline_tag: text-generation
license: mit
language: en
tags: [interpretability, retrieval-heads, transformer-lens]
---"""
_INTRODUCTION = (
    "A nano model of the zoo of rhlens, a toolkit for *Retrieval Head Mechanistically Explains Long-Context "
    "Factuality* ([arXiv 2404.15574](https://arxiv.org/abs/2404.15574)): {about}. It reads generated English and says "
    "nothing about large models. This card is generated: every result in it was measured."
)
_SKILLS = (
    "Share of answers exactly right, on held-out prompts, greedy, with a 95 % interval over questions. Needles stand "
    "beside a distractor of the same kind, but for the hand-written ones."
)

_TOLD = {RESTATED: "restated", QUESTION: "question alone", **{skill: skill for skill in (CLOSED_BOOK, DIRECT, CHAIN)}}


def make_card(folder: Path, spec: NanoSpec, profile: Profile) -> dict[str, Any]:
    """The card's numbers: plain data, as `card.json` holds them."""
    able, facts = profile.skills, facts_of(folder)
    history = _history(folder)
    total = facts.layers * facts.heads
    skills = [
        {
            "skill": row["skill"],
            "by": row["by"],
            "group": row["group"],
            **_rounded(row, "value", "low", "high"),
            "n": row["n"],
        }
        for row in able.frame().to_dict("records")
    ]
    losses = {name: _interval(able.loss(name)) for name in ("model", "ngram")}
    return {
        "name": spec.name,
        "about": spec.about,
        **{("heads_per_layer" if key == "heads" else key): value for key, value in asdict(facts).items()},
        "parent": spec.parent,
        "trained_context": spec.context,
        "tokens": history.get("tokens", 0),
        "minutes": history.get("minutes", 0.0),
        "seed": spec.seed,
        "command": command_of(spec),
        "curriculum": _curriculum(spec, history),
        "skills": skills,
        "loss": losses | {"gain": _interval(able.gain), "ngram_tokens": able.ngram_tokens},
        "heads": {str(h): round(float(able.scores.mean()[h]), 4) for h in profile.heads},
        "share": round(len(profile.heads) / total, 4),
        "activation_frequency": profile.frequencies.round(3).to_dict("index") if profile.heads else {},
        "ablation": {task: _doses(curve) for task, curve in profile.curves.items()},
        "unmatched": profile.unmatched,
        "aims": [aim._asdict() for aim in aims_of(spec, profile, total)],
    }


def summary(folder: Path, spec: NanoSpec | None = None) -> dict[str, str]:
    """The main facts of a model's folder, by name: with what its card found, if it has one."""
    facts = facts_of(folder)
    rows = {
        "architecture": f"{facts.architecture}, {facts.layers} layers × {facts.heads} heads",
        "key/value heads": f"{facts.kv_heads} a layer",
        "parameters": f"{facts.parameters:,}",
        "positions": str(facts.positions),
        "sha256": facts.checksum,
    }
    if spec is not None:
        rows |= {"trained context": str(spec.context), "command": command_of(spec)}
    return rows | (of_card(folder, _told) or {})


def _told(card: dict[str, Any]) -> dict[str, str]:
    """What a card found, by name."""
    return {
        "trained on": f"{card['tokens'] / 1e6:.1f} M tokens, {card['minutes']:g} minutes",
        **{row["skill"]: f"{_level(row)}, n = {row['n']}" for row in card["skills"] if row["by"] == "all"},
        "retrieval heads": ", ".join(card["heads"]) or "none",
        "aims NOT met": "; ".join(aim["aim"] for aim in card["aims"] if not aim["met"]) or "none",
    }


def zoo_table() -> str:
    """One row a trained model that ships, from its card, as Markdown; dashes where there is no card."""
    header = ["model", "heads", "parameters", *_TOLD.values(), f"heads ≥ {RETRIEVAL_THRESHOLD:g}", "without them"]
    rows = []
    for name, model in MODELS.items():
        if model.origin == "trained":
            folder = models_folder() / name
            facts = facts_of(folder)
            shape = [f"{facts.layers} × {facts.heads}", f"{facts.parameters / 1e6:.2f} M"]
            found = of_card(folder, _found) or ["–"] * (len(_TOLD) + 2)
            rows.append([f"`{name}`", *shape, *found])
    return _table(header, rows)


def _found(card: dict[str, Any]) -> list[str]:
    """The cells of a card's row: its skills, needles by length; its retrieval heads; recall without them."""
    cells = []
    for skill in _TOLD:
        asked = [row for row in card["skills"] if row["skill"] == skill]
        by_length = [f"{float(row['group']):g}: {_level(row)}" for row in asked if row["by"] == "length"]
        cells.append("<br>".join(by_length) or next((_level(row) for row in asked if row["by"] == "all"), "–"))
    without = [r for r in card["ablation"].get(NEEDLES, []) if r["heads"] == TOP and r["k"] == len(card["heads"])]
    return [*cells, str(len(card["heads"])), _level(without[0]) if without else "–"]


def command_of(spec: NanoSpec) -> str:
    """The command that trains this model."""
    return f"rhlens zoo train {spec.name} --out DIR" + (f" --base {spec.parent}" if spec.parent else "")


def _history(folder: Path) -> dict[str, Any]:
    """Tokens and minutes of training, and where the takeoff ended; empty for a model without a history."""
    path = folder / "history.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []
    if not rows:
        return {}
    last = rows[-1]
    tokens = last["takeoff_tokens"] + last["main_tokens"]
    return {"tokens": tokens, "minutes": round(last["seconds"] / 60, 1), "takeoff": last["takeoff_tokens"]}


def _curriculum(spec: NanoSpec, history: dict[str, Any]) -> list[str]:
    lines = []
    if spec.takeoff:
        tokens = history.get("takeoff", spec.takeoff.tokens)
        lines.append(
            f"{tokens / 1e6:.1f} M tokens of short random sequences repeated, contexts of {spec.takeoff.context}"
        )
    for stage in spec.stages:
        where = " that begin at any position" if spec.positions else ""
        lines.append(f"{stage.tokens / 1e6:.1f} M tokens of the mix, contexts of {stage.context}{where}")
    return lines


def _doses(curve: AblationCurve) -> list[dict[str, Any]]:
    rows = []
    for heads in (TOP, *curve.controls):
        for k in curve.ks if heads == TOP else [k for k in curve.ks if k]:
            matrix = curve.matrix(heads, k, "exact")
            level = _interval(curve.level(heads, k, "exact"))
            rows.append(
                {"heads": heads, "k": k, **level, "draws": len(matrix), "median": _short(np.median(matrix.mean(1)))}
            )
    return rows


def _interval(level: Interval) -> dict[str, Any]:
    return {"value": _short(level.value), "low": _short(level.low), "high": _short(level.high), "n": level.n}


def _rounded(row: dict[Any, Any], *names: str) -> dict[str, float]:
    return {name: _short(row[name]) for name in names}


def _short(number: Any) -> float:
    return round(float(number), 4)


def write_card(card: dict[str, Any], folder: Path) -> None:
    """Write `card.json`, and `README.md` as the Hugging Face hub shows it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", "utf-8")
    (folder / "README.md").write_text(render(card), "utf-8")


def render(card: dict[str, Any]) -> str:
    """The card as Markdown with front matter."""
    aims = [[aim["aim"], aim["found"], "met" if aim["met"] else "**NOT met**"] for aim in card["aims"]]
    parts = [
        _FRONT,
        f"# {card['name']}",
        _INTRODUCTION.format(**card),
        _table(["", ""], _identity(card)),
        "## Training",
        "\n".join(f"{i}. {line}" for i, line in enumerate(card["curriculum"], 1)) or "None: the weights are random.",
        "## Aims",
        _table(["aim", "found", ""], aims),
        "## Skills",
        _SKILLS,
        _skills(card),
        "## Retrieval heads",
        f"{len(card['heads'])} heads ({card['share']:.1%}) score at least {RETRIEVAL_THRESHOLD:g}.",
        *([_heads(card)] if card["heads"] else []),
        *(_ablation(card) if card["ablation"] else []),
    ]
    return "\n\n".join(parts) + "\n"


def _identity(card: dict[str, Any]) -> list[list[str]]:
    shared = "" if card["kv_heads"] == card["heads_per_layer"] else f", {card['kv_heads']} key/value heads"
    return [
        ["architecture", f"{card['architecture']}, {card['layers']} layers × {card['heads_per_layer']} heads{shared}"],
        ["parameters", f"{card['parameters']:,}"],
        *([["starts from", card["parent"]]] if card["parent"] else []),
        [
            "trained on",
            f"{card['tokens'] / 1e6:.1f} M tokens in {card['minutes']:g} minutes, {card['trained_context']} at once",
        ],
        ["command", f"`{card['command']}`"],
        ["sha256 of model.safetensors", f"`{card['checksum']}`"],
    ]


def _skills(card: dict[str, Any]) -> str:
    rows = [
        [f"**{r['skill']}**" if r["by"] == "all" else r["by"], r["group"], _level(r), str(r["n"])]
        for r in card["skills"]
    ]
    loss = card["loss"]
    told = (
        f"Loss on held-out filler: {_level(loss['model'], 3)} nats a token; a 5-gram model counted on "
        f"{loss['ngram_tokens']:,} tokens of it: {_level(loss['ngram'], 3)}."
    )
    return _table(["skill", "", "exactly right", "n"], rows) + "\n\n" + told


def _heads(card: dict[str, Any]) -> str:
    kinds = list(next(iter(card["activation_frequency"].values())))
    rows = [
        [head, f"{score:.2f}", *(f"{card['activation_frequency'][head][kind]:.2f}" for kind in kinds)]
        for head, score in card["heads"].items()
    ]
    note = "Retrieval score, and the share of trials of each kind in which the head copied something:"
    return f"{note}\n\n{_table(['head', 'score', *kinds], rows)}"


def _ablation(card: dict[str, Any]) -> list[str]:
    parts = [
        "## Without them\n\nAnswers exactly right with k heads' output set to zero, in the prompt and in the answer."
    ]
    for task, rows in card["ablation"].items():
        columns = [heads for heads in (TOP, RANDOM, MATCHED) if any(r["heads"] == heads for r in rows)]
        cells = {(r["heads"], r["k"]): r for r in rows}
        table = [
            [str(k), *(_level(cells[(TOP if k == 0 else heads, k)]) for heads in columns)]
            for k in sorted({r["k"] for r in rows})
        ]
        n, draws = rows[0]["n"], max(r["draws"] for r in rows)
        parts.append(f"**{task}** (n = {n}, {draws} draws of each control)\n\n" + _table(["k", *columns], table))
    if card["unmatched"]:
        parts.append(f"No layer-matched control everywhere: {card['unmatched']}.")
    return parts


def _level(row: dict[str, Any], digits: int = 2) -> str:
    return f"{row['value']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
