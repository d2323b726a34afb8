"""From raw weights to link weights: what a row multiplies the central vectors with."""

from typing import TYPE_CHECKING, Any

import numpy as np

from . import _checks, _events
from ._events import _builder

if TYPE_CHECKING:
    from .interest_graph import InterestGraph

LINKS = ("average", "gcn", "given", "attention")


def linked(
    graph: "InterestGraph",
    link: str,
    padding_idx: int | None,
    self_weight: str | float,
    hops: int = 1,
    hop_top_k: int | None = None,
) -> dict[str, Any]:
    """Fields of the linked graph; `InterestGraph.with_link` documents the formulas."""
    if link not in LINKS:
        raise ValueError(f"link is {link!r}, expected one of {', '.join(map(repr, LINKS))}")
    padding = _checks.padding_option(padding_idx, graph.num_items)
    own = _checks.self_weight_option(self_weight)
    hops = _checks.whole_number("hops", hops, 1, 8)
    if hop_top_k is not None:
        hop_top_k = _checks.whole_number("hop_top_k", hop_top_k, 0)
    if (hops > 1 or hop_top_k is not None) and link != "gcn":
        raise ValueError(f'hops is {hops} with link={link!r}, expected 1: only "gcn" has hops')
    before = graph.meta.get("link", {})
    if link == graph.link == "gcn" and hops > 1 and before.get("hops", hops) != hops:
        raise ValueError(f"hops is {hops}, but this graph already holds {before['hops']} hop(s); link the raw graph")
    if link not in ("given", graph.link) and graph.link != "raw":
        raise ValueError(
            f"link={link!r} needs raw weights, but this graph already holds {graph.link!r} weights;"
            ' use link="given" to take them as they are'
        )
    parts = Rows(graph.indptr, graph.neighbors, graph.weights, graph.degree)
    if padding is not None:
        parts = without_padding(parts, padding)
    if link == "gcn" and graph.link == "raw":
        options = graph.meta.get("options", {})
        directed = is_directed(graph)
        if directed:
            # A self weight that follows the row's largest weight follows the new row's.
            follows = options.get("self_weight") == "max"
            own = None if follows else own
            parts = symmetrised(parts, keep_own=not follows)
        parts = with_diagonal(parts, own, padding)
        if directed and options.get("top_k") is not None:
            parts = pruned(parts, options["top_k"])
        parts = gcn(parts)
        keep = options.get("top_k") if hop_top_k is None else hop_top_k
        parts, kept_mass = powered(parts, hops, keep, prune_first=hop_top_k is not None)
    elif link == "average" and graph.link == "raw":
        parts = average(with_diagonal(parts, own, padding))
    elif link == "attention":
        parts = with_diagonal(parts, own, padding)
        check_positive(parts)
    meta = dict(graph.meta)
    if link == graph.link == "gcn" and before:
        return {**parts.fields(), "link": link, "meta": meta}
    meta["link"] = {"name": link, "padding_idx": padding, "self_weight": "max" if own is None else own}
    if link == "gcn" and graph.link == "raw":
        meta["link"] |= {"hops": hops, "hop_top_k": keep, "kept_mass": kept_mass}
    return {**parts.fields(), "link": link, "meta": meta}


def is_directed(graph: "InterestGraph") -> bool:
    """As the graph was made; where that is unknown, whether its matrix is not its transpose."""
    directed = graph.meta.get("options", {}).get("directed")
    if directed is not None:
        return bool(directed)
    matrix = graph.to_scipy()
    differing: Any = matrix != matrix.T  # scipy's stubs call it a bool
    return bool(differing.nnz)


class Rows:
    """CSR arrays on their way to a new graph."""

    def __init__(self, indptr: np.ndarray, neighbors: np.ndarray, weights: np.ndarray, degree: np.ndarray):
        self.indptr, self.neighbors, self.weights, self.degree = indptr, neighbors, weights, degree

    def fields(self) -> dict[str, np.ndarray]:
        return {"indptr": self.indptr, "neighbors": self.neighbors, "weights": self.weights, "degree": self.degree}

    def diagonal(self) -> np.ndarray:
        """bool [E]: True where a row points at itself."""
        return self.neighbors == _checks.row_ids(self.indptr)


def without_padding(rows: Rows, padding: int) -> Rows:
    """Empties the padding row; another row that points at padding is an error."""
    begin, end = int(rows.indptr[padding]), int(rows.indptr[padding + 1])
    pointing = np.flatnonzero(rows.neighbors == padding)
    pointing = pointing[(pointing < begin) | (pointing >= end)]
    if pointing.size:
        row = int(np.searchsorted(rows.indptr, pointing[0], side="right")) - 1
        raise ValueError(
            f"row {row} points at padding_idx = {padding}, expected no row but the padding row to;"
            f" drop the events or entries of item {padding}"
        )
    if begin == end:
        return rows
    indptr = rows.indptr.copy()
    indptr[padding + 1 :] -= end - begin
    neighbors, weights = (np.delete(array, slice(begin, end)) for array in (rows.neighbors, rows.weights))
    degree = rows.degree.copy()
    degree[padding] = 0
    return Rows(indptr, neighbors, weights, degree)


def with_diagonal(rows: Rows, own: float | None, padding: int | None) -> Rows:
    """Adds the self weight (None: the row's largest weight) to rows that lack their own entry."""
    height = len(rows.indptr) - 1
    present = np.zeros(height, bool)
    present[rows.neighbors[rows.diagonal()]] = True
    missing = ~present
    if padding is not None:
        missing[padding] = False
    if not missing.any():
        return rows
    if own is None:
        added = _checks.row_maxima(rows.indptr, rows.weights)[missing].astype(np.float32)
    else:
        added = np.full(int(missing.sum()), own, np.float32)
    before = rows.neighbors < _checks.row_ids(rows.indptr)
    place = (rows.indptr[:-1] + _checks.row_sums(rows.indptr, before).astype(np.int64))[missing]
    degree = rows.degree.copy()
    # Such a row was never pruned, so its stored weights are its whole sum.
    degree[missing] = _checks.row_sums(rows.indptr, rows.weights)[missing] + added
    return Rows(
        rows.indptr + np.concatenate([[0], np.cumsum(missing)]),
        np.insert(rows.neighbors, place, np.flatnonzero(missing)),
        np.insert(rows.weights, place, added),
        degree,
    )


def average(rows: Rows) -> Rows:
    """Divides every row by its sum; a row whose weights are all 0 stays 0."""
    sums = _checks.row_sums(rows.indptr, rows.weights)
    scale = np.divide(1.0, sums, out=np.zeros_like(sums), where=sums > 0)
    weights = (rows.weights * np.repeat(scale, np.diff(rows.indptr))).astype(np.float32)
    return Rows(rows.indptr, rows.neighbors, weights, rows.degree)


def check_positive(rows: Rows) -> None:
    """ValueError where a weight is 0: the attention link takes their logarithms."""
    zero = np.flatnonzero(rows.weights <= 0)
    if zero.size:
        row = int(np.searchsorted(rows.indptr, zero[0], side="right")) - 1
        raise ValueError(
            f"weights: row {row} holds {rows.weights[zero[0]]} for item {rows.neighbors[zero[0]]};"
            ' link="attention" takes their logarithms and needs weights above 0: drop such entries'
        )


def gcn(rows: Rows) -> Rows:
    """Divides every entry (i, j) by sqrt(d_i d_j), d the degrees before pruning."""
    root = np.sqrt(rows.degree)
    scale = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0)
    weights = rows.weights * np.repeat(scale, np.diff(rows.indptr))
    weights *= scale[rows.neighbors]
    return Rows(rows.indptr, rows.neighbors, weights.astype(np.float32), rows.degree)


def powered(rows: Rows, hops: int, top_k: int | None, prune_first: bool) -> tuple[Rows, list[float]]:
    """W^hops, pruned after every hop, and what each pruning kept of the rows' sums."""
    threads = _events.thread_count(None)
    keep = len(rows.degree) if top_k is None else top_k
    first, shares = rows, [1.0]
    if prune_first and top_k is not None:
        first = pruned(rows, top_k)
        whole = float(rows.weights.sum(dtype=np.float64))
        shares = [float(first.weights.sum(dtype=np.float64)) / whole if whole > 0 else 1.0]
    power = first
    for _ in range(hops - 1):
        arrays = _builder.multiply(
            *(power.indptr, power.neighbors, power.weights),
            *(first.indptr, first.neighbors, first.weights),
            top_k=keep,
            threads=threads,
        )
        whole = float(arrays[4].sum())
        shares.append(float(arrays[3].sum()) / whole if whole > 0 else 1.0)
        power = Rows(arrays[0], arrays[1], arrays[2], rows.degree)
    return power, shares


def symmetrised(rows: Rows, keep_own: bool) -> Rows:
    """Z + Z^T off the diagonal: a pair's mass in either direction; own entries stay or go."""
    from scipy.sparse import csr_array

    height = len(rows.indptr) - 1
    own = rows.diagonal()
    weights = rows.weights.astype(np.float64)
    shape = (height, height)
    diagonal = np.zeros(height)
    present = rows.neighbors[own]
    diagonal[present] = weights[own]
    others = csr_array((weights, rows.neighbors, rows.indptr), shape=shape)
    both = others + others.T
    both.sort_indices()
    out = Rows(both.indptr.astype(np.int64), both.indices, both.data, rows.degree)
    on_diagonal = out.diagonal()
    if keep_own:
        out.weights[on_diagonal] = diagonal[out.neighbors[on_diagonal]]
    else:
        gone = np.concatenate([[0], np.cumsum(on_diagonal)])[out.indptr]
        out.indptr = out.indptr - gone
        out.neighbors, out.weights = out.neighbors[~on_diagonal], out.weights[~on_diagonal]
    out.neighbors = out.neighbors.astype(rows.neighbors.dtype, copy=False)
    out.weights = out.weights.astype(np.float32)
    out.degree = _checks.row_sums(out.indptr, out.weights)
    return out


def pruned(rows: Rows, top_k: int) -> Rows:
    """The top_k heaviest others of every row, ties by id, and its own entry; degrees stay."""
    row = _checks.row_ids(rows.indptr)
    other = rows.neighbors != row
    # Own entries lead their row, so that rank < top_k + 1 keeps them.
    order = np.lexsort((rows.neighbors, -rows.weights, other, row))
    rank = np.empty(len(row), np.int64)
    rank[order] = np.arange(len(row)) - rows.indptr[row[order]]
    has_own = np.zeros(len(rows.indptr) - 1, np.int64)
    has_own[rows.neighbors[~other]] = 1
    keep = rank < top_k + has_own[row]
    indptr = np.concatenate([[0], np.cumsum(keep)])[rows.indptr]
    return Rows(indptr, rows.neighbors[keep], rows.weights[keep], rows.degree)
