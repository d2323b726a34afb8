"""Clipping of gradients by norm and by value, sparse ones among them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from resemb_ext._ownership import group_of

from .row_sparse import gradient_rows


@torch.no_grad()
def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """``torch.nn.utils.clip_grad_norm_`` that takes sparse gradients too.

    The norm is that of all gradients as one vector, with the rows of an uncoalesced gradient summed
    first. Sparse gradients are replaced by clipped ones with ascending rows, since autograd may hand one
    buffer of values to several of them; dense ones are scaled in place.

    Sharded gradients (DTensor) may stand beside others, which are then taken to be equal on all ranks, as
    ``average_gradients`` makes them. So may those of tables dealt over ranks (``rx.distributed.shard``): all ranks
    then call it, and get the norm over all rows.

    Args:
        parameters: those without a gradient are passed over.
        max_norm: the norm allowed.
        norm_type: of the p-norm; infinity is the largest magnitude.
        error_if_nonfinite: raise where the norm is infinite or NaN.
        foreach: as for torch's function, on the norm of the gradients.

    Returns:
        The norm before clipping, a scalar tensor.

    Raises:
        RuntimeError: the norm is not finite and ``error_if_nonfinite``.
        ValueError: a gradient sparse over more than rows.
    """
    given = _with_gradient(parameters)
    if not given:
        return torch.tensor(0.0)
    values = _summed(given)
    total = _norm_over_ranks(given, values, norm_type, error_if_nonfinite, foreach)
    # As in torch: an attempt to keep it 1 where nothing is to be clipped, without reading the device.
    factor = torch.clamp(max_norm / (total + 1e-6), max=1.0)
    for value in values:
        part = value.to_local() if _sharded(value) and not _sharded(factor) else value  # type: ignore[attr-defined]
        part.mul_(factor.to(part.device))
    return total


def _sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, whose class costs seconds to import."""
    return hasattr(tensor, "full_tensor")


def _norm_over_ranks(
    given: list[Tensor], values: list[Tensor], norm_type: float, error_if_nonfinite: bool, foreach: bool | None
) -> Tensor:
    """The norm of all values, where those of dealt tables are parts that ranks hold of one gradient."""
    dealt: dict[int, tuple[Any, list[Tensor]]] = {}
    others = []
    for parameter, value in zip(given, values, strict=True):
        group = group_of(parameter)
        if group is None:
            others.append(value)
        else:
            dealt.setdefault(id(group), (group, []))[1].append(value)
    if not dealt:
        return _total_norm(values, norm_type, error_if_nonfinite, foreach)
    norms = [_total_norm(others, norm_type, False, foreach)] if others else []
    for group, parts in dealt.values():
        norm = torch.nn.utils.get_total_norm(parts, norm_type, False, foreach)
        largest = math.isinf(norm_type)
        power = norm if largest else norm**norm_type
        dist.all_reduce(power, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM, group=group)
        norms.append(power if largest else power ** (1 / norm_type))
    return torch.nn.utils.get_total_norm([n.to(norms[-1].device) for n in norms], norm_type, error_if_nonfinite)


def _total_norm(values: list[Tensor], norm_type: float, error_if_nonfinite: bool, foreach: bool | None) -> Tensor:
    """torch's, which does not take DTensors beside others: that of both norms then."""
    norm = torch.nn.utils.get_total_norm
    sharded = [value for value in values if _sharded(value)]
    if not sharded or len(sharded) == len(values):
        return norm(values, norm_type, error_if_nonfinite, foreach)
    others = norm([value for value in values if not _sharded(value)], norm_type, False, foreach)
    whole = norm(sharded, norm_type, False, foreach).full_tensor()  # type: ignore[attr-defined]
    return norm([whole, others.to(whole.device)], norm_type, error_if_nonfinite)


@torch.no_grad()
def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None) -> None:
    """``torch.nn.utils.clip_grad_value_`` that takes sparse gradients too.

    The rows of an uncoalesced gradient are summed first. Sparse gradients are replaced, dense ones are clipped
    in place.

    Args:
        parameters: those without a gradient are passed over.
        clip_value: each number is brought into [-clip_value, clip_value].
        foreach: as for torch's function, on the dense gradients.

    Raises:
        ValueError: a gradient sparse over more than rows.
    """
    given = _with_gradient(parameters)
    dense = []
    for parameter, value in zip(given, _summed(given), strict=True):
        if parameter.grad is value:
            dense.append(parameter)
        else:
            value.clamp_(-clip_value, clip_value)
    if dense:
        torch.nn.utils.clip_grad_value_(dense, clip_value, foreach)


def _with_gradient(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    return [p for p in ([parameters] if isinstance(parameters, Tensor) else parameters) if p.grad is not None]


def _summed(parameters: list[Tensor]) -> list[Tensor]:
    """The numbers of every gradient, to be changed in place; sparse ones are replaced by sums of their own.

    Autograd may hand one buffer of values to the gradients of several parameters.
    """
    rows = {
        i: gradient_rows(p.grad, f"parameter {i}")  # type: ignore[arg-type]
        for i, p in enumerate(parameters)
        if p.grad is not None and p.grad.is_sparse
    }
    values: list[Tensor] = []
    for i, parameter in enumerate(parameters):
        gradient = parameter.grad
        assert gradient is not None
        if i in rows:
            own, shared = rows[i].values, gradient._values()
            own = own.clone() if own.data_ptr() == shared.data_ptr() else own
            parameter.grad = torch.sparse_coo_tensor(
                rows[i].rows.unsqueeze(0), own, gradient.shape, is_coalesced=True, check_invariants=False
            )
            gradient = own
        values.append(gradient)
    return values
