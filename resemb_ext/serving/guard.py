"""The rule for ids that a table has no row for, the same in every form that serves.

With an out-of-vocabulary row such an id reads that row; without one it is refused, and the first of them is named.
Runtimes differ: ONNX reads the last row for -1, OpenVINO zeros beyond the table. So exported graphs hold the rule
themselves, as operations that every runtime computes alike.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def in_table(ids: Tensor, rows: int, oov: int) -> Tensor:
    """Ids with those outside a table replaced by its out-of-vocabulary row; can be exported.

    Args:
        ids: int64 or int32, any shape.
        rows: of the table.
        oov: its row for ids that it does not have.

    Returns:
        shape and dtype of ``ids``.
    """
    return ids.masked_fill((ids < 0) | (ids >= rows), oov)


def check_ids(ids: Tensor, rows: int) -> None:
    """Refuses ids outside a table that has no out-of-vocabulary row.

    Args:
        ids: int64 or int32, any shape.
        rows: of the table.

    Raises:
        IndexError: an id below 0 or from ``rows`` on; the first is named with its position in ``ids.flatten()``.
    """
    flat = ids.reshape(-1)
    bad = (flat < 0) | (flat >= rows)
    if bool(bad.any()):
        position = int(bad.to(torch.uint8).argmax())
        raise IndexError(
            f"ids: {int(flat[position])} at position {position}; the table has {rows:,} rows and no out-of-vocabulary row"
        )


class GuardedEmbedding(nn.Module):
    """A plain table with the rule for bad ids, to serve or to export.

    ``nn.Embedding`` has none of its own once it is exported: each runtime does as it likes. With ``oov`` the program of
    ``torch.export``, and the ONNX model made from it, holds the rule. Without, lookups refuse bad ids.

    Args:
        table: of ``to_embedding()``, say; H rows.
        oov: row for ids outside [0, H); None refuses them.

    Raises:
        TypeError: ``table`` is no ``nn.Embedding``.
        ValueError: ``oov`` is no row of it.
    """

    def __init__(self, table: nn.Embedding, oov: int | None = None) -> None:
        super().__init__()
        if not isinstance(table, nn.Embedding):
            raise TypeError(f"table: found {type(table).__name__}; expected nn.Embedding, as to_embedding() gives")
        if oov is not None and not 0 <= oov < table.num_embeddings:
            raise ValueError(f"oov: found {oov}; expected one of the table's {table.num_embeddings} rows")
        self.table = table
        self.oov = oov

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors [..., D] of ids [...], int64 or int32.

        Raises:
            IndexError: as ``check_ids``, without ``oov``.
            ValueError: without ``oov``, in a program that is exported or compiled: it could not refuse ids.
        """
        if self.oov is not None:
            return self.table(in_table(ids, self.table.num_embeddings, self.oov))
        if torch.compiler.is_compiling():
            raise ValueError("oov: found None; an exported or compiled table needs a row for ids that it does not have")
        check_ids(ids, self.table.num_embeddings)
        return self.table(ids)

    def extra_repr(self) -> str:
        return f"oov={self.oov}"
