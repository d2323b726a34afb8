"""Graphs as PyTorch Geometric writes them: an ``edge_index`` of torch tensors, int64 [2, E]."""

from typing import TYPE_CHECKING, Any

import numpy as np

from . import checks
from .data import GraphData

if TYPE_CHECKING:
    import torch


def csr_of(edge_index: Any, weights: Any, num_items: int | None) -> tuple[np.ndarray, np.ndarray, Any]:
    """indptr, neighbors and weights of ``InterestGraph.from_edge_index``, which documents the arguments."""
    pairs = _array(edge_index)
    if pairs.ndim != 2 or pairs.shape[0] != 2:
        raise ValueError(f"edge_index has shape {list(pairs.shape)}, expected [2, E]: neighbours, then items")
    source, target = (checks.integers(f"edge_index[{side}]", pairs[side]) for side in (0, 1))
    if num_items is None:
        if not len(source):
            raise ValueError("num_items is None and edge_index has no edges; give num_items")
        height = int(max(source.max(), target.max())) + 1
    else:
        height = checks.whole_number("num_items", num_items, 1)
    for side, ids in enumerate((source, target)):
        wrong = (ids < 0) | (ids >= height)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise IndexError(f"edge_index[{side}, {at}] is {ids[at]}, expected an id in [0, num_items = {height})")
    values = None
    if weights is not None:
        values = checks.floats("weights", _array(weights))
        if len(values) != len(source):
            raise ValueError(f"weights has {len(values)} entries, expected {len(source)}, one for every edge")
    order = np.lexsort((source, target))
    source, target = source[order], target[order]
    twice = np.flatnonzero((source[1:] == source[:-1]) & (target[1:] == target[:-1]))
    if twice.size:
        at = int(twice[0])
        raise ValueError(
            f"edge_index holds the edge {source[at]} -> {target[at]} twice, expected no duplicates;"
            " torch_geometric.utils.coalesce joins them"
        )
    indptr = np.searchsorted(target, np.arange(height + 1))
    return indptr, source, values if values is None else values[order]


def edges_of(graph: GraphData) -> "tuple[torch.Tensor, torch.Tensor]":
    """What ``InterestGraph.to_edge_index`` returns."""
    import torch

    pairs = np.empty((2, graph.num_edges), np.int64)
    pairs[0] = graph.neighbors
    pairs[1] = checks.row_ids(graph.indptr)
    return torch.from_numpy(pairs), torch.from_numpy(graph.weights.astype(np.float32))


def _array(values: Any) -> np.ndarray:
    """A NumPy array of a torch tensor on any device, or of anything that NumPy takes."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if not values.dtype.is_complex and values.dtype.is_floating_point:
            values = values.float() if values.element_size() < 4 else values  # NumPy has no bfloat16
        values = values.numpy()
    return np.asarray(values)
