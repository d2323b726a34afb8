"""Which rank holds which row of a table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Deal:
    """Row i lies with rank i % ranks, as its row i // ranks.

    Ids are often ordered by popularity: ranges of them would give the most popular rows, and so most of the work,
    to rank 0. Dealt like cards, neighbours in that order lie with different ranks.

    Attributes:
        items: H, the rows of the whole table.
        ranks: W, the number of ranks.
        rank: this one.
    """

    items: int
    ranks: int
    rank: int

    def count_of(self, rank: int) -> int:
        """How many rows a rank holds."""
        return max(0, -(-(self.items - rank) // self.ranks))

    @cached_property
    def count(self) -> int:
        """How many rows this rank holds."""
        return self.count_of(self.rank)

    def rows(self) -> Tensor:
        """int64 [count]: the whole table's numbers of this rank's rows, ascending."""
        return torch.arange(self.count) * self.ranks + self.rank

    def own(self, table: Tensor) -> Tensor:
        """This rank's rows of a whole table [H, ...], a view."""
        return table[self.rank :: self.ranks]

    def owner(self, items: Tensor) -> Tensor:
        """The rank that holds each item's row."""
        return items % self.ranks

    def place(self, items: Tensor) -> Tensor:
        """The row of each item at its owner."""
        return torch.div(items, self.ranks, rounding_mode="floor")

    def own_place(self, item: int | None) -> int | None:
        """The row of an item where it lies with this rank."""
        return item // self.ranks if item is not None and item % self.ranks == self.rank else None
