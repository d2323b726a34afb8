"""Rows of dealt tables brought to a batch, and their gradients brought back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        under_way = [_start_rows(trip, each, table) for each, table in zip(wanted, tables, strict=True)]
        return tuple(end() for end in under_way)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[2:]
        parts = zip(ctx.wanted, gradients, ctx.tables, needs, strict=True)
        under_way = [
            _start_gradient(ctx.trip, wanted, gradient, *table) if need else None
            for wanted, gradient, table, need in parts
        ]
        return None, None, *(None if end is None else end() for end in under_way)


def _start_rows(trip: Trip, wanted: Wanted, table: Tensor) -> Callable[[], Tensor]:
    """Sends the rows that others want; the function that it returns gives those that this rank wants."""
    requests, precise = wanted.requests, accumulator(table.dtype)
    travels = trip.dtype or table.dtype
    out = _room(table, trip.height, precise)
    total = sum(requests.send)
    direct = wanted.places is None and travels == precise
    rows = out[:total] if direct else _room(table, total, travels)
    own = _own_rows(trip.wire, requests) if travels == table.dtype else None
    if own is None:
        served = _read(table, requests.served, travels)
        wait = trip.wire.start("rows", served, requests.receive, requests.send, rows)
    else:
        here, there, place, others, receive, send = own
        wait = trip.wire.start("rows", _read(table, there, travels), receive, send, rows[others])
        torch.index_select(table, 0, here, out=rows[place])

    def end() -> Tensor:
        wait()
        if wanted.places is not None:
            out.index_copy_(0, wanted.places, _as(rows, precise))
        elif not direct:
            out[:total] = rows
        return out

    return end


def _own_rows(wire: Wire, requests: Requests) -> tuple[Tensor, Tensor, slice, slice, list[int], list[int]] | None:
    """Where the rows that this rank wants of itself lie, so that they need not travel.

    Returns:
        Rows of this rank that it wants itself, and those that others want; the places of its own and of others' rows
        among those that it gets; how many each other wants, and how many are wanted of each. None where the own rows
        lie between those of others.
    """
    if wire.rank not in (0, wire.ranks - 1):
        return None
    count, served = requests.send[wire.rank], requests.served
    receive, send = (
        [0 if rank == wire.rank else n for rank, n in enumerate(c)] for c in (requests.receive, requests.send)
    )
    if wire.rank == 0:
        return served[:count], served[count:], slice(count), slice(count, None), receive, send
    before, total = len(served) - count, sum(send)
    return served[before:], served[:before], slice(total, None), slice(total), receive, send


def _start_gradient(
    trip: Trip, wanted: Wanted, gradient: Tensor | None, shape: torch.Size, dtype: torch.dtype
) -> Callable[[], Tensor]:
    """Sends gradients to the owners of their rows; the function that it returns gives that of this rank's rows."""
    requests, precise = wanted.requests, accumulator(dtype)
    total = sum(requests.send)
    values = _values(gradient, wanted, total, trip.height, shape[1], precise, requests.served.device)
    values = _as(values, trip.dtype or precise)
    found = _room(values, len(requests.served), values.dtype)
    wait = trip.wire.start("gradients", values, requests.send, requests.receive, found)

    def end() -> Tensor:
        wait()
        rows, sums = requests.served, _as(found, precise)
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

    return end


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
