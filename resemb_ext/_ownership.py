"""Who reads and who steps a table: what embeddings and optimizers know of each other.

An embedding, before it reads rows, tells hooks which ones. An optimizer that steps a table in backward is its
owner. Other optimizers are refused where their step would fail or go wrong.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from resemb_ext import _registration as _registration  # registers the operators

ReadHook = Callable[[Tensor, Callable[[], Tensor] | None], None]

_OWNER = "_resemb_ext_in_backward"
_TAKE_SPARSE = (torch.optim.SGD, torch.optim.Adagrad, torch.optim.SparseAdam, torch.optim.LBFGS)


class ReadHooks(nn.Module):
    """The part of ResEmbedding that tells optimizers which rows are about to be read."""

    central: nn.Parameter
    residual: nn.Parameter
    num_embeddings: int
    _indptr: Tensor
    _neighbors: Tensor
    _read_hooks: list[ReadHook]

    def register_read_hook(self, hook: ReadHook) -> None:
        """Calls a function before rows of C or R are read: for optimizers that leave work pending.

        Args:
            hook: takes the table and a function that gives the rows about to be read (int64, ascending,
                distinct), or None where all are.
        """
        self._read_hooks.append(hook)

    def _before_read(self, ids: Tensor | None) -> None:
        if not self._read_hooks:
            return

        @functools.cache
        def rows() -> Tensor:
            return torch.ops.resemb_ext.distinct_items(ids, self.num_embeddings)

        def columns() -> Tensor:
            return torch.ops.resemb_ext.distinct_neighbors(rows(), self._indptr, self._neighbors)

        for hook in self._read_hooks:
            hook(self.residual, None if ids is None else rows)
            hook(self.central, None if ids is None else columns)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._before_read(None)
        super()._save_to_state_dict(*args, **kwargs)


class TableOwner(Protocol):
    """An optimizer that steps tables in backward."""

    def _step_table(self, table: Tensor) -> None:
        """The step of one table on its sparse gradient."""

    def _step_lookup(self, *arguments: Any) -> Tensor | None:
        """The step of both tables in the backward of their lookup; the sample weights' gradient."""


def set_owner(table: Tensor, owner: TableOwner) -> None:
    """From now on that optimizer steps the table in backward; the table does not keep it alive."""
    setattr(table, _OWNER, weakref.ref(owner))


def owner_of(table: Tensor) -> TableOwner | None:
    """The optimizer that steps a table in backward, if any."""
    reference = getattr(table, _OWNER, None)
    return None if reference is None else reference()


def _before_step(
    optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict[str, Any]
) -> tuple[tuple, dict[str, Any]] | None:
    """Refuses a step on a table that another steps, or on sparse gradients that it does not take.

    Gradients that a closure makes are looked at after it has run.
    """
    kind = type(optimizer)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            owner = owner_of(parameter)
            if owner is not None and owner is not optimizer:
                raise RuntimeError(
                    f"{kind.__name__}: holds a table that another optimizer steps in backward; leave it to that one"
                )
    if not kind.__module__.startswith("torch.optim") or isinstance(optimizer, _TAKE_SPARSE):
        return None
    place, closure = (1, args[1]) if len(args) > 1 else (None, kwargs.get("closure"))
    if closure is None:
        _refuse_sparse(optimizer)
        return None

    @functools.wraps(closure)
    def checked() -> Any:
        loss = closure()
        _refuse_sparse(optimizer)
        return loss

    if place is None:
        return args, {**kwargs, "closure": checked}
    return (*args[:place], checked, *args[place + 1 :]), kwargs


def _refuse_sparse(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        if any(parameter.grad is not None and parameter.grad.is_sparse for parameter in group["params"]):
            raise RuntimeError(
                f"torch.optim.{type(optimizer).__name__} does not take the sparse gradients of "
                "ResEmbedding(sparse=True): use resemb_ext.optim (Adam, AdamW, Adagrad, "
                "RowwiseAdagrad, SGD), which steps the rows of the batch alone, or sparse=False"
            )


# From the import on, as tables come by loading and copying too.
register_optimizer_step_pre_hook(_before_step)
