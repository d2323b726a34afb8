"""What a lookup needs of the tables, numbered for a batch of its own, and what the other ranks need of this one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .deal import Deal
from .wire import Wire


@dataclass(frozen=True)
class Numbering:
    """Items of a batch with numbers 0, 1, ...: by owner, those looked up before others, then ascending.

    Attributes:
        items: int64 [L].
        looked_up: int64 [U], the numbers of the items that are looked up.
        neighbors: int64 [V], the numbers of those that are neighbours; None where all L are.
    """

    items: Tensor
    looked_up: Tensor
    neighbors: Tensor | None


class Slots:
    """A number for each of H items, of which a batch sets its own; int32 [H], used again and again."""

    def __init__(self, items: int, device: torch.device) -> None:
        self.of = torch.zeros(items, dtype=torch.int32, device=device)

    def number(self, ids: Tensor, neighbors: Tensor, deal: Deal) -> Numbering:
        """Numbers a batch; ``of`` then holds each item's number.

        Args:
            ids: int64 [U], ascending: the items looked up.
            neighbors: int64, ascending.
        """
        of = self.of
        of[ids] = 0
        of[neighbors] = 1
        both = of[ids] == 1
        of[ids] = 2
        others = neighbors[of[neighbors] == 1]
        items = torch.cat([ids, others])
        is_id = torch.ones(len(items), dtype=torch.bool, device=items.device)
        is_id[len(ids) :] = False
        order = torch.argsort(deal.owner(items) * 2 + ~is_id, stable=True)
        items = items[order]
        of[items] = torch.arange(len(items), dtype=torch.int32, device=items.device)
        whole = len(others) + int(both.sum()) == len(items)
        read = None if whole else torch.cat([both, is_id.new_ones(len(others))])[order].nonzero().squeeze(1)
        return Numbering(items, is_id[order].nonzero().squeeze(1), read)


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


def counts_of(items: Tensor, deal: Deal) -> Tensor:
    """int64 [W]: how many of some items lie with each rank."""
    return torch.bincount(deal.owner(items), minlength=deal.ranks)


def ask(wire: Wire, deal: Deal, lists: list[Tensor], send: Tensor, receive: Tensor) -> list[Requests]:
    """Sends each owner the rows that are wanted of it, and takes what others want.

    Args:
        lists: int64, items sorted by owner, one list a table.
        send: int64 [W, lists], how many of each list lie with each rank.
        receive: int64 [W, lists], how many each rank wants of this one.
    """
    # Rows at their owner are fewer than 2^31.
    wanted = [deal.place(items).to(torch.int32) for items in lists]
    if wire.ranks == 1:
        return [Requests([len(rows)], [len(rows)], rows.long()) for rows in wanted]
    sizes, sizes_in = send.tolist(), receive.tolist()
    parts = [rows.split([row[i] for row in sizes]) for i, rows in enumerate(wanted)]
    out = torch.cat([part[rank] for rank in range(wire.ranks) for part in parts])
    found = wire.to_all("ids", out, [sum(row) for row in sizes], [sum(row) for row in sizes_in])
    pieces = found.split([n for row in sizes_in for n in row])
    requests = []
    for i in range(len(lists)):
        served = torch.cat(pieces[i :: len(lists)]).long()
        requests.append(Requests([row[i] for row in sizes], [row[i] for row in sizes_in], served))
    return requests
