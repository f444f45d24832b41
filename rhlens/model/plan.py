"""In which order to read prompts, and which of them side by side, so that what they share is read once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

Tokens = Sequence[int]

WASTE = 0.05
"""Share of the tokens read side by side that may have been read before, for prompts not to be read alone."""


def n_common(a: Tokens, b: Tokens) -> int:
    """Tokens that `a` and `b` begin with alike."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


def walk(prompts: Sequence[Tokens]) -> list[int]:
    """The order of a walk through the prompts' tree: each shares more with the one before than with any earlier one.

    At each fork the branch with the most prompts comes last: prompts that leave a haystack at one place stay together.
    """
    ordered = sorted(range(len(prompts)), key=lambda i: tuple(prompts[i]))
    shared = [n_common(prompts[i], prompts[j]) for i, j in pairwise(ordered)]
    found: list[int] = []
    todo = [(0, len(ordered))] if ordered else []  # runs of `ordered`, each one branch
    while todo:
        first, end = todo.pop()
        if end - first == 1:
            found.append(ordered[first])
            continue
        fork = min(shared[first : end - 1])
        cuts = [first, *(i + 1 for i in range(first, end - 1) if shared[i] == fork), end]
        branches = pairwise(cuts)
        todo += sorted(branches, key=lambda run: (run[1] - run[0], len(prompts[ordered[run[0]]])), reverse=True)
    return found


def plan(prompts: Sequence[Tokens], most: Callable[[int], int]) -> list[list[int]]:
    """Groups of equally long prompts to be read one group after the other, the prompts of each side by side.

    Args:
        most: of a length, how many prompts fit side by side.
    """
    groups: list[list[int]] = []
    before = own = total = 0  # what the group's first prompt shares; where its prompts part; what the others share
    for i in walk(prompts):
        last, length = prompts[groups[-1][-1]] if groups else (), len(prompts[i])
        shared, rows = n_common(last, prompts[i]), len(groups[-1]) if groups else 0
        if rows and len(last) == length and rows < most(length):
            fork = min(own, shared)
            waste = total + shared - rows * fork + max(0, before - fork)
            if waste <= WASTE * (rows + 1) * (length - fork):
                groups[-1].append(i)
                own, total = fork, total + shared
                continue
        groups.append([i])
        before, own, total = shared, length, 0
    return groups
