"""How much fits side by side: chosen from the memory that is free, and halved where that was too much."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

SHARE = 0.5
"""Of the free memory, what one batch may be planned to take: an estimate, and others want some too."""

_WORDS = (
    "DefaultCPUAllocator: ",
    "Cannot allocate memory",
    "std::bad_alloc",
    "ALLOC_FAILED",
    "MPS backend out of memory",
)


class OutOfMemoryError(RuntimeError):
    """Not even one row fits."""


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had on `device`."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():  # free pages alone would leave out the disk cache, which gives way
        return next(int(line.split()[1]) << 10 for line in meminfo.open() if line.startswith("MemAvailable"))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def rows_that_fit(bytes_a_row: int, devices: Sequence[torch.device]) -> int:
    """Rows of a batch that the free memory of each of `devices` is enough for; at least one."""
    return max(1, int(SHARE * min(map(free_bytes, devices))) // bytes_a_row)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; only that of a GPU has a type of its own in PyTorch."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError | OutOfMemoryError) or (
        isinstance(error, RuntimeError | OSError) and any(words in str(error) for words in _WORDS)
    )


def out_of_memory(doing: str = "") -> OutOfMemoryError:
    """The error to end with."""
    return OutOfMemoryError(
        f"out of memory{doing} ({free_bytes(torch.device('cpu')) >> 20} MB of main memory free): "
        "use shorter prompts, a smaller model, or dtype='bfloat16'"
    )


def make_room(n_rows: int) -> None:
    """Give back what can be, before `n_rows` rows are tried instead.

    Raises:
        OutOfMemoryError: no row is left to be tried.
    """
    if n_rows < 1:
        raise out_of_memory(" with a single prompt")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def in_parts(
    items: Sequence[Item], run: Callable[[Sequence[Item]], Result], most: int | None = None
) -> Iterator[tuple[Sequence[Item], Result]]:
    """Results of `run` on parts of `items`, in order: `most` at a time, and half as many whenever memory runs out.

    Raises:
        OutOfMemoryError: a single item is too much.
    """
    size = most or len(items)
    while items:
        part = items[:size]
        try:
            result = run(part)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            size = len(part) // 2
        else:
            yield part, result
            items = items[len(part) :]
            continue
        make_room(size)
