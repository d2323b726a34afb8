"""Autograd and fake kernels of the operators.

Gradients of the tables come either dense or, with ``sparse=True``, as COO tensors of the touched rows,
ascending and unique. The dense backward is linear in the upstream gradient and bilinear in it and the
tables or weights, so its own backward is made of lookups and gradients again; the row form has none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from resemb_ext import _loader as _loader  # registers the operators

ops = torch.ops.resemb_ext

_CENTRAL, _RESIDUAL, _WEIGHTS, _SAMPLE_WEIGHTS = 1, 2, 5, 7  # inputs of res_embedding


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a table's rows are summed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@torch.library.register_fake("resemb_ext::res_embedding")
def _(
    ids, central, residual, indptr, neighbors, weights, offsets, sample_weights, padding_idx, mean, out_dtype, sparse
):
    rows = ids.shape[0] if offsets is None else offsets.shape[0] - 1
    out = central.new_empty((rows, central.shape[1]), dtype=out_dtype or central.dtype)
    return out, ids.new_empty((2 * ids.shape[0] + 1,), dtype=torch.int32)


@torch.library.register_fake("resemb_ext::res_embedding_backward")
def _(
    grad,
    ids,
    plan,
    central,
    residual,
    indptr,
    neighbors,
    weights,
    offsets,
    sample_weights,
    padding_idx,
    mean,
    table_dtype,
    need_central,
    need_residual,
    need_weights,
    need_sample_weights,
):
    table = (indptr.shape[0] - 1, grad.shape[1])
    return (
        grad.new_empty(table if need_central else (0,), dtype=table_dtype),
        grad.new_empty(table if need_residual else (0,), dtype=table_dtype),
        grad.new_empty(weights.shape if need_weights else (0,), dtype=weights.dtype),
        grad.new_empty((ids.shape[0] if need_sample_weights else 0,), dtype=accumulator(table_dtype)),
    )


@torch.library.register_fake("resemb_ext::res_embedding_backward_rows")
def _(
    grad,
    plan,
    central,
    residual,
    indptr,
    neighbors,
    weights,
    offsets,
    sample_weights,
    mean,
    table_dtype,
    need_central,
    need_residual,
    need_weights,
    need_sample_weights,
):
    context = torch.library.get_ctx()
    rows = context.new_dynamic_size() if need_residual else 0
    columns = context.new_dynamic_size() if need_central else 0
    edges = context.new_dynamic_size() if need_weights else 0
    positions = (plan.shape[0] - 1) // 2
    dim = grad.shape[1]
    return (
        grad.new_empty((rows,), dtype=torch.int64),
        grad.new_empty((rows, dim), dtype=table_dtype),
        grad.new_empty((columns,), dtype=torch.int64),
        grad.new_empty((columns, dim), dtype=table_dtype),
        grad.new_empty((edges,), dtype=torch.int64),
        grad.new_empty((edges,), dtype=weights.dtype),
        grad.new_empty((positions if need_sample_weights else 0,), dtype=accumulator(table_dtype)),
    )


def _setup_forward(ctx: Any, inputs: tuple, output: tuple) -> None:
    (ids, central, residual, indptr, neighbors, weights, offsets, sample_weights, padding_idx, mean, _, sparse) = inputs
    need_central, need_residual, need_weights, need_samples = (
        ctx.needs_input_grad[i] for i in (_CENTRAL, _RESIDUAL, _WEIGHTS, _SAMPLE_WEIGHTS)
    )
    # As for nn.Embedding, the tables may change between forward and backward unless a gradient
    # reads them.
    ctx.save_for_backward(
        ids,
        output[1],
        central if need_weights or need_samples else None,
        residual if need_samples else None,
        indptr,
        neighbors,
        weights,
        offsets,
        sample_weights,
    )
    ctx.needs = (need_central, need_residual, need_weights, need_samples)
    ctx.settings = (padding_idx, mean, central.dtype, sparse)
    ctx.set_materialize_grads(False)
    ctx.shapes = (central.shape, weights.shape)


def sparse_rows(indices: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
    """A gradient from ascending, distinct indices."""
    return torch.sparse_coo_tensor(indices.unsqueeze(0), values, shape, is_coalesced=True, check_invariants=False)


def _backward_forward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple:
    result: list[Tensor | None] = [None] * 12
    if grad is None:
        return tuple(result)
    ids, plan, central, residual, indptr, neighbors, weights, offsets, samples = ctx.saved_tensors
    padding_idx, mean, dtype, sparse = ctx.settings
    graph = (indptr, neighbors, weights, offsets, samples)
    places = (_CENTRAL, _RESIDUAL, _WEIGHTS, _SAMPLE_WEIGHTS)
    if sparse:
        rows, row_values, columns, column_values, edges, edge_values, samples_grad = ops.res_embedding_backward_rows(
            grad, plan, central, residual, *graph, mean, dtype, *ctx.needs
        )
        table_shape, weights_shape = ctx.shapes
        gradients = (
            sparse_rows(columns, column_values, table_shape) if ctx.needs[0] else None,
            sparse_rows(rows, row_values, table_shape) if ctx.needs[1] else None,
            sparse_rows(edges, edge_values, weights_shape) if ctx.needs[2] else None,
            samples_grad,
        )
    else:
        gradients = ops.res_embedding_backward(
            grad, ids, plan, central, residual, *graph, padding_idx, mean, dtype, *ctx.needs
        )
    for place, gradient, needed in zip(places, gradients, ctx.needs, strict=True):
        result[place] = gradient if needed else None
    return tuple(result)


torch.library.register_autograd("resemb_ext::res_embedding", _backward_forward, setup_context=_setup_forward)


def _setup_backward(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.save_for_backward(*inputs[:10])
    ctx.settings = inputs[10:13]
    ctx.wanted = inputs[13:]
    ctx.set_materialize_grads(False)


def _total(terms: list[Tensor]) -> Tensor | None:
    return sum(terms[1:], terms[0]) if terms else None


def _backward_backward(
    ctx: Any, g_central: Tensor | None, g_residual: Tensor | None, g_weights: Tensor | None, g_samples: Tensor | None
) -> tuple:
    """Gradients of the dense backward's outputs with respect to its inputs.

    Its outputs are, with G = the upstream gradient summed per row under sample weights c:
    grad C = W^T G, grad R = G, grad w_ij = G_i . C_j, grad c_p = grad_p . E_p.
    """
    grad, ids, plan, central, residual, indptr, neighbors, weights, offsets, samples = ctx.saved_tensors
    padding_idx, mean, dtype = ctx.settings
    want_central, want_residual, want_weights, want_samples = ctx.wanted
    shape = (indptr.shape[0] - 1, grad.shape[1])

    def table(t: Tensor | None) -> Tensor:
        return grad.new_zeros(shape, dtype=dtype) if t is None else t

    def look_up(c: Tensor | None, r: Tensor | None, w: Tensor, s: Tensor | None) -> Tensor:
        return ops.res_embedding(
            ids, table(c), table(r), indptr, neighbors, w, offsets, s, padding_idx, mean, grad.dtype, False
        )[0]

    def gradient(which: int, c: Tensor | None, r: Tensor | None, w: Tensor, s: Tensor | None) -> Tensor:
        return ops.res_embedding_backward(
            grad,
            ids,
            plan,
            table(c),
            table(r),
            indptr,
            neighbors,
            w,
            offsets,
            s,
            padding_idx,
            mean,
            dtype,
            *(which == i for i in range(4)),
        )[which]

    gw = g_weights if want_weights else None
    gs = g_samples if want_samples else None
    gc = g_central if want_central else None
    gr = g_residual if want_residual else None
    for_grad, for_central, for_residual, for_weights, for_samples = [], [], [], [], []
    if gc is not None or gr is not None:
        for_grad.append(look_up(gc, gr, weights, samples))
        if ctx.needs_input_grad[7] and gc is not None:
            for_weights.append(gradient(2, gc, None, weights, samples))
        if ctx.needs_input_grad[9]:
            for_samples.append(gradient(3, gc, gr, weights, samples))
    if gw is not None:
        for_grad.append(look_up(central, None, gw, samples))
        if ctx.needs_input_grad[3]:
            for_central.append(gradient(0, None, None, gw, samples))
        if ctx.needs_input_grad[9]:
            for_samples.append(gradient(3, central, None, gw, samples))
    if gs is not None:
        for_grad.append(look_up(central, residual, weights, gs))
        if ctx.needs_input_grad[3]:
            for_central.append(gradient(0, None, None, weights, gs))
        if ctx.needs_input_grad[4]:
            for_residual.append(gradient(1, None, None, weights, gs))
        if ctx.needs_input_grad[7]:
            for_weights.append(gradient(2, central, None, weights, gs))
    result: list[Tensor | None] = [None] * 17
    result[0], result[3], result[4] = _total(for_grad), _total(for_central), _total(for_residual)
    result[7], result[9] = _total(for_weights), _total(for_samples)
    return tuple(result)


torch.library.register_autograd("resemb_ext::res_embedding_backward", _backward_backward, setup_context=_setup_backward)


def _refuse_double_backward(ctx: Any, *_: Any) -> tuple:
    raise RuntimeError("resemb_ext: double backward through sparse gradients is not defined; use sparse=False")


torch.library.register_autograd(
    "resemb_ext::res_embedding_backward_rows", _refuse_double_backward, setup_context=lambda ctx, inputs, output: None
)
