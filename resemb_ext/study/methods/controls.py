"""Graphs that a Res-embedding must not profit from: the same shape, another content."""

from __future__ import annotations

import numpy as np

from resemb_ext.graph import InterestGraph

_STREAM = 31  # beside those of samples and folds


def without_edges(num_items: int) -> InterestGraph:
    """A graph in which each item has itself alone: E = C + R, two plain tables summed."""
    return InterestGraph.from_csr(np.zeros(num_items + 1, dtype=np.int64), np.zeros(0, np.int64))


def permuted_labels(graph: InterestGraph, seed: int, *, padding: int = 0) -> InterestGraph:
    """The same graph over items renamed at random; padding keeps its name.

    Every row's weights go along with it, so all degrees and weights are there, on other items.
    """
    others = np.delete(np.arange(graph.num_items), padding)
    name = np.arange(graph.num_items)
    name[others] = np.random.default_rng([_STREAM, 0, seed]).permutation(others)
    row = np.repeat(np.arange(graph.num_items), np.diff(graph.indptr))
    return _graph(name[row], name[graph.neighbors], graph.weights, graph.num_items)


def permuted_entries(graph: InterestGraph, seed: int) -> InterestGraph:
    """Neighbour ids dealt anew at random over all entries, own entries left where they are.

    Each row keeps how many neighbours it has and their weights, and each item stays a neighbour as
    often as before; which item is whose neighbour is chance.

    Raises:
        ValueError: the rows are so full that no such graph is found.
    """
    rng = np.random.default_rng([_STREAM, 1, seed])
    row = np.repeat(np.arange(graph.num_items), np.diff(graph.indptr))
    neighbor = graph.neighbors.astype(np.int64)
    free = np.flatnonzero(neighbor != row)
    neighbor[free] = rng.permutation(neighbor[free])
    for _ in range(10_000):
        bad = _clashes(row, neighbor, free)
        if not len(bad):
            return _graph(row, neighbor, graph.weights, graph.num_items)
        # Each clash changes places with some entry; two clashes may pick the same one.
        for one, other in zip(bad, rng.choice(free, len(bad)), strict=True):
            neighbor[one], neighbor[other] = neighbor[other], neighbor[one]
    raise ValueError("graph: its rows are too full to deal their neighbours anew")


def _clashes(row: np.ndarray, neighbor: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Those of ``free`` that point at their own row, or at what an earlier entry of it points at."""
    order = np.lexsort((neighbor, row))
    same = (row[order][1:] == row[order][:-1]) & (neighbor[order][1:] == neighbor[order][:-1])
    bad = row == neighbor
    bad[order[1:][same]] = True
    return free[bad[free]]


def _graph(row: np.ndarray, neighbor: np.ndarray, weight: np.ndarray, num_items: int) -> InterestGraph:
    order = np.lexsort((neighbor, row))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=num_items))])
    return InterestGraph.from_csr(indptr, neighbor[order], weight[order])
