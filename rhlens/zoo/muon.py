"""Muon: momentum whose update is made orthogonal (Jordan et al. 2024). It lets copying appear in minutes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

# Quintic whose iteration drives every singular value of a matrix towards 1.
_A, _B, _C = 3.4445, -4.7750, 2.0315


class Muon(torch.optim.Optimizer):
    """For matrices only; same-shaped ones are handled in one batch, since nano models have many small ones.

    Args:
        lr: step size, on the scale of an AdamW learning rate: updates have a root mean square of about .2 `lr`.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float = 0.006, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(list(params), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            batches: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                average = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                average.lerp_(matrix.grad, 1 - group["momentum"])
                batches[matrix.shape].append((matrix, matrix.grad.lerp(average, group["momentum"])))
            for (rows, columns), batch in batches.items():
                scale = 0.2 * max(rows, columns) ** 0.5
                for (matrix, _), update in zip(batch, orthogonal(torch.stack([u for _, u in batch])), strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """The orthogonal factor of each matrix, [batch, rows, columns], roughly: singular values land in .7 to 1.2."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = _A * x + (_B * square + _C * square @ square) @ x
    return x.mT if tall else x
