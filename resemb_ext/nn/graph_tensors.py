"""The graph beside an embedding's tables: its tensors, and where they lie."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from resemb_ext._huge_pages import empty_table
from resemb_ext.graph import InterestGraph

from .tracing import without_numbers

ATTRIBUTES = {"_indptr": "indptr", "_neighbors": "neighbors", "_link_weights": "weights"}


def check_place(graph_device: str | None) -> None:
    """Refuses a place for the graph that is unknown or not to be had.

    Raises:
        ValueError: another place than None or "pinned"; "pinned" without a CUDA device.
    """
    if graph_device not in (None, "pinned"):
        raise ValueError(f"graph_device: found {graph_device!r}; expected None (beside the tables) or 'pinned'")
    if graph_device == "pinned" and not torch.cuda.is_available():
        raise ValueError("graph_device: 'pinned' is for CUDA, and torch sees no CUDA device")


def host_tensors(graph: InterestGraph, link: str, graph_device: str | None) -> dict[str, Tensor]:
    """Fresh tensors of the graph on the host, by the attribute that holds them; log z under attention."""
    tensors = {}
    for name, field in ATTRIBUTES.items():
        array = getattr(graph, field)
        if field == "weights" and link == "attention":
            array = np.log(array.astype(np.float64)).astype(np.float32)
        dtype = torch.from_numpy(array[:0].copy()).dtype
        tensors[name] = _empty(array.shape, dtype, graph_device)
        if not without_numbers(tensors[name]):
            tensors[name].numpy()[...] = array
    return tensors


def _empty(shape: tuple[int, ...], dtype: torch.dtype, graph_device: str | None) -> Tensor:
    if graph_device == "pinned":
        return torch.empty(shape, dtype=dtype, device="cpu", pin_memory=True)
    return empty_table(shape, dtype=dtype, device="cpu")


def start_scale(graph: InterestGraph, attends: bool, residual_scale: float) -> float:
    """Standard deviation of E over that of C at the start, over all entries."""
    weights = graph.weights.astype(np.float64)
    if attends:  # it starts as link="average"
        row = np.repeat(np.arange(graph.num_items), np.diff(graph.indptr))
        weights /= np.bincount(row, weights, graph.num_items)[row]
    squares = np.square(weights).sum() / graph.num_items
    return float(np.sqrt(squares + residual_scale**2))
