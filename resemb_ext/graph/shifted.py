"""A graph's rows placed in a table of more rows: what ``InterestGraph.shift`` computes."""

from typing import Any

import numpy as np

from . import checks
from .data import GraphData


def shifted(graph: GraphData, offset: int, rows: int) -> dict[str, Any]:
    """The fields of ``InterestGraph.shift``, which documents the arguments."""
    offset = checks.whole_number("offset", offset, 0)
    rows = checks.whole_number("rows", rows, 1)
    height = graph.num_items
    if offset + height > rows:
        raise ValueError(
            f"rows is {rows}, expected at least {offset + height}: offset {offset} and the {height} items of the graph"
        )
    behind = rows - offset - height
    # As from_csr counts it: the own entry that a link gives an empty row of raw weights weighs 1.
    empty = 1.0 if graph.link == "raw" else 0.0
    return {
        "indptr": np.concatenate(
            [np.zeros(offset, np.int64), graph.indptr, np.full(behind, graph.num_edges, np.int64)]
        ),
        "neighbors": graph.neighbors.astype(checks.neighbor_dtype(rows)) + checks.neighbor_dtype(rows)(offset),
        "weights": graph.weights,
        "degree": np.concatenate([np.full(offset, empty), graph.degree, np.full(behind, empty)]),
        "link": graph.link,
        "meta": _meta(graph, offset),
        "counts": None,
    }


def offset_of(meta: dict[str, Any]) -> int:
    """The row of the graph's first item."""
    return int(meta.get("shift", {}).get("offset", 0))


def _meta(graph: GraphData, offset: int) -> dict[str, Any]:
    """Options, digests and ids go on to tell of the graph's own numbers; "shift" says where these begin."""
    meta = dict(graph.meta)
    before = meta.get("shift", {"offset": 0, "num_items": graph.num_items})
    meta["shift"] = {**before, "offset": before["offset"] + offset}
    padding = meta.get("link", {}).get("padding_idx")
    if padding is not None:
        meta["link"] = {**meta["link"], "padding_idx": padding + offset}
    return meta
