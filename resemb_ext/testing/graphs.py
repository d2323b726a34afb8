"""A graph's rows in plain Python, and whether two graphs are the same."""

from __future__ import annotations

import numpy as np

from resemb_ext.graph import InterestGraph


def rows_of(graph: InterestGraph) -> dict[int, dict[int, float]]:
    """Each row's weights by neighbour; its neighbours must ascend without repeats."""
    out: dict[int, dict[int, float]] = {}
    for i in range(graph.num_items):
        at = slice(graph.indptr[i], graph.indptr[i + 1])
        out[i] = dict(zip(graph.neighbors[at].tolist(), graph.weights[at].tolist(), strict=True))
        assert list(out[i]) == sorted(out[i]) and len(out[i]) == at.stop - at.start
    return out


def same_arrays(a: InterestGraph, b: InterestGraph) -> bool:
    """Whether two graphs hold the same arrays, of the same dtypes."""
    return all(
        getattr(a, name).dtype == getattr(b, name).dtype and np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("indptr", "neighbors", "weights", "degree")
    )
