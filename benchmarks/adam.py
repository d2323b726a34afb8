"""Lazy Adam in plain PyTorch on the touched rows, as a careful user writes it."""

from __future__ import annotations

import torch
from torch import Tensor


class LazyAdam:
    """The rule of resemb_ext.optim.Adam on (rows, gradient) of one table, index by index.

    Args:
        table: [H, D], changed in place.
        moments: exp_avg and exp_avg_sq, [H, D].
    """

    def __init__(
        self, table: Tensor, moments: tuple[Tensor, Tensor], lr: float, eps: float = 1e-8
    ) -> None:
        self.table, self.moments, self.lr, self.eps = table, moments, lr, eps
        self.step_count = 0

    @torch.no_grad()
    def step(self, rows: Tensor, gradient: Tensor) -> None:
        self.step_count += 1
        beta1, beta2 = 0.9, 0.999
        average, square = self.moments
        m = average[rows].lerp_(gradient, 1 - beta1)
        v = square[rows].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        average.index_copy_(0, rows, m)
        square.index_copy_(0, rows, v)
        scale = v.sqrt_().div_((1 - beta2**self.step_count) ** 0.5).add_(self.eps)
        rate = self.lr / (1 - beta1**self.step_count)
        self.table.index_copy_(0, rows, self.table[rows].addcdiv_(m, scale, value=-rate))
