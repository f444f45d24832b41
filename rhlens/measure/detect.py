"""Retrieval scores: which heads copy the answer from the needle while the model answers (Eq. 1)."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from rhlens.measure.copying import Alignment, alignment, copy_events, set_score, sum_score
from rhlens.measure.early_stop import check_early_stop, rounds, stability
from rhlens.measure.recall import judge
from rhlens.measure.workers import divisible
from rhlens.model.engine import Engine, Trace
from rhlens.model.identity import identity
from rhlens.model.memory import in_parts
from rhlens.model.plan import plan
from rhlens.model.prefix import Prefix
from rhlens.model.reading import PromptReader
from rhlens.results.scores import RECALL_GATE, HeadScores, Protocol, check_protocol
from rhlens.results.share import Out, Share
from rhlens.results.store import RunFolder, content_key
from rhlens.tasks.ask import Ask, Asked, told_apart
from rhlens.tasks.spelling import exact_decoder, fingerprint
from rhlens.tasks.trials import Trial

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

MAX_NEW_TOKENS = 50
"""The paper's limit on an answer, in tokens."""
BATCH_TOKENS = 8192
"""Prompt tokens decoded side by side: enough to fill two cores, little enough for a laptop's memory."""


@divisible
def detect(
    model: TransformerBridge,
    trials: Sequence[Trial],
    protocol: Protocol = "paper",
    max_new_tokens: int | None = None,
    out: Out | None = None,
    progress: bool | None = None,
    stop_when_stable: float | None = None,
    top: int | None = None,
) -> HeadScores:
    """Answer every trial greedily and score every head on what it copied from the needle.

    Failed trials stay, labelled; the result can be read under the other protocol with `.under`.

    Args:
        max_new_tokens: of an answer; None takes the paper's 50, or more where a needle's answer is longer.
        out: a run folder: finished trials are kept there, and are not run again; or a share of it.
        progress: show a progress bar; None shows it on a terminal only.
        stop_when_stable: a confidence, such as 0.95: ask about every needle in turn, and stop once each of the top
            heads stays one in this share of bootstrap resamples of the needles.
        top: how many top heads `stop_when_stable` looks at; None takes all retrieval heads.

    Raises:
        ValueError: no trials, an unknown protocol, `out` cannot be written to, or too few needles to tell stability.
        Unfinished: `out` is a share, and others are not done.
    """
    check_protocol(protocol)
    if not trials:
        raise ValueError("there are no trials to run")
    if stop_when_stable is not None:
        check_early_stop(stop_when_stable, trials)
        if isinstance(out, Share):
            raise ValueError(
                "when to stop depends on all answers so far, which none of several processes has: leave out "
                "stop_when_stable, or measure in one"
            )
    engine = Engine(model)
    trials = told_apart(trials)
    limit = max_new_tokens or answer_limit(trials)
    settings = asked(trials) | {"model": engine.name, "protocol": protocol, "max_new_tokens": limit} | engine.about
    store = RunFolder(out, "detect", settings) if out is not None else None
    run = _Run(engine, trials, protocol, limit, store)
    if len(run.pending) < len(run.own):
        print(f"{out}: {len(run.own) - len(run.pending)} of {len(run.own)} trials are there already", file=sys.stderr)
    with tqdm(total=len(run.pending), desc="detect", unit="trial", disable=bar_disabled(progress)) as bar:
        if stop_when_stable is not None:
            return run.until_stable(stop_when_stable, top, bar)
        run.ask(run.pending, bar)
    run.gather()
    scores = run.scores(trials)
    if hint := advice(scores):
        print(hint, file=sys.stderr)
    return scores


class _Run:
    """Trials and the records of those that were answered; with a store, none is answered twice."""

    def __init__(
        self, engine: Engine, trials: Sequence[Trial], protocol: Protocol, limit: int, store: RunFolder | None
    ) -> None:
        self._engine, self._trials, self._limit = engine, trials, limit
        self._protocol: Protocol = protocol
        self._store, self._records = store, dict(store.records) if store else {}
        model = identity(engine) if store else ""
        self._keys = {t: content_key("trace", model, limit, *_read_as(t)) for t in trials}
        in_order = [trial for batch in batches(trials) for trial in batch] if store and store.share else trials
        self.own = store.mine(in_order) if store else trials
        self.pending = [trial for trial in self.own if self._keys[trial] not in self._records]

    def ask(self, trials: Sequence[Trial], bar: tqdm[Any]) -> None:
        """Answer those of `trials` that were not yet."""
        todo = [trial for trial in trials if self._keys[trial] not in self._records]
        for trial, trace in answers_of(self._engine, todo, self._limit):
            key = self._keys[trial]
            record = _record(self._engine, trial, trace)
            self._records[key] = self._store.append(key, record) if self._store else record
            bar.update()

    def gather(self) -> None:
        """Take in what other processes answered."""
        if self._store:
            self._records |= self._store.finished(self._keys.values())

    def scores(self, trials: Sequence[Trial]) -> HeadScores:
        """Scores on `trials`, all of them answered."""
        records = [self._records[self._keys[trial]] for trial in trials]
        return _scores(records, trials, self._engine, self._engine.name, self._protocol)

    def until_stable(self, confidence: float, top: int | None, bar: tqdm[Any]) -> HeadScores:
        """Scores on as many rounds of trials as it takes; says what was saved."""
        done: set[int] = set()
        n, scores = len(self._trials), None
        for group in rounds(self._trials):
            self.ask(group, bar)
            done |= {trial.index for trial in group}
            scores = self.scores([trial for trial in self._trials if trial.index in done])
            if len(done) < n and (sure := stability(scores, top)) >= confidence:
                heads = f"top {top} heads" if top else f"{len(scores.retrieval_heads())} retrieval heads"
                print(
                    f"stopped after {len(done)} of {n} trials, {n - len(done)} saved: each of the {heads} stays one in "
                    f"{sure:.0%} of resamples of the needles or more",
                    file=sys.stderr,
                )
                break
        assert scores is not None
        return scores


def _read_as(trial: Trial) -> tuple[Any, ...]:
    """What of a trial its record depends on."""
    alike, turn = trial.is_spelled_alike, vars(trial.turn)
    return trial.tokens, trial.answer_span, trial.needle.answer, turn, () if alike else trial.needle_chars


def asked(asks: Sequence[Ask]) -> dict[str, Any]:
    """What a run was asked, for its config file."""
    labels = [ask.labels for ask in asks]
    found = {"lengths": "length", "depths": "depth", "needles": "needle"}
    lists = {name: list(dict.fromkeys(row[key] for row in labels if key in row)) for name, key in found.items()}
    forms = list(dict.fromkeys(ask.form for ask in asks if isinstance(ask, Trial)))
    about = [form.about for form in forms]
    return {"trials": len(asks), **lists} | ({"forms": about} if any(about) else {})


def answer_limit(asks: Sequence[Ask]) -> int:
    """Tokens an answer may have: the paper's 50, or as many as the longest right answer and a few more."""
    return max(MAX_NEW_TOKENS, 10 + max(len(ask.reply) for ask in asks))


def batches(asks: Iterable[Asked]) -> Iterator[list[Asked]]:
    """Prompts of equal length side by side, about `BATCH_TOKENS` prompt tokens at a time.

    They come in the order in which a `PromptReader` has least to read.
    """
    asks = list(asks)
    for group in plan([ask.tokens for ask in asks], lambda length: max(1, BATCH_TOKENS // length)):
        yield [asks[i] for i in group]


def advice(scores: HeadScores) -> str | None:
    """What to try where few answers are right, in a sentence; None where that is not so."""
    trials, n = scores.trials, len(scores.trials)
    ended, empty = (trials[name].to_numpy() for name in ("ended", "output"))
    reasoning, at_once = np.sum(ended == "reasoning limit"), np.sum((empty == "") & (ended == "end of turn"))
    if 2 * reasoning >= n:
        return (
            f"{reasoning} of {n} answers were never begun, since the model was still reasoning: give more "
            "max_reasoning_tokens, or tell its template to reason less (chat_template_kwargs)"
        )
    if 2 * at_once >= n:
        return (
            f"{at_once} of {n} answers are empty, since the model ended its turn at once: let it go on with the "
            f"needle's own words (restate), or ask a chat model in chat; rhlens check {scores.model} tries the forms"
        )
    recall = float(trials["recall"].to_numpy().mean())
    if recall < RECALL_GATE:
        return (
            f"recall is {recall:.2f}, so scores tell of failures, too: rhlens check {scores.model} (rh.check(model)) "
            "tries other forms of prompt"
        )
    return None


def expect(prefix: Prefix, asks: Sequence[Ask]) -> Prefix:
    """`prefix`, told what a right answer to each of its asks is and how answers are read."""
    prefix.guesses, prefix.turns = [ask.draft for ask in asks], [ask.turn for ask in asks]
    return prefix


def check_asks(engine: Engine, asks: Sequence[Ask]) -> None:
    """Raise ValueError unless the model's own tokenizer wrote them: other ids would be other words."""
    own = fingerprint(engine.tokenizer)
    if strange := [ask for ask in asks if ask.tokenizer not in ("", own)]:
        raise ValueError(
            f"{len(strange)} of {len(asks)} trials were written with another tokenizer than this model's: make them "
            "with this model, as in rh.niah(model, ...)"
        )


def answers_of(engine: Engine, asks: Sequence[Asked], limit: int) -> Iterator[tuple[Asked, Trace]]:
    """Every ask with its greedy answer of at most `limit` tokens, in the order of `batches`."""
    reader = PromptReader(engine)
    check_asks(engine, asks)

    def answered(part: Sequence[Asked]) -> list[Trace]:
        return engine.decode(expect(reader.read([ask.tokens for ask in part]), part), limit)

    for batch in batches(asks):
        for part, traces in in_parts(batch, answered, engine.rows_at_once(batch[0].length)):
            yield from zip(part, traces, strict=True)


def _record(engine: Engine, trial: Trial, trace: Trace) -> dict[str, Any]:
    """What is kept of a trial: its output, and every copy event as [step, layer, head, position, weight]."""
    aligned = alignment(trial, trace.tokens.tolist(), exact_decoder(engine.tokenizer))
    return {
        "tokens": trace.tokens.tolist(),
        "copies": [
            [int(s), int(layer), int(h), int(trace.position[s, layer, h]), round(float(trace.weight[s, layer, h]), 6)]
            for s, layer, h in np.argwhere(copy_events(trace, trial, aligned))
        ],
        "aligned": [[step, *span] for step, spans in aligned.items() for span in spans],
        "output": trace.output,
        "ended": trace.ended,
        "reasoning": len(trace.tokens) - int(trace.answering.sum()) if trace.answering is not None else 0,
    }


def _scores(
    records: list[dict[str, Any]], trials: Sequence[Trial], engine: Engine, name: str, protocol: Protocol
) -> HeadScores:
    """Both scores of every trial, rebuilt from the copy events."""
    sets, sums, copies, rows = [], [], [], []
    for i, (record, trial) in enumerate(zip(records, trials, strict=True)):
        tokens = np.asarray(record["tokens"], dtype=np.int64)
        events = np.zeros((len(tokens), engine.n_layers, engine.n_heads), dtype=bool)
        by_id, position = events.copy(), np.zeros(events.shape, dtype=np.int64)
        for step, layer, head, at, _ in record["copies"]:
            events[step, layer, head], position[step, layer, head] = True, at
            by_id[step, layer, head] = trial.tokens[at] == tokens[step]
            copies.append((i, step, layer, head, at - trial.answer_span[0]))
        aligned: Alignment = {}
        for step, first, last in record["aligned"]:
            aligned.setdefault(step, []).append((first, last))
        sets.append(set_score(events, tokens, trial, aligned, position))
        sums.append(sum_score(by_id, trial))
        about = {"answer_tokens": len(trial.answer_tokens)} | judge(trial, record["output"])
        rows.append(trial.labels | about | {"ended": record["ended"], "reasoning_tokens": record["reasoning"]})
    return HeadScores(
        np.stack(sets),
        np.stack(sums),
        pd.DataFrame(rows),
        name,
        protocol,
        run=engine.about,
        copies=np.array(copies, dtype=np.int32).reshape(-1, 5),
    )


def bar_disabled(progress: bool | None) -> bool | None:
    """tqdm's `disable`: None hides the bar where stderr is no terminal."""
    return None if progress is None else not progress
