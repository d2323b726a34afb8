"""The functional form of Res-embedding: lookup and bag over an interest graph.

All follow E[i] = sum_{j in N(i)} w_ij C[j] + R[i] (Zhou et al. 2019, arXiv 1906.10304) with CSR rows
N(i) given by ``indptr``, ``neighbors`` and ``weights``, or with w made from C by attention.
``resemb_ext.reference`` holds the same functions in plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from resemb_ext._bags import flat_ids, nest, normalize_padding_idx, pooled_bags
from resemb_ext._registration import accumulator, look_up
from resemb_ext._registration_attention import attend

LookupOperator = Callable[..., tuple[Tensor, Any]]


def res_embedding(
    ids: Tensor,
    central: Tensor,
    residual: Tensor,
    indptr: Tensor,
    neighbors: Tensor,
    weights: Tensor,
    *,
    padding_idx: int | None = None,
    sparse: bool = False,
    out_dtype: torch.dtype | None = None,
    operator: LookupOperator | None = None,
) -> Tensor:
    """Looks up E[ids].

    Sums run in float32 (float64 for float64 tables) in a fixed order: the result does not depend on
    the number of threads. Each unique id is computed once.

    Args:
        ids: int64 or int32, any shape, values in [0, H); also nested, of layout torch.jagged.
        central: C, [H, D], float32, float64, float16 or bfloat16. Tables that are not contiguous are
            copied on every call.
        residual: R, [H, D], dtype of ``central``.
        indptr: int64 [H + 1], ascending from 0 to E.
        neighbors: int32 or int64 [E], values in [0, H).
        weights: link weights, float32, float64 or float16 [E]. Those in float16 are converted, exactly, before they
            are multiplied, and take no gradient.
        padding_idx: its positions give zero vectors and no gradient; negative counts from H.
        sparse: gradients of the tables (and of ``weights``) as COO tensors of the touched rows.
        out_dtype: dtype of the result; default that of the tables.
        operator: takes the place of torch.ops.resemb_ext.res_embedding, say to step in backward.

    Returns:
        ``[*ids.shape, D]``, nested as ids are.

    Raises:
        IndexError: an id or a neighbour out of range; names the first and its position. On CUDA a later
            call raises, see ``ResEmbedding.check``.
        TypeError: ids that are not integers.
        ValueError: shapes, dtypes or padding_idx that do not fit.
    """
    flat = flat_ids(ids)
    out, _ = (operator or look_up)(
        flat,
        central,
        residual,
        indptr,
        neighbors,
        weights,
        None,
        None,
        normalize_padding_idx(padding_idx, central.shape[0]),
        False,
        out_dtype,
        sparse,
    )
    return nest(out, ids) if ids.is_nested else out.reshape(*ids.shape, central.shape[1])


def res_embedding_bag(
    ids: Tensor,
    offsets: Tensor | None,
    central: Tensor,
    residual: Tensor,
    indptr: Tensor,
    neighbors: Tensor,
    weights: Tensor,
    *,
    mode: str = "mean",
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    mean_divisor: str = "weights",
    padding_idx: int | None = None,
    sparse: bool = False,
    out_dtype: torch.dtype | None = None,
    operator: LookupOperator | None = None,
) -> Tensor:
    """Looks up and pools bags of ids in one pass, as nn.EmbeddingBag does for a plain table.

    Padding is outside the mean's count and contributes nothing; an empty bag is 0. With
    ``per_sample_weights`` c, mode "sum" gives sum c_p E_p. Mode "mean" (an extension of nn.EmbeddingBag)
    gives sum c_p E_p / sum c_p over the positions other than padding, or with ``mean_divisor="count"``,
    as FBGEMM and TorchRec do, that sum divided by the number of these positions.

    Args:
        ids: int64 or int32, [P] with ``offsets``, or without them [B, N], N ids a bag, or a nested tensor
            of layout torch.jagged, whose rows are the bags.
        offsets: int64 or int32 [B], the start of each bag; [B + 1] with ``include_last_offset``.
        central, residual, indptr, neighbors, weights: as for ``res_embedding``.
        mode: "sum" or "mean".
        per_sample_weights: floating, the shape of ``ids``; differentiable.
        include_last_offset: ``offsets`` ends with the end of the last bag; ids behind it are
            ignored (nn.EmbeddingBag does so for float32 sums without padding alone).
        mean_divisor: of mode "mean" with per_sample_weights: "weights" or "count".
        padding_idx, sparse, out_dtype, operator: as for ``res_embedding``.

    Returns:
        [B, D].

    Raises:
        IndexError: an id or a neighbour out of range.
        TypeError: ids that are not integers, per_sample_weights that are not floating.
        ValueError: shapes, dtypes, mode, mean_divisor or offsets that do not fit.
    """
    padding = normalize_padding_idx(padding_idx, central.shape[0])
    bags = pooled_bags(
        ids, offsets, mode, per_sample_weights, include_last_offset, mean_divisor, padding, central.dtype
    )
    out, _ = (operator or look_up)(
        bags.ids,
        central,
        residual,
        indptr,
        neighbors,
        weights,
        bags.bounds,
        bags.sample_weights,
        padding,
        bags.mean,
        out_dtype,
        sparse,
    )
    return out[:-1] if bags.rest else out


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
    sparse: bool = False,
    out_dtype: torch.dtype | None = None,
    operator: LookupOperator | None = None,
) -> Tensor:
    """Looks up E[ids] under the attention link, E[i] = sum_{j in N(i)} alpha_ij C[j] + R[i].

    alpha_ij = softmax over N(i) of LeakyReLU_0.2(a_src . C[i] + a_dst . C[j]) + b log z_ij, as graph
    attention networks score edges (Velickovic et al. 2018, arXiv 1710.10903, eq. 3) with a prior from the
    graph's weights z. With several heads each has its D / heads columns of C, a_src and a_dst, its b, and
    gives those columns of E. Scores are made once for each unique row of the batch, and again in backward;
    nothing of the size of the edges times D is kept. First derivatives only.

    Args:
        ids, central, residual, indptr, padding_idx, sparse, out_dtype: as for ``res_embedding``.
        neighbors: int32 or int64 [E]; every row that is not empty holds its own item.
        log_weights: log z, float32, float64 or float16 [E], finite; no gradient. A number added to all of a row
            changes nothing: log(z / the row's largest z) is rounded least.
        a_src, a_dst: floating [D]. Summed and scored in float32 (float64 for float64 tables); their
            gradients are always dense.
        b: floating [heads]; heads divides D.
        dropout: share of the edges whose alpha is set to 0 for this call, the others divided by
            1 - dropout; in [0, 1). Each edge and head is dropped by Philox(seed; edge, row, head), in
            forward and backward alike.
        seed: int64 [1], on the device of ids; needed with dropout.
        operator: takes the place of torch.ops.resemb_ext.attention_embedding.

    Returns:
        ``[*ids.shape, D]``.

    Raises:
        IndexError: an id or a neighbour out of range.
        TypeError: ids that are not integers.
        ValueError: shapes, dtypes, dropout, seed or padding_idx that do not fit; a row without its own
            item; a log weight that is not finite (z must be above 0).
        RuntimeError: log_weights that require gradients; a second derivative.
    """
    flat = flat_ids(ids)
    acc = accumulator(central.dtype)
    out, _ = (operator or attend)(
        flat,
        central,
        residual,
        indptr,
        neighbors,
        log_weights,
        a_src.to(acc),
        a_dst.to(acc),
        b.to(acc),
        seed,
        None,
        None,
        normalize_padding_idx(padding_idx, central.shape[0]),
        False,
        dropout,
        out_dtype,
        sparse,
    )
    return nest(out, ids) if ids.is_nested else out.reshape(*ids.shape, central.shape[1])


def attention_embedding_bag(
    ids: Tensor,
    offsets: Tensor | None,
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
    include_last_offset: bool = False,
    mean_divisor: str = "weights",
    dropout: float = 0.0,
    seed: Tensor | None = None,
    padding_idx: int | None = None,
    sparse: bool = False,
    out_dtype: torch.dtype | None = None,
    operator: LookupOperator | None = None,
) -> Tensor:
    """Looks up and pools bags under the attention link: [B, D].

    Args:
        ids, offsets, mode, per_sample_weights, include_last_offset, mean_divisor: as for ``res_embedding_bag``.
        others: as for ``attention_embedding``.

    Raises:
        IndexError, TypeError, ValueError, RuntimeError: as both.
    """
    padding = normalize_padding_idx(padding_idx, central.shape[0])
    bags = pooled_bags(
        ids, offsets, mode, per_sample_weights, include_last_offset, mean_divisor, padding, central.dtype
    )
    acc = accumulator(central.dtype)
    out, _ = (operator or attend)(
        bags.ids,
        central,
        residual,
        indptr,
        neighbors,
        log_weights,
        a_src.to(acc),
        a_dst.to(acc),
        b.to(acc),
        seed,
        bags.bounds,
        bags.sample_weights,
        padding,
        bags.mean,
        dropout,
        out_dtype,
        sparse,
    )
    return out[:-1] if bags.rest else out
