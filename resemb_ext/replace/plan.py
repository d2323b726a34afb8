"""All changes of a call: checked as a whole, then made as a whole."""

from __future__ import annotations

from typing import Any

import torch

from . import optimizers
from .attached import Attached
from .holders import Holders
from .report import ReplacedTable, Replacement
from .swap import Swap, tie
from .walk import Place


class Plan:
    """The changes of a call, whose making cannot fail.

    Args:
        swaps: of the modules.
        found: all modules of the model.
        given: optimizers.

    Raises:
        TypeError, ValueError: tables with one weight and two graphs; what the optimizers cannot follow.
    """

    def __init__(self, swaps: list[Swap], found: list[Place], given: list[torch.optim.Optimizer]) -> None:
        self.swaps, self.given = swaps, given
        tie(swaps)
        optimizers.check(given, swaps)
        self._states = optimizers.first_states(given, swaps)
        self._attached = Attached(given, swaps)
        self._holders = Holders(found, swaps)

    def carry_out(self) -> Replacement:
        """Changes the places in plain attributes, the optimizers and the modules."""
        before = [type(swap.module).__name__ for swap in self.swaps]
        self._holders.apply()
        self._attached.release()
        changes = [
            optimizers.apply(self.given, swap, state) for swap, state in zip(self.swaps, self._states, strict=True)
        ]
        for swap in self.swaps:
            swap.apply()
        self._attached.resume()
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
