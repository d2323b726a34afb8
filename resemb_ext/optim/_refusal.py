"""Refuses steps that would fail or go wrong on a table of ours, with what to do instead."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from resemb_ext.optim._in_backward import owner_of

_TAKE_SPARSE = (torch.optim.SGD, torch.optim.Adagrad, torch.optim.SparseAdam)
_MARK = "_resemb_ext_table"
_installed: list[Any] = []


def watch_table(table: Tensor) -> None:
    """Marks a parameter of ours; the first one starts the watch over optimizers."""
    setattr(table, _MARK, True)
    if not _installed:
        _installed.append(register_optimizer_step_pre_hook(_before_step))


def _before_step(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict[str, Any]) -> None:
    kind = type(optimizer)
    refuses = kind.__module__.startswith("torch.optim") and not isinstance(optimizer, _TAKE_SPARSE)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if not hasattr(parameter, _MARK):
                continue
            owner = owner_of(parameter)
            if owner is not None and owner is not optimizer:
                raise RuntimeError(
                    f"{kind.__name__}: holds a table that another optimizer steps in backward; leave it to that one"
                )
            if refuses and parameter.grad is not None and parameter.grad.is_sparse:
                raise RuntimeError(
                    f"torch.optim.{kind.__name__} does not take the sparse gradients of "
                    "ResEmbedding(sparse=True): use resemb_ext.optim (Adam, AdamW, Adagrad, "
                    "RowwiseAdagrad, SGD), which steps the rows of the batch alone, or sparse=False"
                )
