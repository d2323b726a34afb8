"""Numbers that describe a graph."""

from typing import Any

import numpy as np

from . import checks
from .data import GraphData


def _quantiles(values: np.ndarray) -> dict[str, float]:
    """mean, min, p50, p90, p99 and max of a vector (zeros for an empty one)."""
    names = ("min", "p50", "p90", "p99", "max")
    if not len(values):
        return dict.fromkeys(("mean", *names), 0.0)
    points = np.quantile(values, [0, 0.5, 0.9, 0.99, 1])
    return {"mean": float(values.mean()), **dict(zip(names, map(float, points), strict=True))}


def stats(graph: GraphData) -> dict[str, Any]:
    """The dict of ``InterestGraph.stats``."""
    entries = np.diff(graph.indptr)
    own = graph.neighbors == checks.row_ids(graph.indptr)
    self_weight = np.zeros(graph.num_items)
    self_weight[graph.neighbors[own]] = graph.weights[own]
    others = entries.copy()
    others[graph.neighbors[own]] -= 1
    kept_mass = None
    if graph.link == "raw":
        stored = checks.row_sums(graph.indptr, graph.weights)
        # Rows that lack their own entry were given, hence never pruned.
        built = np.zeros(graph.num_items, bool)
        built[graph.neighbors[own]] = True
        before = np.where(built, graph.degree, stored) - self_weight
        mass = float(before.sum())
        kept_mass = float((stored - self_weight).sum()) / mass if mass > 0 else 1.0
    return {
        "num_items": graph.num_items,
        "num_edges": graph.num_edges,
        "link": graph.link,
        "self_edges": int(own.sum()),
        "isolated": int((others == 0).sum()),
        "empty_rows": int((entries == 0).sum()),
        "others_per_row": _quantiles(others),
        "degree": _quantiles(graph.degree[entries > 0]),
        "kept_mass": kept_mass,
        "hop_kept_mass": graph.meta.get("link", {}).get("kept_mass"),
        "events": graph.meta.get("events"),
        "time_cut": graph.meta.get("time_cut"),
    }
