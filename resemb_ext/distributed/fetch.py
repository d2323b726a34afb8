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
    travels = trip.dtype or table.dtype
    out = _room(table, trip.height, precise)
    total = sum(requests.send)
    direct = wanted.places is None and travels == precise
    rows = out[:total] if direct else _room(table, total, travels)
    own = _own_rows(trip.wire, requests, table, rows)
    if own is None:
        trip.wire.to_all("rows", _read(table, requests.served, travels), requests.receive, requests.send, rows)
    else:
        served, receive, send, others = own
        trip.wire.to_all("rows", _read(table, served, travels), receive, send, others)
    if wanted.places is not None:
        out.index_copy_(0, wanted.places, _as(rows, precise))
    elif not direct:
        out[:total] = rows
    return out


def _own_rows(
    wire: Wire, requests: Requests, table: Tensor, rows: Tensor
) -> tuple[Tensor, list[int], list[int], Tensor] | None:
    """Reads the rows that this rank wants of itself straight to their place, where the others' form one piece.

    Returns:
        Of the other ranks alone: rows of this rank that they want, how many each, how many are wanted of each, and
        the place of those; None where the own rows lie in the middle or change their dtype.
    """
    if rows.dtype != table.dtype or wire.rank not in (0, wire.ranks - 1):
        return None
    count, first = requests.send[wire.rank], wire.rank == 0
    served = requests.served
    here, there = (
        (served[:count], served[count:]) if first else (served[len(served) - count :], served[: len(served) - count])
    )
    place, others = (rows[:count], rows[count:]) if first else (rows[len(rows) - count :], rows[: len(rows) - count])
    torch.index_select(table, 0, here, out=place)
    receive, send = (
        [0 if rank == wire.rank else n for rank, n in enumerate(c)] for c in (requests.receive, requests.send)
    )
    return there, receive, send, others


def _gradient(trip: Trip, wanted: Wanted, gradient: Tensor | None, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    requests, precise = wanted.requests, accumulator(dtype)
    total = sum(requests.send)
    values = _values(gradient, wanted, total, trip.height, shape[1], precise, requests.served.device)
    values = _as(values, trip.dtype or precise)
    rows = requests.served
    found = _room(values, len(rows), values.dtype)
    sums = _as(trip.wire.to_all("gradients", values, requests.send, requests.receive, found), precise)
    if wanted.kept_row is not None:
        moving = rows != wanted.kept_row
        rows, sums = rows[moving], sums[moving]
    # Repeated rows are added in the order of their appearance, which is that of ranks.
    rows, sums = _ops.coalesce_rows(rows, sums, shape[0])
    if trip.wire.ranks > 1:
        sums.div_(trip.wire.ranks)
    sums = sums.to(dtype)
    if trip.sparse:
        return sparse_rows(rows, sums, shape)
    return sums.new_zeros(shape).index_copy_(0, rows, sums)


def _read(table: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    return _as(torch.index_select(table, 0, rows, out=_room(table, len(rows), table.dtype)), dtype)


def _as(rows: Tensor, dtype: torch.dtype) -> Tensor:
    return rows if rows.dtype == dtype else _room(rows, len(rows), dtype).copy_(rows)


def _room(like: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    """[rows, columns of a table], not set."""
    return _ops.empty_rows(like, rows, like.shape[1], dtype)


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
