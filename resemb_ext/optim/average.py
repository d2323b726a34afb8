"""Means of gradients over the ranks of torch.distributed, sparse ones among them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from resemb_ext._ownership import group_of
from resemb_ext._registration import ops as _ops

from .row_sparse import RowGradient, gradient_rows
from .state import state_dtype

_NONE, _DENSE, _ROWS, _REFUSED = range(4)


@dataclass
class _Gradients:
    """What a rank brings to the mean."""

    parameters: list[Tensor]
    kinds: list[int]
    rows: dict[int, RowGradient]  # by position
    refusal: ValueError | IndexError | None


@torch.no_grad()
def average_gradients(
    parameters_or_module: nn.Module | Tensor | Iterable[Tensor], group: dist.ProcessGroup | None = None
) -> None:
    """Sets the gradients of every rank to their mean over the ranks of a group, sparse ones to sparse ones.

    For parameters that nothing averages: tables in the ``ignored_params`` of FSDP2's fully_shard, or models
    without DistributedDataParallel. Call it between backward and clipping or step, on all ranks.

    Ranks may bring different numbers of rows. A rank without a gradient counts as zero, and gets the mean; where no
    rank has one, none is made. A parameter whose gradient is sparse on one rank and dense on another gets
    a dense mean. Sums are made in the order of ranks, in float32 for lower precision, so that all ranks hold
    the same numbers to the bit. A sparse mean holds every row that some rank brought; those of all ranks
    are in memory at once.

    Args:
        parameters_or_module: the same on all ranks, in the same order. Sharded parameters (DTensor) are passed
            over, as FSDP2 averages them, and so are tables dealt over ranks.
        group: None for the default one. Without torch.distributed, or alone, gradients stay as they are.

    Raises:
        ValueError: this rank is not in the group; ranks bring parameters of other shapes or dtypes. These and
            the following are raised on all ranks, and nothing is changed then.
        ValueError, IndexError: a gradient sparse over more than rows, or a row outside its table.
        RuntimeError: another rank has raised.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    if dist.get_rank(group) < 0:
        raise ValueError(f"group: rank {dist.get_rank()} is not in it; expected a group with the rank that calls")
    if dist.get_world_size(group) == 1:
        return
    own = _gathered_here(parameters_or_module)
    _check_the_same(own.parameters, group)
    table = _over_ranks(_numbers(own), group).view(-1, len(own.parameters), 2)
    refused = (table[:, :, 0] == _REFUSED).any(1).nonzero().flatten().tolist()
    if own.refusal is not None:
        raise own.refusal
    if refused:
        raise RuntimeError(f"average_gradients: rank {refused[0]} of the group has a gradient that it refuses")
    kinds, counts = table[:, :, 0].cpu(), table[:, :, 1].cpu()
    means: dict[int, Tensor] = {}
    for i, parameter in enumerate(own.parameters):
        if (kinds[:, i] == _ROWS).any() and not (kinds[:, i] == _DENSE).any():
            means[i] = _mean_of_rows(parameter, own.rows.get(i), counts[:, i].tolist(), group)
    dense = [i for i in range(len(own.parameters)) if (kinds[:, i] == _DENSE).any()]
    for same in _alike(own.parameters, dense):
        means.update(_dense_means(own, same, group))
    for i, mean in means.items():
        own.parameters[i].grad = mean


def _gathered_here(parameters_or_module: nn.Module | Tensor | Iterable[Tensor]) -> _Gradients:
    given: Iterable[Tensor]
    if isinstance(parameters_or_module, nn.Module):
        given = parameters_or_module.parameters()
    elif isinstance(parameters_or_module, Tensor):
        given = [parameters_or_module]
    else:
        given = parameters_or_module
    distinct = {id(p): p for p in given if not is_traceable_wrapper_subclass(p) and group_of(p) is None}
    own = _Gradients(list(distinct.values()), [], {}, None)
    for i, parameter in enumerate(own.parameters):
        gradient = parameter.grad
        kind = _NONE if gradient is None else _ROWS if gradient.is_sparse else _DENSE
        if kind == _ROWS:
            try:
                own.rows[i] = gradient_rows(gradient, f"parameter {i}")  # type: ignore[arg-type]
            except (ValueError, IndexError) as error:
                own.refusal, kind = error, _REFUSED
        own.kinds.append(kind)
    return own


def _numbers(own: _Gradients) -> Tensor:
    counts = [len(own.rows[i].rows) if i in own.rows else 0 for i in range(len(own.kinds))]
    return torch.tensor([own.kinds, counts], device=_meeting_place(own.parameters)).T.contiguous()


def _meeting_place(parameters: list[Tensor]) -> torch.device:
    return parameters[0].device if parameters else torch.device("cpu")


def _check_the_same(parameters: list[Tensor], group: dist.ProcessGroup | None) -> None:
    """Before ranks wait for tensors of sizes that do not fit."""
    kinds = repr([(tuple(p.shape), str(p.dtype)) for p in parameters]).encode()
    digest = int.from_bytes(hashlib.sha256(kinds).digest()[:7], "big")
    found = _over_ranks(torch.tensor([len(parameters), digest], device=_meeting_place(parameters)), group).tolist()
    if any(other != found[0] for other in found):
        numbers = ", ".join(str(number) for number, _ in found)
        raise ValueError(
            f"parameters: {numbers} of them on the ranks of the group, or their shapes or dtypes differ; expected the "
            "same parameters in the same order on all ranks"
        )


def _over_ranks(tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """[ranks, ...]: the tensor of every rank, all of one shape."""
    gathered = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, tensor.contiguous(), group=group)
    return torch.stack(gathered)


def _mean_of_rows(
    parameter: Tensor, own: RowGradient | None, counts: list[int], group: dist.ProcessGroup | None
) -> Tensor:
    width = parameter.shape[1:]
    rows = torch.zeros(max(counts), dtype=torch.int64, device=parameter.device)
    values = torch.zeros((max(counts), *width), dtype=parameter.dtype, device=parameter.device)
    if own is not None:
        rows[: len(own.rows)] = own.rows
        values[: len(own.rows)] = own.values
    all_rows, all_values = _over_ranks(rows, group), _over_ranks(values, group)
    rows = torch.cat([one[:count] for one, count in zip(all_rows, counts, strict=True)])
    values = torch.cat([one[:count] for one, count in zip(all_values, counts, strict=True)]).to(state_dtype(parameter))
    # Repeated rows are summed in order of their appearance, which is that of ranks.
    rows, sums = _ops.coalesce_rows(rows, values.reshape(len(values), width.numel()), parameter.shape[0])
    mean = (sums / len(counts)).to(parameter.dtype).view(len(rows), *width)
    return torch.sparse_coo_tensor(rows.unsqueeze(0), mean, parameter.shape, is_coalesced=True, check_invariants=False)


def _alike(parameters: list[Tensor], positions: list[int]) -> list[list[int]]:
    """Positions of parameters of one device and dtype, which are sent together."""
    found: dict[Any, list[int]] = {}
    for i in positions:
        found.setdefault((parameters[i].device, parameters[i].dtype), []).append(i)
    return list(found.values())


def _dense_means(own: _Gradients, positions: list[int], group: dist.ProcessGroup | None) -> dict[int, Tensor]:
    """Every rank sums one part of all gradients, in the order of ranks, and gives it to the others."""
    ranks = dist.get_world_size(group)
    parts = [_as_dense(own.parameters[i]).reshape(-1) for i in positions]
    total = sum(part.numel() for part in parts)
    flat = torch.cat([*parts, parts[0].new_zeros(-total % ranks)])
    received = torch.empty_like(flat)
    dist.all_to_all_single(received, flat, group=group)
    first, *others = received.to(state_dtype(flat)).view(ranks, -1)
    mean = first.clone()
    for other in others:
        mean += other
    flat = _over_ranks((mean / ranks).to(flat.dtype), group).reshape(-1)
    means = {}
    for i, part in zip(positions, flat[:total].split([part.numel() for part in parts]), strict=True):
        means[i] = torch.empty_like(own.parameters[i], requires_grad=False).copy_(part.view(own.parameters[i].shape))
    return means


def _as_dense(parameter: Tensor) -> Tensor:
    gradient = parameter.grad
    if gradient is None:
        return torch.zeros_like(parameter)
    return gradient.to_dense() if gradient.is_sparse else gradient
