"""Rows of dealt tables brought to a batch, and their gradients brought back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from resemb_ext._registration import accumulator, sparse_rows
from resemb_ext._registration import ops as _ops

from .requests import Requests
from .wire import Wire


@dataclass(frozen=True)
class Wanted:
    """What a batch wants of one table.

    Attributes:
        requests: of all ranks.
        places: int64 [U], ascending: the batch's numbers of the rows, in the order of requests; None where these are
            0 .. U - 1.
        kept_row: a row of this rank's part that takes no gradient; None for none.
    """

    requests: Requests
    places: Tensor | None
    kept_row: int | None = None


@dataclass(frozen=True)
class Trip:
    """How rows and gradients travel.

    Attributes:
        wire: over which.
        dtype: in which rows and gradients travel; None: rows as in the table, gradients as sums are kept.
        sparse: gradients are sparse ones of the touched rows.
        height: rows of the batch's tables.
    """

    wire: Wire
    dtype: torch.dtype | None
    sparse: bool
    height: int


def fetch(trip: Trip, wanted: Sequence[Wanted], tables: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Tables of a batch: [height, D] each, in the precision of sums; rows that were not wanted are not set.

    Their gradients, which must be sparse, go to the owners of the rows: there they are added in the order of ranks and
    divided by the number of ranks, as DistributedDataParallel does with gradients.
    """
    return _Fetch.apply(trip, tuple(wanted), *tables)


class _Fetch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, trip: Trip, wanted: tuple[Wanted, ...], *tables: Tensor) -> tuple[Tensor, ...]:
        ctx.trip, ctx.wanted = trip, wanted
        ctx.tables = [(table.shape, table.dtype) for table in tables]
        ctx.set_materialize_grads(False)
        return tuple(_rows(trip, each, table) for each, table in zip(wanted, tables, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        found = []
        needs = ctx.needs_input_grad[2:]
        for wanted, gradient, (shape, dtype), need in zip(ctx.wanted, gradients, ctx.tables, needs, strict=True):
            found.append(_gradient(ctx.trip, wanted, gradient, shape, dtype) if need else None)
        return None, None, *found


def _rows(trip: Trip, wanted: Wanted, table: Tensor) -> Tensor:
    requests, precise = wanted.requests, accumulator(table.dtype)
    served = table.index_select(0, requests.served).to(trip.dtype or table.dtype)
    out = table.new_empty((trip.height, table.shape[1]), dtype=precise)
    total = sum(requests.send)
    if wanted.places is None and served.dtype == precise:
        trip.wire.to_all("rows", served, requests.receive, requests.send, out=out[:total])
        return out
    rows = trip.wire.to_all("rows", served, requests.receive, requests.send)
    if wanted.places is None:
        out[:total] = rows
    else:
        out.index_copy_(0, wanted.places, rows.to(precise))
    return out


def _gradient(trip: Trip, wanted: Wanted, gradient: Tensor | None, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    requests, precise = wanted.requests, accumulator(dtype)
    total = sum(requests.send)
    values = _values(gradient, wanted, total, trip.height, shape[1], precise, requests.served.device)
    values = values.to(trip.dtype or precise)
    sums = trip.wire.to_all("gradients", values, requests.send, requests.receive).to(precise)
    rows = requests.served
    if wanted.kept_row is not None:
        moving = rows != wanted.kept_row
        rows, sums = rows[moving], sums[moving]
    # Repeated rows are added in the order of their appearance, which is that of ranks.
    rows, sums = _ops.coalesce_rows(rows, sums, shape[0])
    sums = sums.div_(trip.wire.ranks).to(dtype)
    if trip.sparse:
        return sparse_rows(rows, sums, shape)
    return sums.new_zeros(shape).index_copy_(0, rows, sums)


def _values(
    gradient: Tensor | None, wanted: Wanted, total: int, height: int, dim: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """[U, D] in the order of requests; zero where a row has none."""
    if gradient is None:
        return torch.zeros((total, dim), dtype=dtype, device=device)
    touched, values = gradient._indices()[0], gradient._values()
    if len(touched) == total:
        return values
    whole = values.new_zeros((height, dim)).index_copy_(0, touched, values)
    return whole[:total] if wanted.places is None else whole[wanted.places]
