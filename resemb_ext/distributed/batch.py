"""A batch with small tables and a small graph of its own, of which every row has come from its owner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from resemb_ext._bags import Bags
from resemb_ext._ownership import distinct_items

from .deal import Deal
from .fetch import Trip, Wanted, fetch
from .lists import Graph, Lists, from_owners
from .requests import Numbering, Requests, Slots, ask, by_owner, counts_of
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
        apart: rows of R and of C are numbered apart; not under the attention link, which finds an item among its own
            neighbours.
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
    apart: bool
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
            RankError: another rank has raised, or is gone; it names the rank.
        """
        wire, deal = self.wire, self.deal
        learns = torch.is_grad_enabled() and any(table.requires_grad for table in tables)
        call = 4 * self.number + learns
        try:
            bags = positions()
            ids, pads = self._distinct(bags.ids)
            lists = None if self.graph is None or self.graph_is_dealt else self.graph.lists(ids)
            numbering = None if lists is None else self.slots.number(ids, lists, deal, self.apart)
            first = [ids] if numbering is None else [ids, numbering.neighbors]
            counts = counts_of(first, deal)
        except (TypeError, ValueError, IndexError) as error:
            wire.refuse(error, columns=2)
            raise
        others = wire.agree(call, counts)
        requests = ask(wire, deal, first, counts, others)
        if numbering is None:
            if self.graph is not None:
                of_ids = requests[0]
                lists = from_owners(wire, self.graph, of_ids.served.cpu().numpy(), of_ids.send, of_ids.receive)
            numbering = self.slots.number(ids, lists, deal, self.apart)
            if lists is not None:
                second = [numbering.neighbors]
                counts = counts_of(second, deal)
                requests += ask(wire, deal, second, counts, wire.agree(call + 2, counts))
        served = [request.served for request in reversed(requests)]
        before_read(*(_rows_of(rows, deal.count) for rows in served))
        height = numbering.height + 1
        trip = Trip(wire, self.dtype, sparse, height)
        local_padding = height - 1
        if self.padding_idx is not None:
            if pads:
                local_padding = int(self.slots.of[self.padding_idx])
            else:
                self.slots.of[self.padding_idx] = local_padding
        found = fetch(trip, self._wanted(requests, numbering), tables)
        indptr, neighbors, weights = self._graph_of(numbering, lists, height)
        numbers = self.slots.numbers_of(bags.ids)
        return bags, Batch(numbers, local_padding, found, indptr, neighbors, weights)

    def _distinct(self, ids: Tensor) -> tuple[np.ndarray, bool]:
        """The items to fetch, by owner and then ascending; whether padding is among them."""
        found = distinct_items(ids, self.deal.items).cpu().numpy()
        pads = False
        if self.padding_idx is not None:
            at = int(np.searchsorted(found, self.padding_idx))
            if at < len(found) and found[at] == self.padding_idx:
                pads = self.keep_padding
                found = found if pads else np.delete(found, at)
        return by_owner(found, self.deal), pads

    def _wanted(self, requests: list[Requests], numbering: Numbering) -> list[Wanted]:
        device = self.wire.device
        places = None if numbering.rows is None else torch.from_numpy(numbering.rows).to(device)
        kept = self.deal.own_place(self.padding_idx) if self.keep_padding else None
        wanted = [Wanted(requests[0], places, kept)]
        if len(requests) > 1:
            read = None if numbering.read is None else torch.from_numpy(numbering.read).to(device)
            wanted.insert(0, Wanted(requests[1], read))
        return wanted

    def _graph_of(self, numbering: Numbering, lists: Lists | None, height: int) -> tuple[Tensor, Tensor, Tensor]:
        indptr = np.zeros(height + 1, np.int64)
        neighbors, weights = np.empty(0, np.int32), np.empty(0, np.float32)
        if lists is not None:
            indptr[numbering.looked_up + 1] = lists.lengths
            np.cumsum(indptr, out=indptr)
            neighbors, weights = lists.neighbors, lists.weights
        return tuple(torch.from_numpy(a).to(self.wire.device) for a in (indptr, neighbors, weights))  # type: ignore[return-value]


def _rows_of(served: Tensor, height: int) -> Callable[[], Tensor]:
    return lambda: distinct_items(served, height)
