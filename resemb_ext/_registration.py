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
from resemb_ext._transforms import Saved, differentiable, refused

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


def _setup_forward(ctx: Any, inputs: tuple, output: tuple, jvp: bool) -> Saved:
    (ids, central, residual, indptr, neighbors, weights, offsets, sample_weights, padding_idx, mean, out, sparse) = (
        inputs
    )
    need_central, need_residual, need_weights, need_samples = (
        ctx.needs_input_grad[i] for i in (_CENTRAL, _RESIDUAL, _WEIGHTS, _SAMPLE_WEIGHTS)
    )
    if need_weights:
        _check_learns(weights)
    ctx.needs = (need_central, need_residual, need_weights, need_samples)
    ctx.settings = (padding_idx, mean, central.dtype, sparse)
    ctx.out_dtype = out
    ctx.shapes = (central.shape, weights.shape)
    # As for nn.Embedding, the tables may change between forward and backward unless a gradient
    # reads them.
    return (
        ids,
        output[1],
        central if need_weights or need_samples or jvp else None,
        residual if need_samples or jvp else None,
        indptr,
        neighbors,
        weights,
        offsets,
        sample_weights,
    )


def _check_learns(weights: Tensor) -> None:
    """
    Raises:
        ValueError: link weights in float16, where a gradient would overflow or vanish.
    """
    if weights.dtype == torch.float16:
        raise ValueError("weights: no gradient of link weights in float16; expected float32 or float64")


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
        rows, row_values, columns, column_values, edges, edge_values, samples_grad = _backward_rows(
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
        gradients = _backward(grad, ids, plan, central, residual, *graph, padding_idx, mean, dtype, *ctx.needs)
    for place, gradient, needed in zip(places, gradients, ctx.needs, strict=True):
        result[place] = gradient if needed else None
    return tuple(result)


def _total(terms: list[Tensor]) -> Tensor | None:
    return sum(terms[1:], terms[0]) if terms else None


def _jvp_forward(ctx: Any, *tangents: Any) -> tuple:
    """The lookup is linear in the tables together, in the link weights and in the sample weights."""
    ids, _, central, residual, indptr, neighbors, weights, offsets, samples = ctx.saved_tensors
    padding_idx, mean, _, _ = ctx.settings
    central_t, residual_t, weights_t, samples_t = (
        tangents[i] for i in (_CENTRAL, _RESIDUAL, _WEIGHTS, _SAMPLE_WEIGHTS)
    )

    def term(c: Tensor | None, r: Tensor | None, w: Tensor, s: Tensor | None) -> Tensor:
        tables = (torch.zeros_like(central) if t is None else t for t in (c, r))
        options = (padding_idx, mean, ctx.out_dtype, False)
        return look_up(ids, *tables, indptr, neighbors, w, offsets, s, *options)[0]

    terms = []
    if central_t is not None or residual_t is not None:
        terms.append(term(central_t, residual_t, weights, samples))
    if weights_t is not None:
        _check_learns(weights)
        terms.append(term(central, None, weights_t, samples))
    if samples_t is not None:
        terms.append(term(central, residual, weights, samples_t))
    return _total(terms), None


look_up = differentiable("res_embedding", _setup_forward, _backward_forward, _jvp_forward)


def _setup_backward(ctx: Any, inputs: tuple, output: tuple, jvp: bool) -> Saved:
    ctx.settings = inputs[10:13]
    ctx.wanted = inputs[13:]
    ctx.outputs = [(t.shape, t.dtype) for t in output]
    return inputs[:10]


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

    def look_up_again(c: Tensor | None, r: Tensor | None, w: Tensor, s: Tensor | None) -> Tensor:
        return look_up(ids, table(c), table(r), indptr, neighbors, w, offsets, s, padding_idx, mean, grad.dtype, False)[
            0
        ]

    def gradient(which: int, c: Tensor | None, r: Tensor | None, w: Tensor, s: Tensor | None) -> Tensor:
        return _backward(
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
        for_grad.append(look_up_again(gc, gr, weights, samples))
        if ctx.needs_input_grad[7] and gc is not None:
            for_weights.append(gradient(2, gc, None, weights, samples))
        if ctx.needs_input_grad[9]:
            for_samples.append(gradient(3, gc, gr, weights, samples))
    if gw is not None:
        for_grad.append(look_up_again(central, None, gw, samples))
        if ctx.needs_input_grad[3]:
            for_central.append(gradient(0, None, None, gw, samples))
        if ctx.needs_input_grad[9]:
            for_samples.append(gradient(3, central, None, gw, samples))
    if gs is not None:
        for_grad.append(look_up_again(central, residual, weights, gs))
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


def _jvp_backward(ctx: Any, *tangents: Any) -> tuple:
    """Each gradient is linear in every input that it reads."""
    grad, ids, plan, central, residual, indptr, neighbors, weights, offsets, samples = ctx.saved_tensors
    grad_t, central_t, residual_t, weights_t, samples_t = (tangents[i] for i in (0, 3, 4, 7, 9))
    sums: list[list[Tensor]] = [[], [], [], []]

    def add(
        g: Tensor, c: Tensor | None, r: Tensor | None, w: Tensor, s: Tensor | None, reads: tuple[bool, bool, bool, bool]
    ) -> None:
        needs = [wanted and read for wanted, read in zip(ctx.wanted, reads, strict=True)]
        if needs[2] or needs[3]:
            like = central if central is not None else residual
            c, r = (torch.zeros_like(like) if t is None else t for t in (c, r))
        found = _backward(g, ids, plan, c, r, indptr, neighbors, w, offsets, s, *ctx.settings, *needs)
        for terms, gradient, needed in zip(sums, found, needs, strict=True):
            if needed:
                terms.append(gradient)

    if grad_t is not None:
        add(grad_t, central, residual, weights, samples, (True, True, True, True))
    if central_t is not None or residual_t is not None:
        add(grad, central_t, residual_t, weights, samples, (False, False, central_t is not None, True))
    if weights_t is not None:
        add(grad, central, None, weights_t, samples, (True, False, False, True))
    if samples_t is not None:
        add(grad, central, residual, weights, samples_t, (True, True, True, False))
    # Zeros in place of None: torch's batched functions take no None for a floating output.
    return tuple(
        _total(terms) if terms else grad.new_zeros(shape, dtype=dtype)
        for terms, (shape, dtype) in zip(sums, ctx.outputs, strict=True)
    )


_backward = differentiable("res_embedding_backward", _setup_backward, _backward_backward, _jvp_backward)


def setup_nothing(ctx: Any, inputs: tuple, output: tuple, jvp: bool) -> Saved:
    """Saves nothing: of operators whose derivatives are refused."""
    return ()


ROWS = "gradients of sparse gradients are not defined; use sparse=False"
ROWS_UNDER_VMAP = "sparse gradients under vmap (jacrev, jacfwd of grad) are not defined; use sparse=False"
_refused = refused(ROWS)
_backward_rows = differentiable(
    "res_embedding_backward_rows", setup_nothing, _refused, _refused, refused(ROWS_UNDER_VMAP)
)
