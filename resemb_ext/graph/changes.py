"""Which rows differ between two graphs, the second perhaps with more items."""

import numpy as np

from . import blocks
from .data import GraphData


def changed_rows(old: GraphData, new: GraphData, places: np.ndarray) -> np.ndarray:
    """Rows of the new graph that are not the same row of the old one.

    A row whose neighbours have moved past each other counts as changed: its sum has another order.

    Args:
        old, new: graphs with the weights of a link.
        places: int64 [H of the old one], the new number of each of its items.

    Returns:
        int64, ascending.
    """
    sources = np.full(new.num_items, -1, np.int64)
    sources[places] = np.arange(old.num_items)
    lengths, before = np.diff(new.indptr), np.diff(old.indptr)
    changed = (sources < 0) | (lengths != before[sources])
    for rows, _ in blocks.of_rows(new.indptr):
        same = np.flatnonzero(~changed[rows]) + rows.start
        if not len(same):
            continue
        count = lengths[same]
        row = np.repeat(np.arange(len(same)), count)
        within = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        here, there = new.indptr[same][row] + within, old.indptr[sources[same]][row] + within
        differs = (places[old.neighbors[there]] != new.neighbors[here]) | (old.weights[there] != new.weights[here])
        changed[same[row[differs]]] = True
    return np.flatnonzero(changed)
