"""The forms in which other projects publish what they found of heads: text in, results out.

Every function raises ValueError with a part of a sentence that says what is wrong; `read_scores` puts the path before.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import yaml

from rhlens.results.files import parse_json
from rhlens.results.head_tables import HeadList, KVHeadScores
from rhlens.results.heads import Head
from rhlens.results.score_file import MAX_SCORE
from rhlens.results.scores import HeadScores

HEADS_KEY = "attn_head_set"
MAX_YAML = 2**16  # characters: PyYAML takes a second for them, and a list of all heads of a 70B model has 40,000
MAX_NAME = 16  # characters of a head's name


def trial_scores(text: str, model: str) -> HeadScores:
    """Wu 2024, HeadKV and DeCoRe: JSON `{"layer-head": [score per trial]}`, sums of the trials that passed the gate.

    The trials carry no labels: they are read as `protocol="wu2024"`, gated already.
    """
    entries = parse_json(text)
    if not isinstance(entries, dict):
        raise ValueError('it is no object {"layer-head": [score per trial]}')
    heads = _heads(entries)
    n_layers, n_heads = (1 + max(numbers) for numbers in zip(*heads, strict=True))
    lists = [entries[name] for _, name in sorted(zip(heads, entries, strict=True))]
    lengths = {len(scores) if isinstance(scores, list) else -1 for scores in lists}
    if lengths == {0}:
        raise ValueError("it holds no trial: no answer passed its recall gate when it was written")
    if len(lists) != n_layers * n_heads or len(lengths) != 1 or lengths == {-1}:
        raise ValueError("it does not list every head of a model with equally many trials")
    if any(type(score) not in (int, float) for scores in lists for score in scores):
        raise ValueError("it holds scores that are not numbers")
    sums = _bounded(lists).T.reshape(-1, n_layers, n_heads)
    if (sums < 0).any():
        raise ValueError("it holds scores below 0")
    trials = pd.DataFrame({"trial": np.arange(len(sums))})
    return HeadScores(None, sums, trials, model=model, protocol="wu2024", gated=True)


def kv_head_scores(text: str, model: str) -> KVHeadScores:
    """DuoAttention: a table with one row a layer and one column a key-value head, between tabs."""
    lines = text.rstrip("\r\n").split("\n")
    if not all(line.strip() for line in lines):
        raise ValueError("it has an empty line, where a layer should be")
    return KVHeadScores(_bounded(np.loadtxt(io.StringIO(text), delimiter="\t", comments=None, ndmin=2)), model)


def head_list(text: str, model: str) -> HeadList:
    """QRHead: YAML whose `attn_head_set` names heads as layer-head, most important first."""
    if len(text) > MAX_YAML:
        raise ValueError(f"it has more than {MAX_YAML} characters, too many for a list of heads")
    try:
        _check_events(text)
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"it is no YAML: {error}") from None
    except (LookupError, TypeError, AttributeError, RecursionError):  # as PyYAML meets values that their tags forbid
        raise ValueError("it is no YAML that can be read") from None
    names = config.get(HEADS_KEY) if isinstance(config, dict) else None
    if not isinstance(names, str) or not names.strip():
        raise ValueError(f"it has no {HEADS_KEY}: with heads like 13-18,8-11")
    named = config.get("model_base_class")
    return HeadList(tuple(_heads(names.split(","))), named if isinstance(named, str) and named.isprintable() else model)


def _heads(names: Iterable[str]) -> list[Head]:
    """The heads that are named, each once."""
    names = list(names)
    if not names:
        raise ValueError("it holds no head")
    if long := [name for name in names if len(name) > MAX_NAME]:
        raise ValueError(f"{long[0][:MAX_NAME]!r}... names no head: write it like 16-19")
    heads = [Head.parse(name) for name in names]
    if len(set(heads)) < len(heads):
        raise ValueError("it names a head twice")
    return heads


def _bounded(values: Any) -> np.ndarray:
    """Numbers as an array, none of them beyond what a score can be."""
    try:
        found = np.asarray(values, dtype=np.float64)
    except OverflowError:
        found = np.array(np.inf)
    if not (np.abs(found) <= MAX_SCORE).all():  # nan is not, either
        raise ValueError(f"it holds scores that are not finite or beyond {MAX_SCORE:g}")
    return found


def _check_events(text: str) -> None:
    """Refuse, before anything is built of it, what a list of heads has no use for and a hostile file has."""
    depth = named = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        named += isinstance(event, yaml.ScalarEvent) and event.value == HEADS_KEY
        if isinstance(event, yaml.AliasEvent) or depth > 4:
            raise ValueError("it has aliases or deep nesting, which a list of heads does not need")
    if named > 1:
        raise ValueError(f"it has {HEADS_KEY} twice")
