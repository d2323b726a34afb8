"""A folded model without its item table, whose rows come with each batch.

The rows that a batch needs are an input, and its ids number them: row 0 is padding and row 1 that of unseen items. So
the table may lie in a mapped file, be quantised, grow and change, while the model stays as it is.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from resemb_ext.models import CTRModel, TorchBatch
from resemb_ext.models.factors import FirstOrder
from resemb_ext.nn import ResEmbeddingBase

from .exportable import PADDING, refuse_fields, refuse_not_finite
from .guard import in_table

UNSEEN = 1  # of the rows of a batch, that of items that the table does not have
ITEM, CATEGORY = "item_embedding", "category_embedding"


@dataclass(frozen=True)
class ItemTables:
    """Which tables of a model have a row for each item.

    Attributes:
        rows: the item table itself.
        weights: path of the first-order weights of items ([H, 2], of target and history), or None.
    """

    rows: nn.Module
    weights: str | None


class ModuleBesideTable(nn.Module):
    """A model as a function of item rows and of ids that number them.

    Args:
        model: takes items and, with ``category_embedding``, categories; nothing else.

    Attributes:
        dim: D of the item rows.
        weights: path in ``model`` of its first-order weights of items, or None.
        categories: rows of the category table, 0 without one.

    Raises:
        ValueError: as ``item_tables``, or weights that are not finite.
    """

    def __init__(self, model: CTRModel) -> None:
        super().__init__()
        tables = item_tables(model)
        self.weights = tables.weights
        self.dim = int(model.item_embedding.embedding_dim)  # type: ignore[arg-type]
        memo: dict[int, Any] = {
            id(m): m.to_plain() for m in model.modules() if isinstance(m, ResEmbeddingBase) and m is not tables.rows
        }
        memo[id(tables.rows)] = _stand_in(self.dim)
        if tables.weights is not None:
            weights = model.get_submodule(tables.weights)
            memo[id(weights)] = _stand_in(int(weights.embedding_dim))  # type: ignore[arg-type]
        self.model = copy.deepcopy(model, memo).eval()
        refuse_not_finite(self.model)
        table = self.model.category_embedding
        self.categories = 0 if table is None else int(table.num_embeddings)  # type: ignore[arg-type]

    def forward(
        self,
        rows: Tensor,
        target: Tensor,
        history: Tensor,
        category: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Logits of a batch.

        Args:
            rows: float32 [U, D], vectors of items: row 0 of zeros, row 1 that of unseen items, then any.
            target: int64 [B], row numbers; one below 0 or from U on is read as row 1.
            history: int64 [B, L], likewise; 0 is no event.
            category: int64 [U], the category of each row, where the model takes categories; one that the model does
                not have is read as its last, the unseen one.
            weights: float32 [U, 2], first-order weights of each row, where the model has them.

        Returns:
            float32 [B].
        """
        target, history = (in_table(ids, rows.shape[0], UNSEEN) for ids in (target, history))
        if category is not None:
            category = in_table(category, self.categories, self.categories - 1)
        batch = TorchBatch(
            target=target,
            history=history,
            target_category=None if category is None else category[target],
            history_category=None if category is None else category[history],
        )
        tables = {f"{ITEM}.weight": rows}
        if self.weights is not None:
            assert weights is not None
            tables[f"{self.weights}.weight"] = weights
        return functional_call(self.model, tables, (batch,)).float()  # type: ignore[arg-type]


def layers_digest(model: CTRModel) -> str:
    """Identifies all of a model but its tables of items: rows that were trained with other layers do not fit it.

    Args:
        model: that could be exported beside a table.

    Returns:
        hex sha256 over its class, and over names, dtypes, shapes and bytes of its weights but those of ``item_tables``.

    Raises:
        ValueError: as ``ModuleBesideTable``.
    """
    module = ModuleBesideTable(model)
    left_out = tuple(f"{name}." for name in (ITEM, module.weights) if name is not None)
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, value in sorted(module.model.state_dict().items()):
        if isinstance(value, Tensor) and not name.startswith(left_out):
            digest.update(f"\0{name}\0{value.dtype}\0{list(value.shape)}\0".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def item_tables(model: CTRModel) -> ItemTables:
    """Finds the tables of a model that have a row for each item.

    Raises:
        ValueError: the model takes fields that an export has no inputs for, its item embedding has another padding
            than 0, or it has a table of which is not known what its rows stand for.
    """
    refuse_fields(model, has_categories=model.category_embedding is not None)
    known: set[int] = set()
    weights = None
    for name, module in model.named_modules():
        if name in (ITEM, CATEGORY):
            known |= {id(part) for part in module.modules()}
        elif isinstance(module, FirstOrder):
            if weights is not None:
                raise ValueError(f"model: cannot be exported beside a table, since {weights} and {name}.item are two")
            weights = f"{name}.item"
            known |= {id(module.item), id(module.category)}
    for name, module in model.named_modules():
        if _is_table(module) and id(module) not in known:
            raise ValueError(
                f"model: cannot be exported beside a table, since {name} is a further table of {module.num_embeddings:,} "
                "rows, and whether it has one for each item is not known; export it without --table"
            )
    return ItemTables(model.item_embedding, weights)


def _is_table(module: nn.Module) -> bool:
    return isinstance(module, (nn.Embedding, nn.EmbeddingBag, ResEmbeddingBase))


def _stand_in(dim: int) -> nn.Embedding:
    """What the rows of a batch take the place of."""
    return nn.Embedding(2, dim, padding_idx=PADDING, _weight=torch.zeros(2, dim))


def example_inputs(
    module: ModuleBesideTable, longest: int, draw: torch.Generator, rows: int, samples: int
) -> dict[str, Tensor]:
    """A batch with ids outside its rows, an empty history and one that is filled up.

    Args:
        module: what takes it.
        longest: L.
        draw: of numbers.
        rows: U, at least 3.
        samples: B.
    """
    table = torch.randn(rows, module.dim, generator=draw)
    table[PADDING] = 0
    target = torch.randint(UNSEEN, rows, (samples,), generator=draw)
    history = torch.randint(0, rows, (samples, longest), generator=draw)
    for place, (bad, other) in enumerate(((-1, rows), (2**40, -(2**40)))):
        if samples > place + 2:
            target[place], history[place, 0] = bad, other
    history[-1] = PADDING
    if samples > 1:
        history[-2, longest // 2 :] = PADDING
    inputs = {"rows": table, "target": target, "history": history}
    if module.categories:
        inputs["category"] = torch.randint(-1, module.categories + 1, (rows,), generator=draw)
    if module.weights is not None:
        inputs["weights"] = torch.randn(rows, 2, generator=draw)
        inputs["weights"][PADDING] = 0
    return inputs


def free_sizes(inputs: dict[str, Tensor]) -> Iterator[tuple[str, dict[int, Any]]]:
    """Of each input, which of its sizes are free: U of rows, B of samples."""
    rows, samples = torch.export.Dim("rows", min=2), torch.export.Dim("batch", min=1)
    for name in inputs:
        yield name, {0: samples if name in ("target", "history") else rows}
