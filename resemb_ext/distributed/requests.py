"""What a lookup needs of the tables, numbered for a batch of its own, and what the other ranks need of this one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from resemb_ext.graph.extension import builder

from .deal import Deal
from .lists import Lists
from .wire import Wire


@dataclass(frozen=True)
class Numbering:
    """Items of a batch with numbers 0, 1, ...: by owner, those looked up before others.

    Apart, the numbers are those of the neighbours alone, and the items that are looked up have numbers of their own:
    rows of both tables then lie as they arrive.

    Attributes:
        items: int64 [L]; apart, [V], the neighbours.
        looked_up: int64 [U], ascending: the numbers of the items that are looked up.
        read: int64 [V], ascending: the numbers of those that are neighbours; None where all L are.
    """

    items: np.ndarray
    looked_up: np.ndarray
    read: np.ndarray | None
    apart: bool

    @property
    def height(self) -> int:
        """How many numbers there are, in either table."""
        return max(len(self.items), len(self.looked_up))

    @property
    def rows(self) -> np.ndarray | None:
        """int64 [U]: the numbers of the items that are looked up; None where these are 0 .. U - 1."""
        return None if self.apart or len(self.looked_up) == len(self.items) else self.looked_up

    @property
    def neighbors(self) -> np.ndarray:
        """int64 [V]: the items that are neighbours."""
        return self.items if self.read is None else self.items[self.read]


class Slots:
    """A number for each of H items, of which a batch sets its own; int32 [H], used again and again."""

    def __init__(self, items: int) -> None:
        self.of = np.zeros(items, np.int32)

    def number(self, ids: np.ndarray, lists: Lists | None, deal: Deal, apart: bool = False) -> Numbering:
        """Numbers a batch; ``of`` then holds the number of each item that is looked up.

        Args:
            ids: int64 [U], distinct, by owner: the items looked up.
            lists: of their neighbours, which become numbers in place; None for tables without a graph.
            apart: ids and neighbours have numbers of their own.
        """
        neighbors = np.empty(0, np.int32) if lists is None else lists.neighbors
        items, looked_up, read = builder.numbers(self.of, ids, neighbors, deal.ranks, apart)
        return Numbering(items, looked_up, read, apart)

    def numbers_of(self, ids: Tensor) -> Tensor:
        """int32: the numbers of ids."""
        return torch.from_numpy(self.of).index_select(0, ids.cpu()).to(ids.device)


@dataclass(frozen=True)
class Requests:
    """Rows of one table that ranks ask each other for.

    Attributes:
        send: how many rows this rank asks of each.
        receive: how many rows each asks of this one.
        served: int64 [sum of receive]: rows of this rank's own part that are asked for, by rank.
    """

    send: list[int]
    receive: list[int]
    served: Tensor


def by_owner(items: np.ndarray, deal: Deal) -> np.ndarray:
    """Items by owner, in their order otherwise."""
    return builder.by_owner(items, deal.ranks)[0]


def counts_of(lists: list[np.ndarray], deal: Deal) -> Tensor:
    """int64 [W, 2]: how many items of one or two lists lie with each rank."""
    counts = torch.zeros((deal.ranks, 2), dtype=torch.int64)
    for column, items in enumerate(lists):
        counts[:, column] = torch.from_numpy(np.bincount(items % deal.ranks, minlength=deal.ranks))
    return counts


def ask(wire: Wire, deal: Deal, lists: list[np.ndarray], send: Tensor, receive: Tensor) -> list[Requests]:
    """Sends each owner the rows that are wanted of it, and takes what others want.

    Args:
        lists: int64, items by owner, one list a table.
        send: int64 [W, lists], how many of each list lie with each rank.
        receive: int64 [W, lists], how many each rank wants of this one.
    """
    # Rows at their owner are fewer than 2^31.
    wanted = [torch.from_numpy((items // deal.ranks).astype(np.int32)).to(wire.device) for items in lists]
    if wire.ranks == 1:
        return [Requests([len(rows)], [len(rows)], rows.long()) for rows in wanted]
    sizes, sizes_in = send.tolist(), receive.tolist()
    parts = [rows.split([row[i] for row in sizes]) for i, rows in enumerate(wanted)]
    out = torch.cat([part[rank] for rank in range(wire.ranks) for part in parts])
    found = wire.to_all("ids", out, [sum(row) for row in sizes], [sum(row) for row in sizes_in])
    pieces = found.split([n for row in sizes_in for n in row[: len(lists)]])
    requests = []
    for i in range(len(lists)):
        served = torch.cat(pieces[i :: len(lists)]).long()
        requests.append(Requests([row[i] for row in sizes], [row[i] for row in sizes_in], served))
    return requests
