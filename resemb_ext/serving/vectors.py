"""The vectors that a served table is made of, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resemb_ext.nn.base import ResEmbeddingBase

from .encoding import encode_rows

# Numbers that a module computes at once, and of those that are encoded while they are in cache.
_READ, _ENCODED = 1 << 22, 1 << 18


@dataclass(frozen=True)
class Vectors:
    """The vectors of an embedding, which nothing holds as a whole in float32.

    Attributes:
        rows, dim: H and D.
        padding: the row whose vector is zero, or None.
    """

    rows: int
    dim: int
    padding: int | None
    _read: Callable[[Tensor | slice], Tensor]

    def block(self, start: int, stop: int) -> Tensor:
        """Rows [start, stop), float32 [stop - start, D] on the CPU."""
        vectors = self._float32(self._read(slice(start, stop)))
        if self.padding is not None and start <= self.padding < stop and bool(vectors[self.padding - start].any()):
            vectors = vectors.clone()  # it may be the table of a bag, which leaves padding out
            vectors[self.padding - start] = 0
        return vectors

    def at(self, ids: Tensor) -> Tensor:
        """Rows of ids int64 [n], float32 [n, D] on the CPU."""
        vectors = self._float32(self._read(ids))
        if self.padding is not None:
            vectors[ids == self.padding] = 0
        return vectors

    def encoded(self, dtype: str) -> Iterator[np.ndarray]:
        """All rows as bytes, uint8 [b, row_bytes], in order.

        Raises:
            TableError: numbers that are not finite in ``dtype``, the row is named; a ``dtype`` that no table has.
        """
        step, small = max(1, _READ // self.dim), max(1, _ENCODED // self.dim)
        for start in range(0, self.rows, step):
            vectors = self.block(start, min(start + step, self.rows))
            for first in range(0, len(vectors), small):
                yield encode_rows(vectors[first : first + small], dtype, first=start + first)

    @staticmethod
    def _float32(vectors: Tensor) -> Tensor:
        return vectors.detach().to("cpu", torch.float32).contiguous()


def vectors_of(source: Any) -> Vectors:
    """The vectors of an embedding or a matrix.

    Args:
        source: ``ResEmbedding``, ``ResEmbeddingBag``, ``nn.Embedding``, ``nn.EmbeddingBag``, or a floating tensor or
            NumPy array [H, D].

    Raises:
        TypeError: something else.
        ValueError: a matrix of another shape; an embedding whose lookup changes its table (``max_norm``).
    """
    if isinstance(source, ResEmbeddingBase):
        return _folded(source)
    if isinstance(source, (nn.Embedding, nn.EmbeddingBag)):
        if source.max_norm is not None:
            raise ValueError(f"source: an embedding with max_norm={source.max_norm}; give its weight as it is")
        weight, padding = source.weight.detach(), source.padding_idx
        # nn.Embedding shows the padding row as it is, where a table reads zeros.
        if padding is not None and isinstance(source, nn.Embedding) and bool(weight[padding].any()):
            padding = None
        return Vectors(weight.shape[0], weight.shape[1], padding, weight.__getitem__)
    if isinstance(source, np.ndarray) and source.dtype.kind == "f":
        source = torch.from_numpy(source)
    if not isinstance(source, Tensor) or not source.is_floating_point():
        found = f"{source.dtype} {tuple(source.shape)}" if hasattr(source, "dtype") else type(source).__name__
        raise TypeError(f"source: found {found}; expected an embedding, or a floating tensor or array [H, D]")
    if source.dim() != 2 or not all(source.shape):
        raise ValueError(f"source: shape {tuple(source.shape)}; expected [H, D]")
    return Vectors(source.shape[0], source.shape[1], None, source.detach().__getitem__)


def _folded(module: ResEmbeddingBase) -> Vectors:
    device = module.central.device

    @torch.no_grad()
    def read(rows: Tensor | slice) -> Tensor:
        if isinstance(rows, slice):
            return module._read_rows(rows.start, rows.stop)
        module._before_read(None)
        return module._rows(rows.to(device))

    padding = None if module.keep_padding else module.padding_idx
    return Vectors(module.num_embeddings, module.embedding_dim, padding, read)
