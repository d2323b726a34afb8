"""All changes of a call: checked as a whole, then made as a whole."""

from __future__ import annotations

from typing import Any

import torch

from . import optimizers
from .holders import Holders
from .report import ReplacedTable, Replacement
from .swap import Swap
from .walk import Place


class Plan:
    """The changes of a call, whose making cannot fail.

    Args:
        swaps: of the modules.
        found: all modules of the model.
        given: optimizers.

    Raises:
        TypeError, ValueError: what the optimizers cannot follow.
    """

    def __init__(self, swaps: list[Swap], found: list[Place], given: list[torch.optim.Optimizer]) -> None:
        self.swaps, self.given = swaps, given
        optimizers.check(given, swaps)
        self._holders = Holders(found, swaps)

    def carry_out(self) -> Replacement:
        """Changes the places in plain attributes, the optimizers and the modules."""
        before = [type(swap.module).__name__ for swap in self.swaps]
        self._holders.apply()
        changes = [optimizers.apply(self.given, swap) for swap in self.swaps]
        tables = []
        for number, swap in enumerate(self.swaps):
            module: Any = swap.module
            tables.append(
                ReplacedTable(
                    path=swap.table.path,
                    aliases=swap.table.aliases,
                    module=module,
                    before=before[number],
                    after=type(module).__name__,
                    rows=module.num_embeddings,
                    dim=module.embedding_dim,
                    dtype=next(iter(swap.new.values())).dtype,
                    edges=swap.edges,
                    optimizers=changes[number],
                    mended=tuple(self._holders.mended[number]),
                    left=tuple(self._holders.left[number]),
                    notes=swap.notes,
                )
            )
        return Replacement(tuple(tables))
