"""Steps that a CUDA graph repeats: the step count and the learning rate lie on the tables' device.

Numbers that the host hands to a kernel are frozen in a captured graph. With capturable=True a table's count
is raised where it lies and kernels read it there; a learning rate is followed where it is a tensor on that
device, and frozen where it is a number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from resemb_ext import _registration as _registration  # registers the operators

_ops = torch.ops.resemb_ext
DEVICES = ("cuda",)


def capturing() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def check_options(group: dict[str, Any]) -> None:
    if group["capturable"] and group["decay"] == "global":
        raise ValueError("capturable: not with decay='global', whose pending rows are listed on the host")


def check_table(group: dict[str, Any], table: Tensor, name: str) -> None:
    """Refuses what a capture would get wrong.

    Raises:
        RuntimeError: in a capture without capturable=True.
        ValueError: capturable with a table or a learning rate in another place than a CUDA device.
    """
    if not group["capturable"]:
        refuse_capture([group])
        return
    if table.device.type not in DEVICES:
        raise ValueError(f"{name}: is on {table.device}; expected a table on CUDA with capturable=True")
    lr = group["lr"]
    if isinstance(lr, Tensor) and lr.device != table.device:
        raise ValueError(
            f"lr: a tensor on {lr.device}; with capturable=True expected one on {table.device}, or a number"
        )


def refuse_capture(groups: list[dict[str, Any]]) -> None:
    if capturing() and not all(group["capturable"] for group in groups):
        raise RuntimeError(
            "optimizer: a step inside the capture of a CUDA graph, which would repeat its step count; "
            "make the optimizer with capturable=True"
        )


def refuse_rows(index: int) -> None:
    """Refuses, in a capture, a dense gradient that is stepped by rows."""
    if capturing():
        raise RuntimeError(
            f"parameter {index}: compact state, state of one number a row, or random rounding: dense gradients are then "
            "stepped outside captures alone; put it into a group with state='float32', bias_correction='global' and "
            "without stochastic_rounding, or step by Adam or SGD"
        )


def check_dense(dense: Optimizer, groups: list[dict[str, Any]]) -> None:
    """Refuses dense steps in a capture where torch.optim's own optimizer reads numbers on the host."""
    if not capturing():
        return
    if isinstance(dense, torch.optim.Adagrad):
        raise RuntimeError(
            "torch.optim.Adagrad, which steps the parameters with dense gradients here, counts on the "
            "host: step those outside the captured part, or by Adam or SGD"
        )
    if isinstance(dense, torch.optim.SGD) and any(
        isinstance(group["lr"], Tensor) and not group["fused"] for group in groups
    ):
        raise RuntimeError(
            "torch.optim.SGD reads a tensor lr on the host unless fused=True; inside a capture pass that"
        )


def advance(group: dict[str, Any], step: Tensor, decay: float) -> Tensor:
    """Counts a table's step in place; float64 [3]: its lr, factor of decoupled decay, count."""
    lr = group["lr"]
    tensor = lr if isinstance(lr, Tensor) else None
    value = 0.0 if isinstance(lr, Tensor) else float(lr)
    return _ops.advance_step_(step, tensor, value, group.get("lr_decay", 0.0), decay)
