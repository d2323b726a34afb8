"""The reference: ``resemb_ext.functional`` in plain PyTorch, for tests and for reading.

Differentiable to any order, on any device, in the tables' accumulator type; memory grows with
positions x neighbours x D, which is what the operators avoid.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


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
    """E[ids] = sum_j w_ij C[j] + R[i]: shapes and dtypes as in ``functional.res_embedding``."""

    def embed(flat: Tensor) -> Tensor:
        return _embed(flat, central, residual, indptr, neighbors, weights, padding_idx)

    return _look_up(ids, central, embed, out_dtype)


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
    mean_divisor: str = "weights",
    padding_idx: int | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Pooled bags: ids [P], offsets [B] (starts); as in ``functional.res_embedding_bag``."""

    def embed(flat: Tensor) -> Tensor:
        return _embed(flat, central, residual, indptr, neighbors, weights, padding_idx)

    return _pool(ids, offsets, central, embed, mode, per_sample_weights, mean_divisor, padding_idx, out_dtype)


def attention_embedding(
    ids: Tensor,
    central: Tensor,
    residual: Tensor,
    indptr: Tensor,
    neighbors: Tensor,
    log_weights: Tensor,
    a_src: Tensor,
    a_dst: Tensor,
    b: Tensor,
    *,
    dropout: float = 0.0,
    seed: Tensor | None = None,
    padding_idx: int | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """E[ids] = sum_j alpha_ij C[j] + R[i]: as in ``functional.attention_embedding``."""

    def embed(flat: Tensor) -> Tensor:
        return _attend(
            flat, central, residual, indptr, neighbors, log_weights, a_src, a_dst, b, dropout, seed, padding_idx
        )

    return _look_up(ids, central, embed, out_dtype)


def attention_embedding_bag(
    ids: Tensor,
    offsets: Tensor,
    central: Tensor,
    residual: Tensor,
    indptr: Tensor,
    neighbors: Tensor,
    log_weights: Tensor,
    a_src: Tensor,
    a_dst: Tensor,
    b: Tensor,
    *,
    mode: str = "mean",
    per_sample_weights: Tensor | None = None,
    mean_divisor: str = "weights",
    dropout: float = 0.0,
    seed: Tensor | None = None,
    padding_idx: int | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Pooled bags: ids [P], offsets [B] (starts); as in ``functional.attention_embedding_bag``."""

    def embed(flat: Tensor) -> Tensor:
        return _attend(
            flat, central, residual, indptr, neighbors, log_weights, a_src, a_dst, b, dropout, seed, padding_idx
        )

    return _pool(ids, offsets, central, embed, mode, per_sample_weights, mean_divisor, padding_idx, out_dtype)


def _look_up(ids: Tensor, central: Tensor, embed: Callable[[Tensor], Tensor], out_dtype: torch.dtype | None) -> Tensor:
    out = embed(ids.reshape(-1).long()).to(out_dtype or central.dtype)
    return out.reshape(*ids.shape, central.shape[1])


def _pool(
    ids: Tensor,
    offsets: Tensor,
    central: Tensor,
    embed: Callable[[Tensor], Tensor],
    mode: str,
    per_sample_weights: Tensor | None,
    mean_divisor: str,
    padding_idx: int | None,
    out_dtype: torch.dtype | None,
) -> Tensor:
    flat = ids.reshape(-1).long()
    embeddings = embed(flat)
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
        terms = factor if mean_divisor == "weights" else kept.to(factor.dtype)
        total = factor.new_zeros(bags).index_add(0, bag, terms)
        occupied = torch.zeros(bags, dtype=torch.bool, device=ids.device)
        occupied[bag[kept]] = True
        pooled = pooled / total.masked_fill(~occupied, 1)[:, None]
    return pooled.to(out_dtype or central.dtype)


def _padding(padding_idx: int | None, num_items: int) -> int:
    return -1 if padding_idx is None else padding_idx % num_items


def _acc(central: Tensor) -> torch.dtype:
    return torch.float64 if central.dtype == torch.float64 else torch.float32


def _edges(ids: Tensor, indptr: Tensor) -> tuple[Tensor, Tensor]:
    """Position and edge number of every edge of the rows of ids."""
    starts = indptr[ids]
    degrees = indptr[ids + 1] - starts
    position = torch.repeat_interleave(torch.arange(ids.shape[0], device=ids.device), degrees)
    within = torch.arange(position.shape[0], device=ids.device) - (degrees.cumsum(0) - degrees)[position]
    return position, starts[position] + within


def _finish(ids: Tensor, position: Tensor, links: Tensor, residual: Tensor, padding_idx: int | None) -> Tensor:
    out = residual[ids].to(links.dtype).index_add(0, position, links)
    return out.masked_fill((ids == _padding(padding_idx, residual.shape[0]))[:, None], 0)


def _embed(
    ids: Tensor,
    central: Tensor,
    residual: Tensor,
    indptr: Tensor,
    neighbors: Tensor,
    weights: Tensor,
    padding_idx: int | None,
) -> Tensor:
    dtype = _acc(central)
    position, edge = _edges(ids, indptr)
    links = weights[edge].to(dtype)[:, None] * central[neighbors[edge].long()].to(dtype)
    return _finish(ids, position, links, residual, padding_idx)


def _attend(
    ids: Tensor,
    central: Tensor,
    residual: Tensor,
    indptr: Tensor,
    neighbors: Tensor,
    log_weights: Tensor,
    a_src: Tensor,
    a_dst: Tensor,
    b: Tensor,
    dropout: float,
    seed: Tensor | None,
    padding_idx: int | None,
) -> Tensor:
    dtype, heads = _acc(central), b.shape[0]
    position, edge = _edges(ids, indptr)
    row = ids[position]
    own = central[row].to(dtype).unflatten(1, (heads, -1))
    other = central[neighbors[edge].long()].to(dtype).unflatten(1, (heads, -1))
    score = (own * a_src.to(dtype).view(heads, -1)).sum(-1)
    score = F.leaky_relu(score + (other * a_dst.to(dtype).view(heads, -1)).sum(-1), 0.2)
    score = score + b.to(dtype) * log_weights[edge].to(dtype)[:, None]  # [edges, heads]
    largest = score.new_full((ids.shape[0], heads), float("-inf"))
    largest = largest.scatter_reduce(0, position[:, None].expand_as(score), score.detach(), "amax")
    alpha = (score - largest[position]).exp()
    total = torch.zeros_like(largest).index_add(0, position, alpha)
    alpha = alpha / total[position]
    if dropout > 0:
        assert seed is not None
        alpha = alpha * kept_edges(seed, row, edge, heads, dropout) / (1 - dropout)
    links = (alpha[:, :, None] * other).flatten(1)
    return _finish(ids, position, links, residual, padding_idx)


def kept_edges(seed: Tensor, rows: Tensor, edges: Tensor, heads: int, dropout: float) -> Tensor:
    """The edges that dropout keeps, as in csrc/common/attention.h: bool [n, heads].

    Args:
        seed: int64 [1]. rows, edges: int64 [n], the item and the number of each edge in the graph.
        heads: number of heads, each with a mask of its own.
        dropout: share that is dropped.
    """
    groups = torch.arange((heads + 3) // 4, device=rows.device)
    edge, row = edges[:, None].expand(-1, len(groups)), rows[:, None].expand(-1, len(groups))
    word = philox(seed, (edge & _MASK, edge >> 32 & _MASK, row, groups.expand_as(row)))
    random = torch.stack(word, -1).flatten(1)[:, :heads]
    return random >= int(dropout * 2**32)


_MASK = 0xFFFFFFFF


def philox(key: Tensor, counter: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Philox4x32-10 (Salmon et al., SC 2011): four random words of 32 bits, each in an int64 tensor.

    Args:
        key: int64, of 64 bits.
        counter: four int64 tensors of one shape, of 32 bits each, the lowest first.
    """

    def product(factor: int, word: Tensor) -> tuple[Tensor, Tensor]:
        """High and low word; an int64 holds products of 32 by 16 bits."""
        low, high = factor * (word & 0xFFFF), factor * (word >> 16)
        middle = high + (low >> 16)
        return middle >> 16, (middle & 0xFFFF) << 16 | low & 0xFFFF

    key0, key1 = key & _MASK, key >> 32 & _MASK
    c0, c1, c2, c3 = counter
    for _ in range(10):
        (high0, low0), (high1, low1) = product(0xD2511F53, c0), product(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
        key0, key1 = key0 + 0x9E3779B9 & _MASK, key1 + 0xBB67AE85 & _MASK
    return c0, c1, c2, c3


def local_activation(
    keys: Tensor,
    query: Tensor,
    starts: Tensor | None,
    offsets: Tensor,
    by_query: Tensor,
    w_key: Tensor,
    w_product: Tensor,
    slope: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    pool: bool,
) -> tuple[Tensor, Tensor]:
    """DIN's attention unit with one hidden layer (Zhou et al. 2018, arXiv 1706.06978, section 4.3).

    For a pair of sample b and a key k: z = w_key k + w_product (q_b * k) + by_query_b; a = z, or slope z where z is not
    above 0; score = out_weight . a + out_bias.

    Args:
        keys: [K, D].
        query: q, [B, D].
        starts: int64 [B], the first key of each sample; None: sample b's keys are those of its pairs.
        offsets: int64 [B + 1]: sample b has pairs offsets[b] to offsets[b + 1].
        by_query: [B, H], the part of the first layer in q with its bias.
        w_key, w_product: [H, D].
        slope, out_weight: [H].
        out_bias: [1].
        pool: sum the keys by score as well.

    Returns:
        scores [Q]; the sums of score times key, [B, D], or [0, D] without ``pool``.
    """
    samples = query.shape[0]
    counts = torch.diff(offsets)
    row = torch.repeat_interleave(torch.arange(samples, device=offsets.device), counts)
    if starts is not None:
        at = torch.arange(row.numel(), device=row.device) + (starts - offsets[:-1]).index_select(0, row)
        keys = keys.index_select(0, at)
    product = query.index_select(0, row) * keys
    z = keys @ w_key.t() + product @ w_product.t() + by_query.index_select(0, row)
    scores = torch.where(z > 0, z, slope * z) @ out_weight + out_bias
    pooled = keys.new_zeros((samples if pool else 0, keys.shape[1]))
    if pool:
        pooled = pooled.index_add(0, row, keys * scores.unsqueeze(1))
    return scores, pooled
