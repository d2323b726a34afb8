"""Several graphs over the same items as one: what ``InterestGraph.mixed`` computes."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import blocks, checks, links
from .data import GraphData


def mixed(graphs: Any, shares: Any, top_k: int | None) -> dict[str, Any]:
    """The fields of ``InterestGraph.mixed``, which documents the arguments."""
    parts = _parts(graphs)
    weights = _shares(shares, len(parts))
    keep = None if top_k is None else checks.whole_number("top_k", top_k, 1)
    height = parts[0].num_items
    total: Any = None
    for graph, share in zip(parts, weights, strict=True):
        rows = _others(graph) * share
        total = rows if total is None else total + rows
    total.sort_indices()
    neighbors = total.indices.astype(checks.neighbor_dtype(height))
    indptr = total.indptr.astype(np.int64)
    matrix = links.Matrix(indptr, neighbors, total.data.astype(np.float32), checks.row_sums(indptr, total.data))
    whole = links.degree_with_own(matrix)
    if keep is not None:
        matrix = links.pruned(matrix, keep)
    # As of rows from events: the degree is that before pruning.
    matrix.degree = whole
    return {**matrix.fields(), "meta": _meta(parts, weights, keep)}


def _parts(graphs: Any) -> list[GraphData]:
    if isinstance(graphs, GraphData) or not isinstance(graphs, Sequence):
        raise TypeError(f"graphs: found {type(graphs).__name__}; expected a list of InterestGraphs")
    parts = list(graphs)
    if not parts:
        raise ValueError("graphs: found none; expected at least one InterestGraph")
    for place, graph in enumerate(parts):
        if not isinstance(graph, GraphData):
            raise TypeError(f"graphs[{place}]: found {type(graph).__name__}; expected an InterestGraph")
        if graph.num_items != parts[0].num_items:
            raise ValueError(f"graphs[{place}]: has {graph.num_items} items, the first one {parts[0].num_items}")
        if graph.link != "raw":
            raise ValueError(f"graphs[{place}]: holds {graph.link!r} weights; mix graphs before they are linked")
        if "shift" in graph.meta:
            raise ValueError(f"graphs[{place}]: is shifted; mix graphs before they are shifted")
    known = {field: _records(parts, field) for field in ("items", "users")}
    if len(known["items"]) > 1:
        raise ValueError("graphs: they number their items by different maps; build them from logs read by one map")
    return parts


def _records(parts: Sequence[GraphData], field: str) -> set[str]:
    records = (graph.meta.get("ids", {}).get(field) for graph in parts)
    return {record["sha256"] for record in records if record is not None}


def _shares(shares: Any, count: int) -> list[float]:
    if shares is None:
        return [1 / count] * count
    numbers = checks.vector("shares", shares)
    if numbers.dtype.kind not in "iuf":
        raise TypeError(f"shares has dtype {numbers.dtype}, expected numbers")
    if len(numbers) != count:
        raise ValueError(f"shares has {len(numbers)} entries, expected {count}, one for every graph")
    values = [float(value) for value in numbers]
    for place, value in enumerate(values):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"shares[{place}] is {value}, expected a finite number above 0")
    return values


def _others(graph: GraphData) -> Any:
    """A graph's weights of other items, each row divided by its sum, as a SciPy CSR array of float64."""
    from scipy.sparse import csr_array

    weights = graph.weights.astype(np.float64)
    for rows, span in blocks.of_rows(graph.indptr):
        own = graph.neighbors[span] == blocks.row_ids(graph.indptr, rows)
        weights[span][own] = 0.0
    sums = checks.row_sums(graph.indptr, weights)
    scale = np.divide(1.0, sums, out=np.zeros_like(sums), where=sums > 0)
    for rows, span in blocks.of_rows(graph.indptr):
        weights[span] *= blocks.spread(scale, graph.indptr, rows)
    # Copied: entries are dropped in place, and a graph's arrays are read-only.
    matrix = csr_array((weights, graph.neighbors, graph.indptr), shape=(graph.num_items,) * 2, copy=True)
    matrix.eliminate_zeros()
    return matrix


def _meta(parts: Sequence[GraphData], shares: Sequence[float], top_k: int | None) -> dict[str, Any]:
    """Of events: what all parts that are made of events agree on. Categories are known before any event."""
    of_events = [graph.meta for graph in parts if graph.meta.get("source") != "categories"]
    meta: dict[str, Any] = {
        "version": 2,
        "source": "mixed",
        "options": {"num_items": parts[0].num_items, "directed": True, "top_k": top_k},
        "parts": [
            {"hash": graph.hash, "share": share, "source": graph.meta.get("source")}  # type: ignore[attr-defined]
            for graph, share in zip(parts, shares, strict=True)
        ],
    }
    for name in ("events", "time_cut", "event_hash"):
        found = [one.get(name) for one in of_events]
        meta[name] = found[0] if found and all(value == found[0] for value in found) else None
    ids = next((one["ids"] for one in of_events if one.get("ids")), None)
    if ids is not None:
        meta["ids"] = {"items": ids.get("items"), "users": None}
    return meta
