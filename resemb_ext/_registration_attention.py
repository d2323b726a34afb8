"""Autograd and fake kernels of the attention link's operators.

As those of ``_registration``; the gradients of a_src, a_dst and b are always dense. The link is not linear
in anything but the residual, so double backward is refused.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from resemb_ext._registration import ROWS_UNDER_VMAP, accumulator, setup_nothing, sparse_rows
from resemb_ext._transforms import Saved, differentiable, refused

# Inputs of attention_embedding.
_CENTRAL, _RESIDUAL, _LINK, _SAMPLE_WEIGHTS = 1, 2, (6, 7, 8), 11


@torch.library.register_fake("resemb_ext::attention_embedding")
def _(
    ids,
    central,
    residual,
    indptr,
    neighbors,
    log_weights,
    a_src,
    a_dst,
    b,
    seed,
    offsets,
    sample_weights,
    padding_idx,
    mean,
    dropout,
    out_dtype,
    sparse,
):
    rows = ids.shape[0] if offsets is None else offsets.shape[0] - 1
    out = central.new_empty((rows, central.shape[1]), dtype=out_dtype or central.dtype)
    return out, ids.new_empty((2 * ids.shape[0] + 1,), dtype=torch.int32)


def _small_gradients(
    plan: Tensor, central: Tensor, heads: int, need_attention: bool, need_samples: bool
) -> tuple[Tensor, ...]:
    def vector(n: int, needed: bool) -> Tensor:
        return central.new_empty((n if needed else 0,), dtype=accumulator(central.dtype))

    dim, positions = central.shape[1], (plan.shape[0] - 1) // 2
    link = (vector(n, need_attention) for n in (dim, dim, heads))
    return *link, vector(positions, need_samples)


@torch.library.register_fake("resemb_ext::attention_embedding_backward")
def _(
    grad,
    plan,
    central,
    residual,
    indptr,
    neighbors,
    log_weights,
    a_src,
    a_dst,
    b,
    seed,
    offsets,
    sample_weights,
    mean,
    dropout,
    need_central,
    need_residual,
    need_attention,
    need_sample_weights,
):
    return (
        central.new_empty(central.shape if need_central else (0,)),
        central.new_empty(central.shape if need_residual else (0,)),
        *_small_gradients(plan, central, b.shape[0], need_attention, need_sample_weights),
    )


@torch.library.register_fake("resemb_ext::attention_embedding_backward_rows")
def _(
    grad,
    plan,
    central,
    residual,
    indptr,
    neighbors,
    log_weights,
    a_src,
    a_dst,
    b,
    seed,
    offsets,
    sample_weights,
    mean,
    dropout,
    need_central,
    need_residual,
    need_attention,
    need_sample_weights,
):
    context = torch.library.get_ctx()
    rows = context.new_dynamic_size() if need_residual else 0
    columns = context.new_dynamic_size() if need_central else 0
    dim = central.shape[1]
    return (
        grad.new_empty((rows,), dtype=torch.int64),
        central.new_empty((rows, dim)),
        grad.new_empty((columns,), dtype=torch.int64),
        central.new_empty((columns, dim)),
        *_small_gradients(plan, central, b.shape[0], need_attention, need_sample_weights),
    )


def _setup(ctx: Any, inputs: tuple, output: tuple, jvp: bool) -> Saved:
    (
        _,
        central,
        residual,
        indptr,
        neighbors,
        log_weights,
        a_src,
        a_dst,
        b,
        seed,
        offsets,
        sample_weights,
        _,
        mean,
        dropout,
        _,
        sparse,
    ) = inputs
    if ctx.needs_input_grad[5]:
        raise RuntimeError("log_weights: requires gradients, which the attention link does not give")
    ctx.needs = (
        ctx.needs_input_grad[_CENTRAL],
        ctx.needs_input_grad[_RESIDUAL],
        any(ctx.needs_input_grad[i] for i in _LINK),
        ctx.needs_input_grad[_SAMPLE_WEIGHTS],
    )
    ctx.settings = (mean, dropout)
    ctx.sparse = sparse
    # R may change between forward and backward unless the sample weights' gradient reads it.
    return (
        output[1],
        central,
        residual if ctx.needs[3] else None,
        indptr,
        neighbors,
        log_weights,
        a_src,
        a_dst,
        b,
        seed,
        offsets,
        sample_weights,
    )


def _backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple:
    result: list[Tensor | None] = [None] * 17
    if grad is None:
        return tuple(result)
    saved = ctx.saved_tensors  # once: torch.utils.checkpoint refuses a second reading
    central = saved[1]
    inputs = (grad, *saved, *ctx.settings, *ctx.needs)
    need_central, need_residual, _, need_samples = ctx.needs
    if ctx.sparse:
        rows, row_values, columns, column_values, *small = _gradient_rows(*inputs)
        shape = central.shape
        grad_central = sparse_rows(columns, column_values, shape) if need_central else None
        grad_residual = sparse_rows(rows, row_values, shape) if need_residual else None
    else:
        grad_central, grad_residual, *small = _gradients(*inputs)
    *link, samples = small
    for place, gradient, needed in (
        (_CENTRAL, grad_central, need_central),
        (_RESIDUAL, grad_residual, need_residual),
        *((i, g, ctx.needs_input_grad[i]) for i, g in zip(_LINK, link, strict=True)),
        (_SAMPLE_WEIGHTS, samples, need_samples),
    ):
        result[place] = gradient if needed else None
    return tuple(result)


attend = differentiable(
    "attention_embedding",
    _setup,
    _backward,
    refused(
        "forward-mode derivatives (torch.func.jvp, jacfwd) of the attention link are not defined; use jacrev or grad"
    ),
)

_second = refused("double backward through the attention link is not defined, nor another second derivative")
_gradients = differentiable("attention_embedding_backward", setup_nothing, _second, _second)
_gradient_rows = differentiable(
    "attention_embedding_backward_rows", setup_nothing, _second, _second, refused(ROWS_UNDER_VMAP)
)
