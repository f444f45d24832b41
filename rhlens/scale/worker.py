"""What runs in each process of a cluster: it loads the model once, and measures what it is given."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any, NamedTuple

from rhlens.results.share import Out, Unfinished

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Load = Callable[[], "TransformerBridge"]
Asked = tuple[Callable[..., Any], dict[str, Any]]
"""A verb, and its arguments beside model and run folder."""


class Ready(NamedTuple):
    """What a worker says of itself and its model."""

    machine: str
    process: int
    tokenizer: Any
    n_ctx: int | None
    name: str


class Worker:
    """A process with a model."""

    def ready(self, load: Load, threads: int) -> Ready:
        """Load the model, to be run on so many threads: Ray sees to it that torch takes one only."""
        self._model = load()
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
        cfg = self._model.cfg
        name, n_ctx = str(cfg.model_name), getattr(cfg, "n_ctx", None)
        return Ready(os.uname().nodename, os.getpid(), self._model.tokenizer, n_ctx, name)

    def measure(self, asked: Asked, out: Out, probe: str) -> Any:
        """The result of a verb; None if a share of it was asked, and others are not done.

        Raises:
            ValueError: the run folder is not that of the process that asks.
        """
        if not os.path.exists(probe):
            raise ValueError(
                f"the worker on {os.uname().nodename} does not see {Path(probe).parent}: choose a run folder on a "
                "file system that all machines share"
            )
        verb, arguments = asked
        try:
            return verb(self._model, **arguments, out=out)
        except Unfinished:
            return None


@contextmanager
def probe(folder: Path) -> Iterator[str]:
    """A file that is in a run folder while inside, for workers to look for.

    Raises:
        ValueError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = NamedTemporaryFile(dir=folder, prefix=".probe-")  # noqa: SIM115 (below)
    except OSError as error:
        why = error.strerror or error
        raise ValueError(f"cannot write to the run folder {folder} ({why}): choose another folder") from None
    with file:
        yield file.name
