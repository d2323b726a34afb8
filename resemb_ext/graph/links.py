"""From raw weights to link weights: what a row multiplies the central vectors with."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from . import blocks, checks, precision
from .data import GraphData
from .events import thread_count
from .extension import builder

LINKS = ("average", "gcn", "given", "attention")


def linked(
    graph: GraphData,
    link: str,
    padding_idx: int | None,
    self_weight: str | float,
    hops: int = 1,
    hop_top_k: int | None = None,
    weights_dtype: Any = None,
) -> dict[str, Any]:
    """Fields of the linked graph; ``InterestGraph.with_link`` documents the formulas."""
    dtype = graph.weights.dtype if weights_dtype is None else precision.weights_dtype(weights_dtype)
    if link not in LINKS:
        raise ValueError(f"link is {link!r}, expected one of {', '.join(map(repr, LINKS))}")
    padding = checks.padding_option(padding_idx, graph.num_items)
    own = checks.self_weight_option(self_weight)
    hops = checks.whole_number("hops", hops, 1, 8)
    if hop_top_k is not None:
        hop_top_k = checks.whole_number("hop_top_k", hop_top_k, 0)
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
    matrix, values = Matrix(graph.indptr, graph.neighbors, graph.weights, graph.degree), None
    if link != "given" and graph.link == "raw":
        matrix.weights = matrix.weights.astype(np.float32, copy=False)
    if padding is not None:
        matrix = _without_padding(matrix, padding)
    if link == "gcn" and graph.link == "raw":
        options = graph.meta.get("options", {})
        directed = _is_directed(graph)
        if directed:
            # A self weight that follows the row's largest weight follows the new row's.
            follows = options.get("self_weight") == "max"
            own = None if follows else own
            matrix = symmetrised(matrix, keep_own=not follows)
        matrix = with_diagonal(matrix, own, padding)
        if directed and options.get("top_k") is not None:
            matrix = pruned(matrix, options["top_k"])
        keep = options.get("top_k") if hop_top_k is None else hop_top_k
        values, kept_mass = gcn(matrix), [1.0]
        if hops > 1 or hop_top_k is not None:
            matrix = matrix.weighted(_whole(values, matrix))
            matrix, kept_mass = _powered(matrix, hops, keep, prune_first=hop_top_k is not None)
            values = None
    elif link == "average" and graph.link == "raw":
        matrix = with_diagonal(matrix, own, padding)
        values = average(matrix)
    elif link == "attention":
        matrix = with_diagonal(matrix, own, padding)
        _check_positive(matrix)
    meta = dict(graph.meta)
    if values is not None or link != graph.link or matrix.weights is not graph.weights:
        meta.pop("rounded", None)
    if values is None and matrix.weights.dtype != dtype:
        values = precision.slices(matrix.indptr, matrix.weights)
    if values is not None and dtype == np.float16:
        matrix.weights, meta["rounded"] = precision.rounded(matrix.fields(), link, values)
    elif values is not None:
        matrix.weights = _whole(values, matrix)
    if link == graph.link == "gcn" and before:
        return {**matrix.fields(), "link": link, "meta": meta}
    meta["link"] = {"name": link, "padding_idx": padding, "self_weight": "max" if own is None else own}
    if link == "gcn" and graph.link == "raw":
        meta["link"] |= {"hops": hops, "hop_top_k": keep, "kept_mass": kept_mass}
    return {**matrix.fields(), "link": link, "meta": meta}


def _is_directed(graph: GraphData) -> bool:
    """As the graph was made; where that is unknown, whether its matrix is not its transpose."""
    directed = graph.meta.get("options", {}).get("directed")
    if directed is not None:
        return bool(directed)
    from scipy.sparse import csr_array

    shape = (graph.num_items, graph.num_items)
    matrix = csr_array((graph.weights.astype(np.float32, copy=False), graph.neighbors, graph.indptr), shape=shape)
    transpose = matrix.tocsc()  # columns: rows of the transpose, ascending as the graph's are
    names = ("indptr", "indices", "data")
    if all(np.array_equal(getattr(matrix, name), getattr(transpose, name)) for name in names):
        return False
    differing: Any = matrix != matrix.T  # explicit zeros aside; scipy's stubs call it a bool
    return bool(differing.nnz)


class Matrix:
    """CSR arrays on their way to a new graph."""

    def __init__(self, indptr: np.ndarray, neighbors: np.ndarray, weights: np.ndarray, degree: np.ndarray):
        self.indptr, self.neighbors, self.weights, self.degree = indptr, neighbors, weights, degree

    def fields(self) -> dict[str, np.ndarray]:
        return {"indptr": self.indptr, "neighbors": self.neighbors, "weights": self.weights, "degree": self.degree}

    def weighted(self, weights: np.ndarray) -> "Matrix":
        """The same entries with other weights."""
        return Matrix(self.indptr, self.neighbors, weights, self.degree)

    def diagonal(self) -> np.ndarray:
        """bool [E]: True where a row points at itself."""
        return self.neighbors == checks.row_ids(self.indptr)


def _without_padding(matrix: Matrix, padding: int) -> Matrix:
    """Empties the padding row; another row that points at padding is an error."""
    begin, end = int(matrix.indptr[padding]), int(matrix.indptr[padding + 1])
    found = [
        span.start + np.flatnonzero(matrix.neighbors[span] == padding) for _, span in blocks.of_rows(matrix.indptr)
    ]
    pointing = np.concatenate([np.zeros(0, np.int64), *found])
    pointing = pointing[(pointing < begin) | (pointing >= end)]
    if pointing.size:
        row = int(np.searchsorted(matrix.indptr, pointing[0], side="right")) - 1
        raise ValueError(
            f"row {row} points at padding_idx = {padding}, expected no row but the padding row to;"
            f" drop the events or entries of item {padding}"
        )
    if begin == end:
        return matrix
    indptr = matrix.indptr.copy()
    indptr[padding + 1 :] -= end - begin
    neighbors, weights = (np.delete(array, slice(begin, end)) for array in (matrix.neighbors, matrix.weights))
    degree = matrix.degree.copy()
    degree[padding] = 0
    return Matrix(indptr, neighbors, weights, degree)


def with_diagonal(matrix: Matrix, own: float | None, padding: int | None) -> Matrix:
    """Adds the self weight (None: the row's largest weight) to rows that lack their own entry."""
    missing, added = _missing(matrix, own, padding)
    if not missing.any():
        return matrix
    before = np.empty(len(matrix.neighbors), bool)
    for rows, span in blocks.of_rows(matrix.indptr):
        before[span] = matrix.neighbors[span] < blocks.row_ids(matrix.indptr, rows)
    place = (matrix.indptr[:-1] + checks.row_sums(matrix.indptr, before).astype(np.int64))[missing]
    return Matrix(
        matrix.indptr + np.concatenate([[0], np.cumsum(missing)]),
        np.insert(matrix.neighbors, place, np.flatnonzero(missing)),
        np.insert(matrix.weights, place, added),
        _with_added(matrix, missing, added),
    )


def degree_with_own(matrix: Matrix) -> np.ndarray:
    """The degrees that ``with_diagonal`` gives, with the row's largest weight where its own entry is missing."""
    return _with_added(matrix, *_missing(matrix, None, None))


def _missing(matrix: Matrix, own: float | None, padding: int | None) -> tuple[np.ndarray, np.ndarray]:
    """bool [H]: rows without their own entry, but for padding; float32: the self weights that they lack."""
    present = np.zeros(len(matrix.indptr) - 1, bool)
    for rows, span in blocks.of_rows(matrix.indptr):
        part = matrix.neighbors[span]
        present[part[part == blocks.row_ids(matrix.indptr, rows)]] = True
    missing = ~present
    if padding is not None:
        missing[padding] = False
    if own is None:
        return missing, checks.row_maxima(matrix.indptr, matrix.weights)[missing].astype(np.float32)
    return missing, np.full(int(missing.sum()), own, np.float32)


def _with_added(matrix: Matrix, missing: np.ndarray, added: np.ndarray) -> np.ndarray:
    degree = matrix.degree.copy()
    # Such a row was never pruned, so its stored weights are its whole sum.
    degree[missing] = checks.row_sums(matrix.indptr, matrix.weights)[missing] + added
    return degree


Values = Iterator[tuple[slice, np.ndarray]]  # blocks of the entries, in order, with their weights in float32


def _whole(values: Values, matrix: Matrix) -> np.ndarray:
    out = np.empty(len(matrix.neighbors), np.float32)
    for span, weights in values:
        out[span] = weights
    return out


def average(matrix: Matrix) -> Values:
    """Divides every row by its sum; a row whose weights are all 0 stays 0."""
    sums = checks.row_sums(matrix.indptr, matrix.weights)
    scale = np.divide(1.0, sums, out=np.zeros_like(sums), where=sums > 0)
    for rows, span in blocks.of_rows(matrix.indptr):
        yield span, (matrix.weights[span] * blocks.spread(scale, matrix.indptr, rows)).astype(np.float32)


def _check_positive(matrix: Matrix) -> None:
    """ValueError where a weight is 0: the attention link takes their logarithms."""
    if len(matrix.weights) and matrix.weights.min() <= 0:
        zero = np.flatnonzero(matrix.weights <= 0)
        row = int(np.searchsorted(matrix.indptr, zero[0], side="right")) - 1
        raise ValueError(
            f"weights: row {row} holds {matrix.weights[zero[0]]} for item {matrix.neighbors[zero[0]]};"
            ' link="attention" takes their logarithms and needs weights above 0: drop such entries'
        )


def gcn(matrix: Matrix) -> Values:
    """Divides every entry (i, j) by sqrt(d_i d_j), d the degrees before pruning."""
    root = np.sqrt(matrix.degree)
    scale = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0)
    for rows, span in blocks.of_rows(matrix.indptr):
        weights = matrix.weights[span] * blocks.spread(scale, matrix.indptr, rows)
        weights *= scale[matrix.neighbors[span]]
        yield span, weights.astype(np.float32)


def _powered(matrix: Matrix, hops: int, top_k: int | None, prune_first: bool) -> tuple[Matrix, list[float]]:
    """W^hops, pruned after every hop, and what each pruning kept of the rows' sums."""
    threads = thread_count(None)
    keep = len(matrix.degree) if top_k is None else top_k
    first, shares = matrix, [1.0]
    if prune_first and top_k is not None:
        first = pruned(matrix, top_k)
        whole = float(matrix.weights.sum(dtype=np.float64))
        shares = [float(first.weights.sum(dtype=np.float64)) / whole if whole > 0 else 1.0]
    power = first
    for _ in range(hops - 1):
        arrays = builder.multiply(
            *(power.indptr, power.neighbors, power.weights),
            *(first.indptr, first.neighbors, first.weights),
            top_k=keep,
            threads=threads,
        )
        whole = float(arrays[4].sum())
        shares.append(float(arrays[3].sum()) / whole if whole > 0 else 1.0)
        power = Matrix(arrays[0], arrays[1], arrays[2], matrix.degree)
    return power, shares


def symmetrised(matrix: Matrix, keep_own: bool) -> Matrix:
    """Z + Z^T off the diagonal: a pair's mass in either direction; own entries stay or go."""
    from scipy.sparse import csr_array

    height = len(matrix.indptr) - 1
    own = matrix.diagonal()
    weights = matrix.weights.astype(np.float64)
    shape = (height, height)
    diagonal = np.zeros(height)
    present = matrix.neighbors[own]
    diagonal[present] = weights[own]
    others = csr_array((weights, matrix.neighbors, matrix.indptr), shape=shape)
    both = others + others.T
    both.sort_indices()
    out = Matrix(both.indptr.astype(np.int64), both.indices, both.data, matrix.degree)
    on_diagonal = out.diagonal()
    if keep_own:
        out.weights[on_diagonal] = diagonal[out.neighbors[on_diagonal]]
    else:
        gone = np.concatenate([[0], np.cumsum(on_diagonal)])[out.indptr]
        out.indptr = out.indptr - gone
        out.neighbors, out.weights = out.neighbors[~on_diagonal], out.weights[~on_diagonal]
    out.neighbors = out.neighbors.astype(matrix.neighbors.dtype, copy=False)
    out.weights = out.weights.astype(np.float32)
    out.degree = checks.row_sums(out.indptr, out.weights)
    return out


def pruned(matrix: Matrix, top_k: int) -> Matrix:
    """The top_k heaviest others of every row, ties by id, and its own entry; degrees stay."""
    row = checks.row_ids(matrix.indptr)
    other = matrix.neighbors != row
    # Own entries lead their row, so that rank < top_k + 1 keeps them.
    order = np.lexsort((matrix.neighbors, -matrix.weights, other, row))
    rank = np.empty(len(row), np.int64)
    rank[order] = np.arange(len(row)) - matrix.indptr[row[order]]
    has_own = np.zeros(len(matrix.indptr) - 1, np.int64)
    has_own[matrix.neighbors[~other]] = 1
    keep = rank < top_k + has_own[row]
    indptr = np.concatenate([[0], np.cumsum(keep)])[matrix.indptr]
    return Matrix(indptr, matrix.neighbors[keep], matrix.weights[keep], matrix.degree)
