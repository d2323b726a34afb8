"""The graph beside an embedding's tables: its tensors, and where they lie."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from resemb_ext._huge_pages import empty_table, on_huge_pages
from resemb_ext.graph import InterestGraph, blocks

from .tracing import fake

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


def host_tensors(graph: InterestGraph, link: str, pinned: bool) -> dict[str, Tensor]:
    """Tensors of the graph on the host, pinned or not, by the attribute that holds them.

    They lie in the memory of the graph's arrays, but for pinned ones, and for the logarithms of weights under
    attention. None may be written.
    """
    tensors = {}
    for name, field in ATTRIBUTES.items():
        array = getattr(graph, field)
        if fake(None):
            dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
            tensors[name] = torch.empty(array.shape, dtype=dtype, device="cpu")
        elif field == "weights" and link == "attention":
            tensors[name] = log_weights(graph.indptr, graph.weights, pinned)
        elif pinned:
            tensors[name] = _empty(array, pinned)
            tensors[name].numpy()[...] = array
        else:
            tensors[name] = on_huge_pages(torch.from_numpy(np.asarray(_Writable(array))))
    return tensors


class _Writable:
    """A read-only array for ``torch.from_numpy``, which warns of those: a tensor cannot say that it is one."""

    def __init__(self, array: np.ndarray) -> None:
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface
        self._owner = array


def shares(tensor: Tensor, array: np.ndarray) -> bool:
    """Whether a tensor lies where an array lies."""
    return tensor.device.type == "cpu" and tensor.data_ptr() == array.__array_interface__["data"][0]


def graph_over(graph: InterestGraph, tensors: dict[str, Tensor], link: str) -> InterestGraph:
    """The graph with its arrays where tensors on the host hold the same numbers in other memory."""
    elsewhere = {}
    for name, field in ATTRIBUTES.items():
        if field == "weights" and link == "attention":
            continue
        tensor = tensors[name]
        if type(tensor) is Tensor and tensor.device.type == "cpu" and not shares(tensor, getattr(graph, field)):
            elsewhere[field] = tensor.numpy()
    return graph.over(elsewhere) if elsewhere else graph


def graph_without(graph: InterestGraph, link: str) -> InterestGraph:
    """The graph with no array that its tensors hold; it knows its hash, and ``graph_over`` makes it whole again."""
    names = ("indptr", "neighbors") if link == "attention" else ("indptr", "neighbors", "weights")
    _ = graph.hash
    return graph.over({name: getattr(graph, name)[:0].copy() for name in names})


def _empty(array: np.ndarray, pinned: bool) -> Tensor:
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    if pinned:
        return torch.empty(array.shape, dtype=dtype, device="cpu", pin_memory=True)
    return empty_table(array.shape, dtype=dtype, device="cpu")


def log_weights(indptr: np.ndarray, given: np.ndarray, pinned: bool = False) -> Tensor:
    """log z; of float16 log(z / the row's largest z), which gives the same shares and is rounded less."""
    tensor = _empty(given, pinned)
    out = tensor.numpy()
    narrow = given.dtype == np.float16
    for rows, span in blocks.of_rows(indptr):
        weights = given[span].astype(np.float64)
        if narrow and len(weights):
            lengths = np.diff(indptr[rows.start : rows.stop + 1])
            starts = indptr[rows][lengths > 0] - span.start
            weights /= np.repeat(np.maximum.reduceat(weights, starts), lengths[lengths > 0])
        out[span] = np.log(weights)
    return tensor


def start_scale(graph: InterestGraph, attends: bool, residual_scale: float) -> float:
    """Standard deviation of E over that of C at the start, over all entries."""
    squares = 0.0
    for rows, span in blocks.of_rows(graph.indptr):
        weights = graph.weights[span].astype(np.float64)
        if attends:  # it starts as link="average"
            row = blocks.row_ids(graph.indptr, rows) - rows.start
            weights /= np.bincount(row, weights, rows.stop - rows.start)[row]
        squares += float(np.square(weights).sum())
    return float(np.sqrt(squares / graph.num_items + residual_scale**2))
