"""What optimizers of this package do inside modules: steps in backward, decay of whole tables."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from resemb_ext._ownership import owner_of
from resemb_ext.optim import RowSparseOptimizer, global_decay, in_backward

from .swap import Swap


class Attached:
    """The optimizers that step the tables of some changes in backward, or decay them whole.

    Args:
        given: optimizers.
        swaps: the changes, not made yet.
    """

    def __init__(self, given: list[torch.optim.Optimizer], swaps: list[Swap]) -> None:
        self._swaps = swaps
        self._work: list[tuple[Any, list[Swap], list[Swap]]] = []
        for optimizer in given:
            if isinstance(optimizer, RowSparseOptimizer):
                steps = [swap for swap in swaps if owner_of(_leading(swap)) is optimizer]
                decays = [swap for swap in swaps if _leading(swap) in optimizer._watched]
                self._work.append((optimizer, steps, decays))

    def release(self) -> None:
        """Before the changes: takes away what lies in the modules."""
        for optimizer, steps, decays in self._work:
            for swap in (*steps, *decays):
                in_backward.uninstall(swap.module)
                global_decay.unwatch(swap.module)
                optimizer._watched.difference_update(swap.old.values())

    def resume(self) -> None:
        """After the changes: the optimizers go on."""
        for optimizer, steps, decays in self._work:
            if decays:
                optimizer.attach(nn.ModuleList(swap.module for swap in decays))
            if steps:
                optimizer.step_in_backward(nn.ModuleList(swap.module for swap in steps))


def _leading(swap: Swap) -> nn.Parameter:
    return next(iter(swap.old.values()))
