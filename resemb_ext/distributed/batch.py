"""A batch with small tables and a small graph of its own, of which every row has come from its owner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resemb_ext._bags import Bags
from resemb_ext._ownership import distinct_items

from .deal import Deal
from .fetch import Trip, Wanted, fetch
from .lists import Graph, Lists, from_owners
from .requests import Numbering, Requests, Slots, ask, counts_of
from .wire import Wire


@dataclass(frozen=True)
class Batch:
    """What the operators take in place of whole tables and the whole graph.

    Attributes:
        ids: int32 [P], the batch's numbers of the ids.
        padding: the number of padding.
        tables: [L + 1, D] each: R, or C and R. Rows that the batch does not read are not set.
        indptr, neighbors, weights: CSR arrays over L + 1 rows.
    """

    ids: Tensor
    padding: int
    tables: tuple[Tensor, ...]
    indptr: Tensor
    neighbors: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Source:
    """Dealt tables of one module, and its graph.

    Attributes:
        wire, deal, slots: how ranks meet, who holds what, and room for numbers.
        number: of the module, the same on all ranks.
        graph: of all items or of this rank's; None without one.
        graph_is_dealt: owners send their items' lists.
        padding_idx: an item whose positions take no gradient, or None.
        keep_padding: R's row of padding is read all the same.
        dtype: in which rows and gradients travel; see ``fetch.Trip``.
    """

    wire: Wire
    deal: Deal
    slots: Slots
    number: int
    graph: Graph | None
    graph_is_dealt: bool
    padding_idx: int | None
    keep_padding: bool
    dtype: torch.dtype | None

    def batch(
        self,
        positions: Callable[[], Bags],
        tables: tuple[nn.Parameter, ...],
        sparse: bool,
        before_read: Callable[..., None],
    ) -> tuple[Bags, Batch]:
        """Brings all that a batch reads.

        Args:
            positions: gives the ids and checks them.
            tables: this rank's parts of R, or of C and R.
            sparse: their gradients are sparse.
            before_read: is given a function for each table, which gives the rows of this rank's part that are about to
                be read, int64, ascending, distinct.

        Raises:
            TypeError, ValueError, IndexError: what ``positions`` raises, or an id out of range.
            RuntimeError: another rank has raised; it names the rank.
        """
        wire, deal = self.wire, self.deal
        learns = torch.is_grad_enabled() and any(table.requires_grad for table in tables)
        call = 4 * self.number + learns
        try:
            bags = positions()
            ids, pads = self._distinct(bags.ids)
            lists = None if self.graph is None or self.graph_is_dealt else self.graph.lists(ids)
            numbering = None if lists is None else self._number(ids, lists)
            first = [ids] if numbering is None else [ids, _neighbors(numbering)]
            counts = self._counts(first)
        except (TypeError, ValueError, IndexError) as error:
            wire.refuse(error, columns=2)
            raise
        others = wire.agree(call, counts)
        requests = ask(wire, deal, first, counts, others)
        if numbering is None:
            if self.graph is not None:
                lists = from_owners(wire, self.graph, requests[0])
            numbering = self._number(ids, lists)
            if lists is not None:
                second = [_neighbors(numbering)]
                counts = self._counts(second)
                requests += ask(wire, deal, second, counts, wire.agree(call + 2, counts))
        served = [request.served for request in reversed(requests)]
        before_read(*(_rows_of(rows, deal.count) for rows in served))
        height = len(numbering.items) + 1
        trip = Trip(wire, self.dtype, sparse, height)
        local_padding = height - 1
        if self.padding_idx is not None:
            if pads:
                local_padding = int(self.slots.of[self.padding_idx])
            else:
                self.slots.of[self.padding_idx] = local_padding
        found = fetch(trip, self._wanted(requests, numbering, pads), tables)
        indptr, neighbors, weights = self._graph_of(numbering, lists, height, found[-1])
        numbers = self.slots.of.index_select(0, bags.ids)
        return bags, Batch(numbers, local_padding, found, indptr, neighbors, weights)

    def _distinct(self, ids: Tensor) -> tuple[Tensor, bool]:
        """The items to fetch, by owner and then ascending; whether padding is among them."""
        found = distinct_items(ids, self.deal.items)
        pads = False
        if self.padding_idx is not None:
            is_padding = found == self.padding_idx
            pads = self.keep_padding and bool(is_padding.any())
            if not pads:
                found = found[~is_padding]
        return found[torch.argsort(self.deal.owner(found), stable=True)], pads

    def _number(self, ids: Tensor, lists: Lists | None) -> Numbering:
        neighbors = ids[:0] if lists is None else distinct_items(lists.neighbors, self.deal.items)
        return self.slots.number(ids, neighbors, self.deal)

    def _counts(self, lists: list[Tensor]) -> Tensor:
        """int64 [W, 2]: how many rows of one or two tables are wanted of each rank."""
        counts = torch.zeros((self.deal.ranks, 2), dtype=torch.int64, device=self.slots.of.device)
        for column, items in enumerate(lists):
            counts[:, column] = counts_of(items, self.deal)
        return counts

    def _wanted(self, requests: list[Requests], numbering: Numbering, pads: bool) -> list[Wanted]:
        all_looked_up = len(numbering.looked_up) == len(numbering.items)
        places = None if all_looked_up else numbering.looked_up
        kept = self.deal.own_place(self.padding_idx) if self.keep_padding else None
        wanted = [Wanted(requests[0], places, kept)]
        if len(requests) > 1:
            wanted.insert(0, Wanted(requests[1], numbering.neighbors))
        return wanted

    def _graph_of(
        self, numbering: Numbering, lists: Lists | None, height: int, like: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        indptr = torch.zeros(height + 1, dtype=torch.int64, device=like.device)
        if lists is None:
            return indptr, indptr.new_zeros(0, dtype=torch.int32), like.new_zeros(0, dtype=torch.float32)
        indptr[1:].index_copy_(0, numbering.looked_up, lists.lengths)
        return indptr.cumsum_(0), self.slots.of.index_select(0, lists.neighbors), lists.weights


def _neighbors(numbering: Numbering) -> Tensor:
    items = numbering.items
    return items if numbering.neighbors is None else items[numbering.neighbors]


def _rows_of(served: Tensor, height: int) -> Callable[[], Tensor]:
    return lambda: distinct_items(served, height)
