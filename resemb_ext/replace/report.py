"""What a call of ``replace_embeddings`` or ``restore_embeddings`` has changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class OptimizerChange:
    """A place in an optimizer that new parameters have taken.

    Attributes:
        optimizer: the optimizer itself, not what wraps it.
        groups: numbers of the groups that have changed.
        dropped_state: the state that the old parameters had, as momentum, is gone.
    """

    optimizer: torch.optim.Optimizer
    groups: tuple[int, ...]
    dropped_state: bool

    def __str__(self) -> str:
        plural = "s" if len(self.groups) > 1 else ""
        text = f"{type(self.optimizer).__name__}: group{plural} {', '.join(map(str, self.groups))}"
        return text + ("; the state of the old table is dropped" if self.dropped_state else "")


@dataclass(frozen=True)
class ReplacedTable:
    """An embedding whose module has changed.

    Attributes:
        path: its name in the model; "" where it is the model itself.
        aliases: its other names, as of a module that is shared.
        module: the module, the same object as before.
        before, after: names of its class.
        rows, dim, dtype: of the table, [rows, dim].
        edges: of the graph.
        optimizers: those whose groups hold the new parameters.
        mended: places in plain attributes, such as lists of parameters to regularise, that now hold the new ones.
        left: places that still hold the old weight, since two parameters cannot take its place there.
        notes: what else to know.
    """

    path: str
    aliases: tuple[str, ...]
    module: nn.Module
    before: str
    after: str
    rows: int
    dim: int
    dtype: torch.dtype
    edges: int
    optimizers: tuple[OptimizerChange, ...] = ()
    mended: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = f"{self.path or 'the model'}: {self.before} -> {self.after}, {self.rows} rows x {self.dim}, "
        lines = [head + f"{str(self.dtype).removeprefix('torch.')}, {self.edges} edges"]
        if self.aliases:
            lines.append(f"  also known as {', '.join(self.aliases)}")
        lines += [f"  {change}" for change in self.optimizers]
        lines += [f"  {place} holds the new parameters" for place in self.mended]
        lines += [f"  {place} still holds the old weight" for place in self.left]
        return "\n".join(lines + [f"  {note}" for note in self.notes])


@dataclass(frozen=True, repr=False)
class Replacement:
    """What has changed, table by table; shown as a short text.

    Attributes:
        tables: in the order in which the model holds them.
    """

    tables: tuple[ReplacedTable, ...]

    def __iter__(self) -> Iterator[ReplacedTable]:
        return iter(self.tables)

    def __len__(self) -> int:
        return len(self.tables)

    def __getitem__(self, name: str) -> ReplacedTable:
        """The table of that name or alias.

        Raises:
            KeyError: there is none; the message lists those there are.
        """
        for table in self.tables:
            if name in (table.path, *table.aliases):
                return table
        raise KeyError(f"{name}: expected one of {', '.join(table.path for table in self.tables)}")

    def __str__(self) -> str:
        plural = "" if len(self.tables) == 1 else "s"
        return "\n".join([f"{len(self.tables)} table{plural} changed", *map(str, self.tables)])

    __repr__ = __str__
