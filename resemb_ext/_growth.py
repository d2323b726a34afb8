"""Tables with more rows: where each row comes from, and what optimizers keep of a table that grows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resemb_ext._huge_pages import empty_table

_Optimizer = torch.optim.Optimizer

# Their state by row starts at 0, but for Adagrad's sum; one row's step reads no other row.
_BY_ROW = (
    torch.optim.Adam,  # AdamW among them
    torch.optim.SGD,
    torch.optim.Adagrad,
    torch.optim.SparseAdam,
    torch.optim.RMSprop,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.Adadelta,
)


@dataclass(frozen=True)
class RowMoves:
    """Which old row each row of a larger table holds.

    Attributes:
        old: rows that there were.
        new: rows that there are, at least as many.
        moved: the old row that becomes the last one, while its place starts anew; None where every old row stays.
    """

    old: int
    new: int
    moved: int | None = None

    @cached_property
    def places(self) -> np.ndarray:
        """int64 [old]: the new row of each old one."""
        places = np.arange(self.old, dtype=np.int64)
        if self.moved is not None:
            places[self.moved] = self.new - 1
        return places

    @cached_property
    def fresh(self) -> np.ndarray:
        """int64, ascending: new rows that hold no old one."""
        started = np.ones(self.new, bool)
        started[self.places] = False
        return np.flatnonzero(started)

    def apply(self, values: Tensor, start: float | Tensor = 0.0) -> Tensor:
        """A larger copy of a tensor by row.

        Args:
            values: [old, ...].
            start: of rows that hold no old one.

        Returns:
            [new, ...], of the same dtype, on the same device.
        """
        grown = empty_table((self.new, *values.shape[1:]), dtype=values.dtype, device=values.device)
        grown[: self.old] = values
        grown[self.old :] = start
        if self.moved is not None:
            grown[self.new - 1] = values[self.moved]
            grown[self.moved] = start
        return grown


def put_rows(parameter: Tensor, values: Tensor) -> None:
    """Gives a parameter other numbers of another height; it stays the same object, with its hooks.

    Backward through what was computed from it before is refused.
    """
    if parameter.requires_grad:
        with torch.enable_grad():
            node: Any = parameter.view_as(parameter).grad_fn.next_functions[0][0]  # type: ignore[union-attr]
        node.register_prehook(_refuse_backward)  # it lives as long as what was computed
    # Of another dtype in between: torch then forgets the node that sums its gradients, which knows the old shape.
    other = torch.float32 if parameter.dtype != torch.float32 else torch.float64
    parameter.data = torch.empty(0, dtype=other, device=parameter.device)
    parameter.data = values
    torch.autograd.graph.increment_version(parameter)


def _refuse_backward(_: Any) -> None:
    raise RuntimeError("grow: a lookup made before it cannot be differentiated after it; look up anew")


def holders(optimizers: Iterable[_Optimizer], tables: Mapping[str, Tensor]) -> list[_Optimizer]:
    """Those among optimizers that hold one of some tables.

    Raises:
        TypeError: one of them keeps state of a table that is not a number or a row for each row.
    """
    found = []
    for optimizer in optimizers:
        held = {name for name, table in tables.items() if _group_of(optimizer, table) is not None}
        if not held:
            continue
        if any(optimizer.state.get(tables[name]) for name in held) and not _grows(optimizer):
            kind = type(optimizer)
            known = ", ".join(kind.__name__ for kind in _BY_ROW)
            raise TypeError(
                f"{kind.__module__.partition('.')[0]}'s {kind.__name__} keeps state of {', '.join(sorted(held))} that "
                f"cannot be given more rows; expected an optimizer of resemb_ext.optim, or torch.optim's {known}. Drop "
                "it before, and make it anew after"
            )
        found.append(optimizer)
    return found


def _grows(optimizer: _Optimizer) -> bool:
    return hasattr(optimizer, "_rows_have_moved") or isinstance(optimizer, _BY_ROW)  # those of Lightning are both


def _group_of(optimizer: _Optimizer, table: Tensor) -> dict[str, Any] | None:
    groups = (group for group in optimizer.param_groups if any(p is table for p in group["params"]))
    return next(groups, None)


def grown_state(optimizer: _Optimizer, table: Tensor, moves: RowMoves) -> dict[str, Tensor]:
    """What an optimizer keeps of each row of a table, with more rows; counts of the whole table are left out.

    Sums of a new row start as those of a new table, its own count of steps at 0, and no decay is pending on it.
    """
    state, group = optimizer.state.get(table) or {}, _group_of(optimizer, table) or {}
    starts: dict[str, Any] = {
        "sum": group.get("initial_accumulator_value", 0.0),
        "decayed": state.get("decay_log", 0.0),
    }
    return {
        name: moves.apply(value, starts.get(name, 0.0))
        for name, value in state.items()
        if isinstance(value, Tensor) and value.dim() and len(value) == moves.old
    }
