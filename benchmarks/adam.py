"""Lazy Adam in plain PyTorch on the touched rows, as a careful user writes it."""

from __future__ import annotations

import torch
from torch import Tensor

BETAS = (0.9, 0.999)


def _update(
    table: Tensor,
    average: Tensor,
    square: Tensor,
    rows: Tensor,
    gradient: Tensor,
    rate: Tensor,
    root: Tensor,
    eps: float,
) -> None:
    """The rule in one expression, for torch.compile to fuse; rate and root are 0-D, lest they specialise."""
    m = torch.lerp(average[rows], gradient, 1 - BETAS[0])
    v = square[rows] * BETAS[1] + gradient * gradient * (1 - BETAS[1])
    average.index_copy_(0, rows, m)
    square.index_copy_(0, rows, v)
    table.index_copy_(0, rows, table[rows] - rate * m / (v.sqrt() / root + eps))


class LazyAdam:
    """The rule of resemb_ext.optim.Adam on (rows, gradient) of one table, index by index.

    Args:
        table: [H, D], changed in place.
        moments: exp_avg and exp_avg_sq, [H, D].
        compiled: under torch.compile, for any number of rows.
    """

    def __init__(
        self, table: Tensor, moments: tuple[Tensor, Tensor], lr: float, eps: float = 1e-8, compiled: bool = False
    ) -> None:
        self.table, self.moments, self.lr, self.eps = table, moments, lr, eps
        self.step_count = 0
        self.update = torch.compile(_update, fullgraph=True, dynamic=True) if compiled else None

    @torch.no_grad()
    def step(self, rows: Tensor, gradient: Tensor) -> None:
        self.step_count += 1
        average, square = self.moments
        root = (1 - BETAS[1] ** self.step_count) ** 0.5
        rate = self.lr / (1 - BETAS[0] ** self.step_count)
        if self.update is not None:
            table = self.table.detach()
            scalars = torch.tensor(rate), torch.tensor(root)
            self.update(table, average, square, rows, gradient, *scalars, self.eps)
            return
        m = average[rows].lerp_(gradient, 1 - BETAS[0])
        v = square[rows].mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        average.index_copy_(0, rows, m)
        square.index_copy_(0, rows, v)
        scale = v.sqrt_().div_(root).add_(self.eps)
        self.table.index_copy_(0, rows, self.table[rows].addcdiv_(m, scale, value=-rate))
