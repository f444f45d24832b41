"""Workers on Ray: actors that load a model once and measure shares of a run, wherever the cluster has room.

They meet in the run folder, so what a worker had finished when it died is not lost, and what it had not is another's.
"""

from __future__ import annotations

import inspect
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar

from tqdm import tqdm

from rhlens.measure.detect import bar_disabled
from rhlens.measure.workers import Workers
from rhlens.results.files import brief
from rhlens.results.share import Out, Share
from rhlens.scale.cluster import connect, disconnect
from rhlens.scale.worker import Load, Worker, probe

Result = TypeVar("Result")

SHARES = 4
"""Shares a worker: few enough to cost little, and enough that nobody waits long for the slowest."""
LOSSES = 3
"""Times that one share, or the loading of a model, may lose its worker: something is then wrong with it."""
CLAIM = 0.01
"""CPUs that a worker asks of the cluster: next to none, so that the workers of several models fit side by side."""
PATIENCE = 600
"""Seconds to wait for a worker while there is none."""


def ray_workers(
    model: str | Path | Load,
    workers: int | None = None,
    address: str | None = None,
    num_gpus: float | None = None,
    **options: Any,
) -> RayWorkers:
    """Workers on Ray that stand in for a model: `with rh.ray_workers("nano-llama", 2) as model: rh.detect(model, ...)`.

    Verbs then need `out`, a folder that all machines see. Several models may have workers at once.

    Args:
        model: what `rh.load` takes as a name, or a function that loads a model.
        workers: how many; None takes one for every `num_gpus` GPUs of the cluster or, without any, one a machine.
        address: of a running cluster (`auto` finds one here); None takes RAY_ADDRESS, or starts Ray on this machine.
        num_gpus: of each worker; None takes one if there are any.
        options: of `rh.load`, as `dtype`.

    Raises:
        ValueError: Ray is not installed, no cluster answers at this address, or no worker is asked for.
        LoadError: as `rh.load`.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be 1 or more, not {workers}")
    if isinstance(model, str | Path):
        from rhlens.model.load import load
        from rhlens.zoo.registry import MODELS

        here = os.path.isdir(model) and str(model) not in MODELS
        model = partial(load, Path(model).absolute() if here else model, quiet=True, **options)
    elif options:
        raise ValueError(f"give {', '.join(options)} to the function that loads the model, not to its workers")
    return RayWorkers(model, workers, address, num_gpus, on_cpu=options.get("device") == "cpu")


class Lost(NamedTuple):
    """In place of a result: its worker died."""

    why: str


class RayWorkers(Workers):
    """See `ray_workers`.

    Attributes:
        tokenizer: the model's, so that trials are made for workers as for a model.
        cfg: with the model's `n_ctx` and `model_name`.
        processes: machine and process id of every worker that has loaded the model.
    """

    def __init__(self, load: Load, n: int | None, address: str | None, num_gpus: float | None, on_cpu: bool) -> None:
        self._ray, self._load, self._open = connect(address), load, True
        there = self._ray.cluster_resources()
        gpus, cpus = there.get("GPU", 0), there.get("CPU", 1)
        each = num_gpus if num_gpus is not None else float(gpus >= 1 and not on_cpu)
        machines = sum(node["Alive"] for node in self._ray.nodes())
        self.n = n or max(1, int(gpus // each) if each else machines)
        limit = os.environ.get("OMP_NUM_THREADS", "")
        self._threads = int(limit) if limit.isdecimal() else max(1, int(cpus // self.n))
        claim: dict[str, Any] = {"num_gpus": each, "num_cpus": CLAIM, "scheduling_strategy": "SPREAD"}
        self._kind = self._ray.remote(Worker).options(**claim)
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._n_lost_loading = 0
        self.processes: dict[Any, tuple[str, int]] = {}
        try:
            for _ in range(self.n):
                self._start()
            while not self._idle:
                self._started(self._first_of([]))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, and Ray if it was started for them."""
        if self._open:
            for actor in [*self._starting.values(), *self.processes]:
                self._ray.kill(actor)
            self._open = False
            disconnect(self._ray)

    def run(self, verb: Callable[..., Result], *args: Any, **options: Any) -> Result:
        """What `verb` gives, measured in shares; one worker gathers it, which then finds all records in the folder.

        Raises:
            ValueError: there is no `out`, or workers do not see it.
            RuntimeError: a share lost its worker again and again, or there is none.
        """
        arguments = inspect.signature(verb).bind(None, *args, **options).arguments
        out, _ = arguments.pop("out", None), arguments.pop("model")
        if out is None or isinstance(out, Share):
            raise ValueError("workers meet in a run folder: give one as out, on a file system that all machines share")
        if not self._open:
            raise ValueError("these workers were sent home: take others with rh.ray_workers")
        hidden, folder, n = bar_disabled(arguments.get("progress")), Path(out).absolute(), SHARES * self.n
        asked = self._ray.put((verb, arguments | {"progress": False}))
        with probe(folder) as seen, tqdm(total=n, desc=verb.__name__, unit="share", disable=hidden) as bar:
            self._all([Share(folder, i + 1, n) for i in range(n)], asked, seen, bar.update)
            [result] = self._all([folder], asked, seen, lambda: None)
        return result

    def _all(self, outs: Sequence[Out], asked: Any, seen: str, done: Callable[[], Any]) -> list[Any]:
        """What workers give for each of `outs`, in any order; a worker that dies is replaced."""
        todo, found, losses = deque(outs), [], Counter[Out]()
        running: dict[Any, tuple[Any, Out]] = {}
        try:
            while todo or running:
                while todo and self._idle:
                    actor, out = self._idle.pop(), todo.popleft()
                    running[actor.measure.remote(asked, out, seen)] = actor, out
                ref = self._first_of(list(running))
                if ref in self._starting:
                    self._started(ref)
                    continue
                actor, out = running[ref]
                got = self._got(ref, actor)
                del running[ref]
                if isinstance(got, Lost):
                    losses[out] += 1
                    self._check(losses[out], f"{out}, lost its worker {{}} times ({got.why}): what is finished is kept")
                    todo.appendleft(out)
                    self._start()
                    continue
                found.append(got)
                self._idle.append(actor)
                done()
        finally:
            self._idle += [actor for actor, _ in running.values()]
        return found

    def _start(self) -> None:
        actor = self._kind.remote()
        self._starting[actor.ready.remote(self._load, self._threads)] = actor

    def _started(self, ref: Any) -> None:
        """A worker is ready, or died of it."""
        actor = self._starting.pop(ref)
        ready = self._got(ref, actor)
        if isinstance(ready, Lost):
            self._n_lost_loading += 1
            self._check(self._n_lost_loading, f"{{}} workers died as they loaded the model ({ready.why}): does it fit?")
            self._start()
            return
        self.tokenizer, self.cfg = ready.tokenizer, SimpleNamespace(n_ctx=ready.n_ctx, model_name=ready.name)
        self.processes[actor] = ready.machine, ready.process
        self._idle.append(actor)

    def _first_of(self, running: list[Any]) -> Any:
        """Of all that runs, and of workers that start, the first to end."""
        deadline = time.monotonic() + PATIENCE
        while running or time.monotonic() < deadline:
            ended, _ = self._ray.wait([*running, *self._starting], timeout=1)  # Ctrl-C is heard in between
            if ended:
                return ended[0]
        raise RuntimeError(f"no worker came up in {PATIENCE} s, for lack of room: ask for fewer, or smaller ones")

    def _got(self, ref: Any, actor: Any) -> Any:
        """What a worker gave; raises what it raised."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(ref)
        except errors.RayTaskError as error:
            raise error.cause from None
        except errors.RayError as error:
            place = "{} process {}".format(*self.processes.pop(actor, ("a machine,", "unknown")))
            print(f"a worker died ({place}): another one takes over", file=sys.stderr)
            with suppress(errors.RayError):
                self._ray.kill(actor)
            return Lost(brief(error))

    def _check(self, n_lost: int, sentence: str) -> None:
        if n_lost >= LOSSES:
            raise RuntimeError(sentence.format(n_lost))
