"""Autograd and fake kernels of DIN's attention unit, an operator of the CPU.

Its backward makes the hidden layer again in cache. Where that is to be differentiated once more, gradients come from
the reference instead, which autograd follows to any order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from resemb_ext import _loader as _loader  # registers the operators
from resemb_ext import reference
from resemb_ext._transforms import Saved, differentiable, refused

# Inputs of local_activation: starts, offsets and pool have no gradient.
_DIFFERENTIABLE = (0, 1, 4, 5, 6, 7, 8, 9)


@torch.library.register_fake("resemb_ext::local_activation")
def _(keys, query, starts, offsets, by_query, w_key, w_product, slope, out_weight, out_bias, pool):
    pairs = keys.shape[0] if starts is None else torch.library.get_ctx().new_dynamic_size()
    return keys.new_empty((pairs,)), keys.new_empty((query.shape[0] if pool else 0, keys.shape[1]))


@torch.library.register_fake("resemb_ext::local_activation_backward")
def _(grad_scores, grad_pooled, scores, keys, query, offsets, by_query, w_key, w_product, slope, out_weight, out_bias):
    inputs = (keys, query, by_query, w_key, w_product, slope, out_weight, out_bias)
    return tuple(t.new_empty(t.shape) for t in inputs)


def _setup(ctx: Any, inputs: tuple, output: tuple, jvp: bool) -> Saved:
    *tensors, ctx.pool = inputs
    if inputs[2] is not None and any(ctx.needs_input_grad):
        raise RuntimeError("local_activation: samples that share keys (starts) have no gradient")
    return (output[0], *tensors)


def _backward(ctx: Any, grad_scores: Tensor | None, grad_pooled: Tensor | None) -> tuple:
    result: list[Tensor | None] = [None] * 11
    if not ctx.pool:
        grad_pooled = None
    if grad_scores is None and grad_pooled is None:
        return tuple(result)
    scores, *inputs = ctx.saved_tensors
    if torch.is_grad_enabled():
        wanted = [i for i in _DIFFERENTIABLE if ctx.needs_input_grad[i]]
        # Views of their own: an input may be another one, or be made from it, and paths between them are not this
        # operator's.
        inputs = [t.view_as(t) if i in _DIFFERENTIABLE else t for i, t in enumerate(inputs)]
        pairs = zip(reference.local_activation(*(*inputs, ctx.pool)), (grad_scores, grad_pooled), strict=True)
        outputs, upstream = zip(*((o, g) for o, g in pairs if g is not None), strict=True)
        gradients = torch.autograd.grad(
            outputs, [inputs[i] for i in wanted], upstream, create_graph=True, allow_unused=True
        )
        for place, gradient in zip(wanted, gradients, strict=True):
            result[place] = gradient
        return tuple(result)
    keys, query, _, *rest = inputs
    gradients = torch.ops.resemb_ext.local_activation_backward(grad_scores, grad_pooled, scores, keys, query, *rest)
    for place, gradient in zip(_DIFFERENTIABLE, gradients, strict=True):
        result[place] = gradient if ctx.needs_input_grad[place] else None
    return tuple(result)


local_activation = differentiable(
    "local_activation",
    _setup,
    _backward,
    refused("local_activation has no forward-mode derivative; reference.local_activation has"),
)
