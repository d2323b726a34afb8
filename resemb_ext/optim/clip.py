"""Clipping of gradients by their norm, sparse ones among them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .row_sparse import gradient_rows


@torch.no_grad()
def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """``torch.nn.utils.clip_grad_norm_`` that takes sparse gradients too.

    The norm is that of all gradients as one vector, with the rows of an uncoalesced gradient summed
    first. Sparse gradients are replaced by clipped ones with ascending rows, since autograd may hand one
    buffer of values to several of them; dense ones are scaled in place.

    Args:
        parameters: those without a gradient are passed over.
        max_norm: the norm allowed.
        norm_type: of the p-norm; infinity is the largest magnitude.
        error_if_nonfinite: raise where the norm is infinite or NaN.

    Returns:
        The norm before clipping, a scalar tensor.

    Raises:
        RuntimeError: the norm is not finite and ``error_if_nonfinite``.
        ValueError: a gradient sparse over more than rows.
    """
    if isinstance(parameters, Tensor):
        parameters = [parameters]
    given = [p for p in parameters if p.grad is not None]
    if not given:
        return torch.tensor(0.0)
    sparse = {
        i: gradient_rows(p.grad, f"parameter {i}")  # type: ignore[arg-type]
        for i, p in enumerate(given)
        if p.grad is not None and p.grad.is_sparse
    }
    values = [sparse[i].values if i in sparse else p.grad for i, p in enumerate(given)]
    total = torch.nn.utils.get_total_norm(values, norm_type, error_if_nonfinite)  # type: ignore[arg-type]
    # As in torch: an attempt to keep it 1 where nothing is to be clipped, without reading the device.
    factor = torch.clamp(max_norm / (total + 1e-6), max=1.0)
    for i, parameter in enumerate(given):
        gradient = parameter.grad
        assert gradient is not None
        if i not in sparse:
            gradient.mul_(factor.to(gradient.device))
            continue
        rows = sparse[i]
        parameter.grad = torch.sparse_coo_tensor(
            rows.rows.unsqueeze(0),
            rows.values * factor.to(rows.values.dtype),
            gradient.shape,
            is_coalesced=True,
            check_invariants=False,
        )
    return total
