"""The twin: `resemb_ext.functional` in plain PyTorch, for tests and for reading.

Differentiable to any order, on any device, in the tables' accumulator type; memory grows with
positions x neighbours x D, which is what the operators avoid.
"""

from __future__ import annotations

import torch
from torch import Tensor


def res_embedding(
    ids: Tensor,
    central: Tensor,
    residual: Tensor,
    indptr: Tensor,
    neighbors: Tensor,
    weights: Tensor,
    *,
    padding_idx: int | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """E[ids] = sum_j w_ij C[j] + R[i]: shapes and dtypes as in `functional.res_embedding`."""
    flat = ids.reshape(-1).long()
    embeddings = _embed(flat, central, residual, indptr, neighbors, weights, padding_idx)
    return embeddings.to(out_dtype or central.dtype).reshape(*ids.shape, central.shape[1])


def res_embedding_bag(
    ids: Tensor,
    offsets: Tensor,
    central: Tensor,
    residual: Tensor,
    indptr: Tensor,
    neighbors: Tensor,
    weights: Tensor,
    *,
    mode: str = "mean",
    per_sample_weights: Tensor | None = None,
    padding_idx: int | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Pooled bags: ids [P], offsets [B] (starts); as in `functional.res_embedding_bag`."""
    flat = ids.reshape(-1).long()
    embeddings = _embed(flat, central, residual, indptr, neighbors, weights, padding_idx)
    bags = offsets.shape[0]
    bounds = torch.cat([offsets.long(), offsets.new_full((1,), flat.shape[0]).long()])
    bag = torch.repeat_interleave(torch.arange(bags, device=ids.device), bounds.diff())
    kept = flat != _padding(padding_idx, central.shape[0])
    factor = kept.to(embeddings.dtype)
    if per_sample_weights is not None:
        factor = per_sample_weights.to(embeddings.dtype).masked_fill(~kept, 0)
    pooled = embeddings.new_zeros(bags, central.shape[1])
    pooled = pooled.index_add(0, bag, factor[:, None] * embeddings)
    if mode == "mean":
        total = factor.new_zeros(bags).index_add(0, bag, factor)
        occupied = torch.zeros(bags, dtype=torch.bool, device=ids.device)
        occupied[bag[kept]] = True
        pooled = pooled / total.masked_fill(~occupied, 1)[:, None]
    return pooled.to(out_dtype or central.dtype)


def _padding(padding_idx: int | None, num_items: int) -> int:
    return -1 if padding_idx is None else padding_idx % num_items


def _embed(
    ids: Tensor,
    central: Tensor,
    residual: Tensor,
    indptr: Tensor,
    neighbors: Tensor,
    weights: Tensor,
    padding_idx: int | None,
) -> Tensor:
    dtype = torch.float64 if central.dtype == torch.float64 else torch.float32
    starts = indptr[ids]
    degrees = indptr[ids + 1] - starts
    position = torch.repeat_interleave(torch.arange(ids.shape[0], device=ids.device), degrees)
    within = (
        torch.arange(position.shape[0], device=ids.device) - (degrees.cumsum(0) - degrees)[position]
    )
    edge = starts[position] + within
    links = weights[edge].to(dtype)[:, None] * central[neighbors[edge].long()].to(dtype)
    out = residual[ids].to(dtype).index_add(0, position, links)
    return out.masked_fill((ids == _padding(padding_idx, central.shape[0]))[:, None], 0)
