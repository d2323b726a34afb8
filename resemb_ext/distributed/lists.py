"""Neighbour lists of the items of a batch: from this rank's own memory, or from their owners."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from resemb_ext.graph import InterestGraph, blocks
from resemb_ext.nn import graph_tensors

from .deal import Deal
from .requests import Requests
from .wire import Wire


@dataclass(frozen=True)
class Lists:
    """Neighbour lists one behind the other.

    Attributes:
        lengths: int64 [U].
        neighbors: int32 [T], items.
        weights: [T], of the graph's dtype; logarithms under the attention link.
    """

    lengths: Tensor
    neighbors: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Graph:
    """Rows of a graph as tensors: CSR arrays of all H, or of those that this rank holds.

    Attributes:
        indptr, neighbors, weights: int64 [rows + 1], int32 or int64 [E], floats [E].
    """

    indptr: Tensor
    neighbors: Tensor
    weights: Tensor

    def lists(self, rows: Tensor) -> Lists:
        """The lists of some rows, int64 [U]."""
        starts = self.indptr[rows]
        lengths = self.indptr[rows + 1] - starts
        past = lengths.cumsum(0)
        edges = torch.arange(int(past[-1]) if len(past) else 0, device=rows.device)
        edges += torch.repeat_interleave(starts - past + lengths, lengths)
        return Lists(lengths, self.neighbors[edges].to(torch.int32), self.weights[edges])


def whole(graph: InterestGraph, link: str, device: torch.device) -> Graph:
    """A graph of which this rank has all rows."""
    tensors = graph_tensors.host_tensors(graph, link, pinned=False)
    return Graph(*(tensors[name].to(device) for name in graph_tensors.ATTRIBUTES))


def dealt(graph: InterestGraph, link: str, deal: Deal, device: torch.device) -> Graph:
    """The rows of a graph that this rank holds, copied."""
    lengths = np.diff(graph.indptr)[deal.rank :: deal.ranks]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    neighbors = np.empty(indptr[-1], graph.neighbors.dtype)
    weights = np.empty(indptr[-1], graph.weights.dtype)
    at = 0
    for rows, span in blocks.of_rows(graph.indptr):
        own = blocks.row_ids(graph.indptr, rows) % deal.ranks == deal.rank
        past = at + int(np.count_nonzero(own))
        neighbors[at:past] = graph.neighbors[span][own]
        weights[at:past] = graph.weights[span][own]
        at = past
    numbers = graph_tensors.log_weights(indptr, weights) if link == "attention" else torch.from_numpy(weights)
    return Graph(*(t.to(device) for t in (torch.from_numpy(indptr), torch.from_numpy(neighbors), numbers)))


def from_owners(wire: Wire, graph: Graph, requests: Requests) -> Lists:
    """The lists of the items that this rank has asked for; others get theirs."""
    found = graph.lists(requests.served)
    lengths = wire.to_all("lists", found.lengths.to(torch.int32), requests.receive, requests.send).long()
    out = _edges_by_rank(found.lengths, requests.receive)
    back = _edges_by_rank(lengths, requests.send)
    neighbors = wire.to_all("lists", found.neighbors, out, back)
    weights = wire.to_all("lists", found.weights, out, back)
    return Lists(lengths, neighbors, weights)


def _edges_by_rank(lengths: Tensor, counts: list[int]) -> list[int]:
    return [int(part.sum()) for part in lengths.split(counts)]
