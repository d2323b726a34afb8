"""Graphs of what is known of items beside events: their categories, or vectors of their content."""

from typing import Any

import numpy as np

from . import checks, csr

_BLOCK = 1 << 24  # similarities that are held at once


def by_category(category: Any, popularity: Any, top_k: int, padding_idx: int | None) -> dict[str, Any]:
    """The fields of ``InterestGraph.from_categories``, which documents the arguments."""
    of_item = checks.integers("category", category)
    height = len(of_item)
    if not height:
        raise ValueError("category is empty, expected one number an item")
    keep = checks.whole_number("top_k", top_k, 1)
    padding = checks.padding_option(padding_idx, height)
    met = np.zeros(height) if popularity is None else checks.floats("popularity", popularity).astype(np.float64)
    if len(met) != height:
        raise ValueError(f"popularity has {len(met)} entries, expected {height}, one an item")
    known = np.flatnonzero(of_item >= 0)
    known = known[known != (-1 if padding is None else padding)]
    # By category, the most popular first, ties by id.
    order = known[np.lexsort((known, -met[known], of_item[known]))]
    starts = np.flatnonzero(np.r_[True, of_item[order[1:]] != of_item[order[:-1]]]) if len(order) else order
    sizes = np.diff(np.r_[starts, len(order)])
    first, size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
    rank = np.arange(len(order)) - first
    # An item among the top_k itself takes the one behind them.
    degree = np.minimum(size - 1, keep)
    rows = np.repeat(np.arange(len(order)), degree)
    nth = np.arange(len(rows)) - np.repeat(np.cumsum(degree) - degree, degree)
    neighbors = order[first[rows] + nth + (nth >= rank[rows])]
    counts = np.zeros(height, np.int64)
    counts[order] = degree
    by_item = np.lexsort((neighbors, order[rows]))
    fields = csr.given(np.r_[0, np.cumsum(counts)], neighbors[by_item], None, None, True)
    fields["meta"] |= {"source": "categories", "options": {**fields["meta"]["options"], "top_k": keep}}
    return fields


def by_vectors(vectors: Any, top_k: int, padding_idx: int | None) -> dict[str, Any]:
    """The fields of ``InterestGraph.from_vectors``, which documents the arguments."""
    import torch

    given = torch.as_tensor(vectors).detach().cpu()
    if given.dim() != 2 or not len(given) or not given.dtype.is_floating_point:
        raise ValueError(f"vectors has shape {list(given.shape)} and {given.dtype}, expected floats [H, D]")
    unit = given.float()
    if not bool(unit.isfinite().all()):
        raise ValueError("vectors holds a number that is not finite")
    height = len(unit)
    keep = min(checks.whole_number("top_k", top_k, 1), height - 1)
    padding = checks.padding_option(padding_idx, height)
    length = unit.norm(dim=1, keepdim=True)
    unit = torch.where(length > 0, unit / length.clamp_min(torch.finfo(torch.float32).tiny), torch.zeros(()))
    if padding is not None:
        unit[padding] = 0
    indptr, found, weights = [0], [], []
    step = max(1, _BLOCK // height)
    for start in range(0, height, step):
        likeness = unit[start : start + step] @ unit.T
        likeness[torch.arange(len(likeness)), torch.arange(start, start + len(likeness))] = -torch.inf
        best, place = likeness.topk(keep, dim=1)
        for value, items in zip(best.numpy(), place.numpy(), strict=True):
            near = value > 0
            order = np.argsort(items[near])
            found.append(items[near][order])
            weights.append(value[near][order])
            indptr.append(indptr[-1] + int(near.sum()))
    none = np.zeros(0)
    fields = csr.given(
        np.array(indptr), np.concatenate([none.astype(np.int64), *found]), np.concatenate([none, *weights]), None, True
    )
    fields["meta"] |= {"source": "vectors", "options": {**fields["meta"]["options"], "top_k": keep}}
    return fields
