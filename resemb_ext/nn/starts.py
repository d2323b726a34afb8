"""Where the central vectors of new items start."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from resemb_ext.graph.data import GraphData

_BLOCK = 1 << 14  # rows that are summed at a time


def starts_of(graph: GraphData, fresh: np.ndarray, central: Tensor) -> None:
    """Sets the central vectors of new items to the weighted mean of those of their known neighbours.

    In rounds: those that have a known neighbour first, from these alone; then those that have one of the former, and
    so on. Others stay as they are. Sums are in float64.

    Args:
        graph: with the weights of a link, over H items.
        fresh: int64, ascending, the new items.
        central: [H, D], written at the new items.
    """
    known = np.ones(graph.num_items, bool)
    known[fresh] = False
    while len(fresh):
        reached = np.concatenate(
            [_start(graph, fresh[i : i + _BLOCK], known, central) for i in range(0, len(fresh), _BLOCK)]
        )
        if not reached.any():
            return
        known[fresh[reached]] = True
        fresh = fresh[~reached]


def _start(graph: GraphData, rows: np.ndarray, known: np.ndarray, central: Tensor) -> np.ndarray:
    """Sets those rows that have a known neighbour; bool, which they are."""
    from scipy.sparse import csr_array

    begin = graph.indptr[rows]
    count = graph.indptr[rows + 1] - begin
    row = np.repeat(np.arange(len(rows)), count)
    entry = np.arange(len(row)) + np.repeat(begin - np.cumsum(count) + count, count)
    counts = known[graph.neighbors[entry]] & (graph.weights[entry] > 0)
    row, entry = row[counts], entry[counts]
    others, column = np.unique(graph.neighbors[entry], return_inverse=True)
    weights = graph.weights[entry].astype(np.float64)
    sums = np.bincount(row, weights, len(rows))
    reached = sums > 0
    if reached.any():
        matrix = csr_array((weights, (row, column)), shape=(len(rows), len(others)))
        vectors = central[torch.from_numpy(others.astype(np.int64)).to(central.device)].to(torch.float64).cpu().numpy()
        means = (matrix @ vectors)[reached] / sums[reached, None]
        place = torch.from_numpy(rows[reached]).to(central.device)
        central[place] = torch.from_numpy(means).to(central)
    return reached
