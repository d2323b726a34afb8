"""Where ``resemb neighbors`` looks: the item table of a run, of a bundle, or a table's file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from resemb_ext.graph import InterestGraph
from resemb_ext.nn import ResEmbeddingBase
from resemb_ext.train.folder import CONFIG

from .exportable import PADDING
from .following import items_of
from .lite.bundle import ABOUT, TABLE
from .lite.idmap import Items
from .lite.snapshot import read_snapshot
from .neighbors import Searchable, TableRows
from .saved import SavedModel
from .vectors import vectors_of


@dataclass(frozen=True)
class Searched:
    """Vectors of items, with their raw ids and perhaps a graph of them.

    Attributes:
        vectors: where neighbours are looked for.
        items: raw ids, or None where there are row numbers alone.
        graph: of a run's Res-embedding, or None.
        what: for messages.
    """

    vectors: Searchable
    items: Items | None
    graph: InterestGraph | None
    what: str

    def row_of(self, item: str) -> int:
        """The row of a raw id as it is spelled out, or of a row number where there are no raw ids.

        Raises:
            ValueError: no such item, or no integer where ids are integers.
        """
        kind = "a row number" if self.items is None else "a raw item id, an integer"
        raw: Any = item
        if self.items is None or self.items.kind != "text":
            try:
                raw = int(item)
            except ValueError:
                raise ValueError(f"ITEM: found {item!r}; expected {kind}") from None
        if self.items is None:
            return raw
        fits = isinstance(raw, str) or -(2**63) <= raw < 2**64
        row = int(self.items.encode([raw])[0]) if fits else self.items.oov
        if row == self.items.oov:
            raise ValueError(f"ITEM: {self.what} has no item {item!r}")
        return row

    def raw_id(self, row: int) -> Any:
        """The raw id of a row, or None."""
        if self.items is None or not self.items.first <= row < self.items.oov:
            return None
        value = self.items.values[row - self.items.first]
        return value if isinstance(value, str) else int(value)

    def graph_weights(self, row: int) -> dict[int, float] | None:
        """The weights of a row's neighbours in the graph, by row; None without a graph."""
        if self.graph is None:
            return None
        begin, end = self.graph.indptr[row], self.graph.indptr[row + 1]
        return dict(zip(self.graph.neighbors[begin:end].tolist(), self.graph.weights[begin:end].tolist(), strict=True))


class ModelRows:
    """The rows of a model's item embedding; attributes as of ``Searchable``.

    Args:
        module: the embedding.
        oov: row of unseen items.
    """

    def __init__(self, module: nn.Module, oov: int) -> None:
        self._vectors = vectors_of(module)
        self.rows, self.dim = self._vectors.rows, self._vectors.dim
        self.no_items: tuple[int, ...] = (PADDING, oov)
        self.made_of: dict[str, Any] | None = None

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Vectors of rows int64 [n]: float32 [n, D]."""
        return self._vectors.at(torch.from_numpy(rows)).numpy()


def searched(source: Path, arm: str | None = None, seed: int | None = None) -> Searched:
    """What to look for neighbours in.

    Args:
        source: a run folder, a bundle, or the file of a table.
        arm, seed: of a run; None takes the one with the best validation metric.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: neither of the three, a damaged one, or an arm or seed of what is no run.
    """
    if (source / CONFIG).is_file():
        return _of_run(SavedModel.load(source, arm, seed), source)
    for name, value in (("arm", arm), ("seed", seed)):
        if value is not None:
            raise ValueError(f"{name}: found {value}, and {source} is no run")
    if source.is_dir() and not (source / ABOUT).is_file():
        raise ValueError(f"{source} is no run, no bundle and no table")
    file = source / TABLE if source.is_dir() else source
    snapshot = read_snapshot(file)
    return Searched(TableRows(snapshot), snapshot.items, None, f"{source}, version {snapshot.sequence}")


def _of_run(saved: SavedModel, folder: Path) -> Searched:
    table: Any = saved.model.get_submodule("item_embedding")
    graph = table.graph if isinstance(table, ResEmbeddingBase) else None
    return Searched(
        ModelRows(table, saved.items.oov), items_of(saved.items), graph, f"{folder}, {saved.arm}, seed {saved.seed}"
    )
