"""Rows given as CSR arrays or read from a file: checks."""

from typing import Any

import numpy as np

from . import blocks, checks, links
from .data import ARRAYS


def given(indptr: Any, neighbors: Any, weights: Any, num_items: int | None, directed: bool | None) -> dict[str, Any]:
    """The fields of ``InterestGraph.from_csr``, which documents the arguments."""
    indptr = checks.integers("indptr", indptr).copy()
    ids = checks.any_integers("neighbors", neighbors)
    checks.check_indptr(indptr, len(ids))
    rows = len(indptr) - 1
    height = rows if num_items is None else checks.whole_number("num_items", num_items, 1)
    if height < max(rows, 1):
        raise ValueError(f"num_items is {height}, expected at least 1 and the {rows} rows of indptr")
    if directed is not None and not isinstance(directed, (bool, np.bool_)):
        raise TypeError(f"directed is {directed!r}, expected True, False or None")
    indptr = np.concatenate([indptr, np.full(height - rows, len(ids), np.int64)])
    checks.check_neighbors(indptr, ids, height)
    ids = ids.astype(checks.neighbor_dtype(height))
    values = np.ones(len(ids), np.float32) if weights is None else checks.floats("weights", weights)
    if len(values) != len(ids):
        raise ValueError(f"weights has {len(values)} entries, expected {len(ids)}, as neighbors has")
    if checks.unsorted_at(indptr, ids) is not None:
        for block, span in blocks.of_rows(indptr):
            order = np.lexsort((ids[span], blocks.row_ids(indptr, block)))
            ids[span], values[span] = ids[span][order], values[span][order]
    twice = checks.unsorted_at(indptr, ids)
    if twice is not None:
        row = int(np.searchsorted(indptr, twice, side="right")) - 1
        raise ValueError(f"neighbors: row {row} holds {ids[twice]} twice, expected no duplicates in a row")
    given = links.Matrix(indptr, ids, values, checks.row_sums(indptr, values))
    degree = links.degree_with_own(given)
    meta = {
        "version": 2,
        "source": "csr",
        "options": {"num_items": height, "directed": None if directed is None else bool(directed)},
        "events": None,
        "time_cut": None,
        "event_hash": None,
    }
    arrays = {"indptr": indptr, "neighbors": ids, "weights": values, "degree": degree}
    return {**arrays, "meta": meta}


def verify(arrays: dict[str, np.ndarray], link: str) -> None:
    """ValueError or IndexError where loaded arrays break what the class promises."""
    indptr, neighbors, weights, degree = (arrays[name] for name in ARRAYS)
    if link not in ("raw", *links.LINKS):
        raise ValueError(f"link is {link!r}, expected raw or one of {', '.join(links.LINKS)}")
    verify_rows(indptr, neighbors, weights, degree, len(indptr) - 1)


def verify_rows(
    indptr: np.ndarray, neighbors: np.ndarray, weights: np.ndarray, degree: np.ndarray, num_items: int
) -> None:
    """The same of some rows of a graph of ``num_items`` items."""
    checks.check_indptr(indptr, len(neighbors))
    if neighbors.dtype != checks.neighbor_dtype(num_items):
        raise ValueError(f"neighbors has dtype {neighbors.dtype} for {num_items} items")
    checks.check_neighbors(indptr, neighbors, num_items)
    if checks.unsorted_at(indptr, neighbors) is not None:
        raise ValueError("neighbors: rows are not ascending")
    if len(weights) != len(neighbors) or len(degree) != len(indptr) - 1:
        raise ValueError("weights or degree have the wrong length")
    for name, array in (("weights", weights), ("degree", degree)):
        checks.finite_total(name, array)
