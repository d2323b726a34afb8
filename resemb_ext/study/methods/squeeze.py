"""An embedding whose radius is set: items drawn toward their domain's mean, or away from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook


class SqueezedEmbedding(nn.Module):
    """E_i = m_g + gamma (V_i - m_g), m_g the mean of V over the items of i's domain g.

    ``restore`` scales V about its mean so that the total variance of E is what it was at the
    start: a small gamma then means a small radius against the same spread of the whole table. Items
    without a domain and the padding row 0 are looked up as they stand and count in no mean or variance.

    Args:
        weight: float [H, D], the start of V; row 0 is padding and stays zero.
        domain: int64 [H], negative where an item has none.
        gamma: at least 0; 1 is an ordinary table with its variance held.

    Raises:
        ValueError: shapes that do not fit, a negative gamma, no item with a domain, or domains of
            which each has one item, where gamma is 0 times nothing.
    """

    def __init__(self, weight: Tensor, domain: np.ndarray, gamma: float) -> None:
        super().__init__()
        if weight.ndim != 2 or len(weight) != len(domain):
            raise ValueError(
                f"domain must have one entry a row of weight, found {len(domain)} for shape {tuple(weight.shape)}"
            )
        if not (np.isfinite(gamma) and gamma >= 0):
            raise ValueError(f"gamma must be a finite number >= 0, found {gamma}")
        has = np.asarray(domain) >= 0
        has[0] = False
        rows = np.flatnonzero(has)
        groups, code, size = np.unique(domain[rows], return_inverse=True, return_counts=True)
        if not len(groups) or size.max() < 2:
            raise ValueError("domain: needs a domain of at least two items")
        self.gamma, self.embedding_dim, self.groups = gamma, weight.shape[1], len(groups)
        self.weight = nn.Parameter(weight.detach().clone())
        with torch.no_grad():
            self.weight[0].zero_()
        self.register_buffer("rows", torch.from_numpy(rows))
        self.register_buffer("code", torch.from_numpy(code))
        self.register_buffer("size", torch.from_numpy(size).to(weight.dtype)[:, None])
        start = self.weight.detach()[rows].var(0, correction=0).sum()
        self.register_buffer("variance", start)
        self.restore()

    def _squeezed(self) -> Tensor:
        """E of the items with a domain, [n, D]."""
        values = self.weight.index_select(0, self.get_buffer("rows"))
        code = self.get_buffer("code")
        total = values.new_zeros((self.groups, values.shape[1])).index_add(0, code, values)
        centre = (total / self.get_buffer("size")).index_select(0, code)
        return torch.lerp(centre, values, self.gamma)

    def table(self) -> Tensor:
        """E, [H, D]."""
        if self.gamma == 1:
            return self.weight
        return self.weight.index_copy(0, self.get_buffer("rows"), self._squeezed())

    def forward(self, ids: Tensor) -> Tensor:
        """ids [...] -> [..., D]."""
        return nn.functional.embedding(ids, self.table(), padding_idx=0)

    def bag(self, ids: Tensor, offsets: Tensor, mode: str = "mean") -> Tensor:
        """Bags of ids [P] that start at ``offsets`` [N] -> [N, D]; padding counts for nothing."""
        return nn.functional.embedding_bag(ids, self.table(), offsets, mode=mode, padding_idx=0)

    @torch.no_grad()
    def restore(self) -> None:
        """Scales V about its mean, so that the total variance of E is that of the start.

        Raises:
            ValueError: E has no variance that could be scaled.
        """
        rows = self.get_buffer("rows")
        values = self.weight.index_select(0, rows)
        mean = values.mean(0)
        values -= mean
        found = self._total_variance(values)
        if not found > 0:
            raise ValueError(f"the table's total variance is {found}: nothing to restore")
        scale = (float(self.get_buffer("variance")) / found) ** 0.5
        self.weight.index_copy_(0, rows, torch.add(mean, values, alpha=scale))

    def _total_variance(self, values: Tensor) -> float:
        """That of E where V is ``values`` about their mean: between domains, and gamma^2 times that inside."""
        total = float(torch.linalg.vector_norm(values)) ** 2
        total /= len(values)
        if self.gamma == 1:
            return total
        sums = values.new_zeros((self.groups, values.shape[1]))
        sums.index_add_(0, self.get_buffer("code"), values)
        between = float((sums.square_() / self.get_buffer("size")).sum()) / len(values)
        if between < 1e-12 * total:  # rounding alone
            between = 0.0
        return between + self.gamma**2 * (total - between)


@contextmanager
def after_each_step(parameter: nn.Parameter, act: Callable[[], None]) -> Iterator[None]:
    """Calls ``act`` after every step of an optimizer that holds ``parameter``."""

    def hook(optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        del args, kwargs
        if any(p is parameter for group in optimizer.param_groups for p in group["params"]):
            act()

    handle = register_optimizer_step_post_hook(hook)
    try:
        yield
    finally:
        handle.remove()
