"""Served tables in memory, and what reads them in NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

BITS = {"int4": 4, "int8": 8, "float16": 16, "float32": 32}
#: Widths below, at, above and between the pieces and blocks of the kernels.
DIMS = (1, 2, 3, 4, 7, 8, 9, 14, 16, 18, 24, 31, 32, 33, 40, 48, 62, 64, 65, 66, 72, 80, 96, 128, 130, 200)


def encoded(vectors: Tensor, dtype: str) -> Tensor:
    """Rows of float32 vectors by torch's own operators, uint8 [n, row bytes]."""
    if dtype == "int8":
        return torch.ops.quantized.embedding_bag_byte_prepack(vectors)
    if dtype == "int4":
        return torch.ops.quantized.embedding_bag_4bit_prepack(vectors)
    return vectors.to(getattr(torch, dtype)).view(torch.uint8)


def decoded(rows: Tensor, dtype: str) -> np.ndarray:
    """Vectors of rows in float64, by NumPy."""
    bytes_ = np.ascontiguousarray(rows.numpy())
    if dtype in ("float16", "float32"):
        return bytes_.view(dtype).astype(np.float64)
    number = np.dtype("<f4" if dtype == "int8" else "<f2")
    codes, tail = np.split(bytes_, [bytes_.shape[1] - 2 * number.itemsize], 1)
    scale, bias = np.ascontiguousarray(tail).view(number).astype(np.float64).T[..., None]
    if dtype == "int4":
        codes = np.stack([codes & 15, codes >> 4], 2).reshape(len(codes), -1)
    return codes * scale + bias


@dataclass
class Served:
    """A version of a table: what the operators take, and its vectors in float64."""

    dtype: str
    base: Tensor
    bits: Tensor
    before: Tensor
    overlay: Tensor
    rows: int
    oov: int
    padding: int

    @property
    def arguments(self) -> tuple[Any, ...]:
        tensors = (self.base, self.bits, self.before, self.overlay)
        return (*tensors, BITS[self.dtype], self.rows, self.oov, self.padding)

    @property
    def changed(self) -> np.ndarray:
        """Whether a row lies in the overlay, [H]."""
        if not len(self.bits):
            return np.zeros(self.rows, bool)
        return np.unpackbits(self.bits.numpy().view(np.uint8), bitorder="little")[: self.rows].astype(bool)

    @property
    def vectors(self) -> np.ndarray:
        """float64 [H, D]."""
        changed = self.changed
        found = np.zeros((self.rows, decoded(self.base[:1], self.dtype).shape[1]))
        kept = np.flatnonzero(~changed)
        found[kept] = decoded(self.base, self.dtype)[kept]
        if changed.any():
            found[changed] = decoded(self.overlay, self.dtype)
        if self.padding >= 0:
            found[self.padding] = 0
        return found

    def read(self, ids: Tensor) -> np.ndarray:
        """What a lookup must give, float64."""
        known = ids.numpy().astype(np.int64)
        return self.vectors[np.where((known < 0) | (known >= self.rows), self.oov, known)]

    def counted(self, ids: Tensor) -> np.ndarray:
        """Whether an id is another than padding."""
        known = ids.numpy().astype(np.int64)
        return np.where((known < 0) | (known >= self.rows), self.oov, known) != self.padding


def make_served(
    dtype: str,
    rows: int,
    dim: int,
    *,
    base_rows: int | None = None,
    changed: float = 0.0,
    oov: int = -1,
    padding: int = -1,
    seed: int = 0,
) -> Served:
    """A version with random rows; those from ``base_rows`` on, and a share of the others, lie in the overlay."""
    draw = np.random.default_rng(seed)
    held = rows if base_rows is None else base_rows
    vectors = draw.normal(size=(held, dim)).astype(np.float32) * draw.choice([1e-3, 1, 50], (held, 1)).astype(
        np.float32
    )
    base = encoded(torch.from_numpy(vectors), dtype)
    in_overlay = draw.random(rows) < changed
    in_overlay[held:] = True
    if not in_overlay.any():
        empty = torch.empty(0, dtype=torch.int64)
        return Served(dtype, base, empty, empty.int(), base[:0], rows, oov, padding)
    new = torch.from_numpy(draw.normal(size=(int(in_overlay.sum()), dim)).astype(np.float32))
    words = np.zeros(-(-rows // 64) * 64, bool)
    words[:rows] = in_overlay
    bits = np.packbits(words, bitorder="little").view(np.int64)
    ones = words.reshape(-1, 64).sum(1)
    before = (np.cumsum(ones) - ones).astype(np.int32)
    return Served(
        dtype, base, torch.from_numpy(bits), torch.from_numpy(before), encoded(new, dtype), rows, oov, padding
    )


@st.composite
def served(draw: st.DrawFn) -> Served:
    """Versions of any dtype and width, with and without overlay, oov and padding."""
    dtype = draw(st.sampled_from(list(BITS)), label="dtype")
    dim = draw(st.sampled_from([d for d in DIMS if dtype != "int4" or d % 2 == 0]), label="dim")
    rows = draw(st.integers(1, 20) | st.integers(1, 700), label="rows")
    row = st.just(-1) | st.integers(0, rows - 1)
    return make_served(
        dtype,
        rows,
        dim,
        base_rows=draw(st.just(rows) | st.integers(1, rows), label="base_rows"),
        changed=draw(st.sampled_from([0.0, 0.05, 0.5, 1.0]), label="changed"),
        oov=draw(row, label="oov"),
        padding=draw(row, label="padding"),
        seed=draw(st.integers(0, 2**31), label="seed"),
    )


def some_ids(table: Served, size: tuple[int, ...], dtype: torch.dtype, seed: int, padded: float = 0.2) -> Tensor:
    """Ids in the table, some padding, and with an ``oov`` some that it lacks."""
    draw = np.random.default_rng(seed)
    ids = draw.integers(0, table.rows, size)
    if table.padding >= 0:
        ids[draw.random(size) < padded] = table.padding
    if table.oov >= 0:
        bad = draw.choice([-1, -7, table.rows, table.rows + 63, 2**31 - 1, -(2**31)], size)
        ids = np.where(draw.random(size) < 0.1, bad, ids)
    return torch.from_numpy(ids).to(dtype)
