"""What embeddings keep of the optimizer that steps or decays their tables.

The hooks that an optimizer leaves in a module hold a ``Tie``, never the optimizer itself, so that a copy or a
pickle of the module is an ordinary module: its tie is empty. Copied or pickled in one with the optimizer, both
copies are tied to each other.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from resemb_ext._ownership import TableOwner


class TiedOptimizer(TableOwner, Protocol):
    """What ties need of the optimizer."""

    def _catch_up_read(self, table: Tensor, rows: Callable[[], Tensor] | None) -> None:
        """Applies the decay that is pending on the rows about to be read, or on all."""


class Lookup:
    """A lookup of some tables that backward has not reached, or has in the pass ``in_pass``.

    Attributes:
        made_in: number of the backward pass inside which it was made; -1 outside.
        stepped: its own backward has stepped the tables.
    """

    def __init__(self, made_in: int, *tables: Tensor) -> None:
        self.tables = {id(table) for table in tables}
        self.made_in = made_in
        self.in_pass: int | None = None
        self.stepped = False


class Tie:
    """The optimizer that a module's tables are tied to, or None in a copy of the module alone.

    Attributes:
        lookups: of the tied tables, as long as their autograd graphs live.
        copies: what copies of the modules have in place of a tie to this optimizer; see ``global_decay``.
        settled: whole tables have had their pending decay applied since the last step.
    """

    optimizer: TiedOptimizer | None = None
    settled = False

    def __init__(self) -> None:
        self.lookups: weakref.WeakSet[Lookup] = weakref.WeakSet()
        self.copies: weakref.WeakSet[Any] = weakref.WeakSet()

    def __reduce__(self) -> tuple:
        return Tie, ()


# The modules keep the tie and the tie keeps the optimizer; the other way round would be a cycle.
_ties: weakref.WeakKeyDictionary[Any, weakref.ref[Tie]] = weakref.WeakKeyDictionary()


def tie_of(optimizer: Any) -> Tie | None:
    """An optimizer's tie, as long as some module keeps it."""
    reference = _ties.get(optimizer)
    return None if reference is None else reference()


def tie_to(optimizer: Any, tie: Tie | None = None) -> Tie:
    """An optimizer's tie, made where there is none; or ``tie``, of copied modules, becomes its own."""
    tie = tie or tie_of(optimizer) or Tie()
    tie.optimizer = optimizer
    _ties[optimizer] = weakref.ref(tie)
    return tie
