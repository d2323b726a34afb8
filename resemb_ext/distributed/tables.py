"""The dealt tables of a model under global names: what checkpoints are made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resemb_ext._ownership import ShardedTables

from .deal import Deal


@dataclass(frozen=True)
class ShardedTable:
    """This rank's part of a dealt table.

    Attributes:
        name: of the parameter in the model that was sharded, say "item.central"; the same for any number of ranks.
        shape: (H, D), of the whole table.
        part: the parameter, [rows of this rank, D]. An optimizer keeps state by these rows.
        deal: which rows those are.
    """

    name: str
    shape: tuple[int, int]
    part: nn.Parameter
    deal: Deal

    def rows(self) -> Tensor:
        """int64, ascending: the whole table's numbers of this rank's rows, in the order of ``part``."""
        return self.deal.rows()

    def own(self, whole: Tensor) -> Tensor:
        """This rank's rows of anything by row of the whole table, [H, ...]: a view."""
        if whole.shape[:1] != self.shape[:1]:
            raise ValueError(f"whole: found {whole.shape[0]} rows for {self.name}; expected {self.shape[0]}")
        return self.deal.own(whole)

    @torch.no_grad()
    def load(self, rows: Tensor, values: Tensor) -> int:
        """Writes the rows among some that lie with this rank.

        Args:
            rows: int64 [N], distinct numbers of the whole table.
            values: [N, D].

        Returns:
            How many rows were written.

        Raises:
            IndexError: a row outside [0, H).
            ValueError: values of another shape.
        """
        if values.shape != (len(rows), self.shape[1]):
            raise ValueError(f"values: found {list(values.shape)}; expected {[len(rows), self.shape[1]]}")
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < self.shape[0]:
            raise IndexError(f"rows: found {int(rows.min())} to {int(rows.max())}; expected [0, {self.shape[0]})")
        own = self.deal.owner(rows) == self.deal.rank
        places = self.deal.place(rows[own]).to(self.part.device)
        self.part.index_copy_(0, places, values[own].to(self.part))
        return len(places)


def tables(model: nn.Module) -> list[ShardedTable]:
    """The dealt tables inside a model, in the order of its modules; the same on every rank.

    Args:
        model: what ``rx.distributed.shard`` gave, or a module in it. Names are those inside it, without the wrapper's
            "module.".
    """
    from .model import ShardedModel

    inner = model.module if isinstance(model, ShardedModel) else model
    found = []
    for prefix, module in inner.named_modules():
        if not isinstance(module, ShardedTables):
            continue
        for name, part in module.named_parameters(recurse=False):
            deal: Deal = module._source.deal  # type: ignore[union-attr, assignment]
            path = f"{prefix}.{name}" if prefix else name
            found.append(ShardedTable(path, (deal.items, part.shape[1]), part, deal))
    return found
