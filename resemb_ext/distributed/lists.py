"""Neighbour lists of the items of a batch: from this rank's own memory, or from their owners.

Lists lie on the host, also where tables lie on a device: a batch's own are small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from resemb_ext.graph import InterestGraph, blocks
from resemb_ext.graph.extension import builder
from resemb_ext.nn import graph_tensors

from .deal import Deal
from .wire import Wire


@dataclass(frozen=True)
class Lists:
    """Neighbour lists one behind the other.

    Attributes:
        lengths: int64 [U].
        neighbors: int32 [T], items.
        weights: [T], of the graph's dtype; logarithms under the attention link.
    """

    lengths: np.ndarray
    neighbors: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Graph:
    """Rows of a graph: CSR arrays of all H, or of those that this rank holds.

    Attributes:
        indptr, neighbors, weights: int64 [rows + 1], int32 or int64 [E], floats [E].
    """

    indptr: np.ndarray
    neighbors: np.ndarray
    weights: np.ndarray

    def lists(self, rows: np.ndarray) -> Lists:
        """The lists of some rows, int64 [U].

        Raises:
            IndexError: a row that is not there.
        """
        return Lists(*builder.lists(self.indptr, self.neighbors, self.weights, rows))


def whole(graph: InterestGraph, link: str) -> Graph:
    """A graph of which this rank reads all rows; its arrays are shared."""
    weights = graph.weights
    if link == "attention":
        weights = graph_tensors.log_weights(graph.indptr, weights).numpy()
    return Graph(graph.indptr, graph.neighbors, weights)


def dealt(graph: InterestGraph, link: str, deal: Deal) -> Graph:
    """The rows of a graph that this rank holds, copied."""
    lengths = np.diff(graph.indptr)[deal.rank :: deal.ranks]
    indptr = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=indptr[1:])
    neighbors = np.empty(indptr[-1], graph.neighbors.dtype)
    weights = np.empty(indptr[-1], graph.weights.dtype)
    at = 0
    for rows, span in blocks.of_rows(graph.indptr):
        own = blocks.row_ids(graph.indptr, rows) % deal.ranks == deal.rank
        past = at + int(np.count_nonzero(own))
        neighbors[at:past] = graph.neighbors[span][own]
        weights[at:past] = graph.weights[span][own]
        at = past
    if link == "attention":
        weights = graph_tensors.log_weights(indptr, weights).numpy()
    return Graph(indptr, neighbors, weights)


def from_owners(wire: Wire, graph: Graph, served: np.ndarray, send: list[int], receive: list[int]) -> Lists:
    """The lists of the items that this rank has asked for; others get theirs.

    Args:
        served: int64, rows of this rank's own part that are asked for, by rank.
        send, receive: how many this rank asks of each, and each of this one.
    """
    found = graph.lists(served)
    lengths = _exchange(wire, found.lengths.astype(np.int32), receive, send).astype(np.int64)
    out, back = _edges_by_rank(found.lengths, receive), _edges_by_rank(lengths, send)
    return Lists(lengths, _exchange(wire, found.neighbors, out, back), _exchange(wire, found.weights, out, back))


def _exchange(wire: Wire, values: np.ndarray, send: list[int], receive: list[int]) -> np.ndarray:
    return wire.to_all("lists", torch.from_numpy(values).to(wire.device), send, receive).cpu().numpy()


def _edges_by_rank(lengths: np.ndarray, counts: list[int]) -> list[int]:
    ends = np.concatenate([[0], np.cumsum(lengths)])
    return np.diff(ends[np.concatenate([[0], np.cumsum(counts)])]).tolist()
