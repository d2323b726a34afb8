"""Tells which optimizer to take where torch's own refuses sparse gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

_TAKE_SPARSE = (torch.optim.SGD, torch.optim.Adagrad, torch.optim.SparseAdam)
_MARK = "_resemb_ext_table"


def mark_table(table: Tensor) -> None:
    """Marks a parameter of ours; the first one starts the watch over torch's optimizers."""
    setattr(table, _MARK, True)
    if not _installed:
        _installed.append(register_optimizer_step_pre_hook(_before_step))


_installed: list[Any] = []


def _before_step(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict[str, Any]) -> None:
    kind = type(optimizer)
    if not kind.__module__.startswith("torch.optim") or isinstance(optimizer, _TAKE_SPARSE):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is not None and gradient.is_sparse and hasattr(parameter, _MARK):
                raise RuntimeError(
                    f"torch.optim.{kind.__name__} does not take the sparse gradients of "
                    "ResEmbedding(sparse=True): use resemb_ext.optim (Adam, AdamW, Adagrad, "
                    "RowwiseAdagrad, SGD), which steps the rows of the batch alone, or sparse=False"
                )
