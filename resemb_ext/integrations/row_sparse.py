"""What adapters share to let a framework's optimizer step only the rows of a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import nn

from resemb_ext.replace import Replacement

#: How tables are stepped: by the framework's optimizer, by rows, or by rows inside backward.
OPTIMIZERS = ("own", "sparse", "in backward")


def check_optimizer(optimizer: str) -> None:
    """
    Raises:
        ValueError: none of ``OPTIMIZERS``.
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer: found {optimizer!r}; expected one of {', '.join(map(repr, OPTIMIZERS))}")


def decay_apart(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], decay: float) -> None:
    """Puts parameters into groups of their own, with the options that they had and more weight decay."""
    chosen = {id(p) for p in parameters}
    for group in list(optimizer.param_groups):
        moved = [p for p in group["params"] if id(p) in chosen]
        if moved:
            group["params"][:] = [p for p in group["params"] if id(p) not in chosen]
            optimizer.add_param_group({**group, "params": moved, "weight_decay": group["weight_decay"] + decay})


def with_optimizer(report: Replacement, optimizer: torch.optim.Optimizer) -> Replacement:
    """A report that names another optimizer in place of the one that was given."""
    return dataclasses.replace(
        report,
        tables=tuple(
            dataclasses.replace(
                table, optimizers=tuple(dataclasses.replace(change, optimizer=optimizer) for change in table.optimizers)
            )
            for table in report
        ),
    )
