"""Rows of a table as bytes: float32, float16, and the 8 and 4 bits of FBGEMM and torch.

An int8 row is D uint8 numbers q, then scale and bias in float32; its vector is q scale + bias. An int4 row is D/2
bytes of two numbers each, the low half first, then scale and bias in float16. The bytes are those of
``torch.ops.quantized.embedding_bag_byte_prepack`` and ``embedding_bag_4bit_prepack``, after the reference code of
FBGEMM (``QuantUtils.cc``); but where 0 and -0 both are the smallest number of a row, the sign of the bias is any.
"""

from __future__ import annotations

import numpy as np

from .errors import TableError

DTYPES = ("float32", "float16", "int8", "int4")
MAX_DIM = 1 << 16
_FLOATS: dict[str, np.dtype] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
_EPSILON = np.float32(1e-8)  # FBGEMM's, which keeps a range of 0 from dividing


def row_bytes(dtype: str, dim: int) -> int:
    """Bytes of a row of ``dim`` numbers.

    Raises:
        TableError: another dtype or dim, or an odd dim for int4.
    """
    if dtype not in DTYPES:
        raise TableError(f"dtype: found {dtype!r}, expected one of {', '.join(DTYPES)}")
    if not 1 <= dim <= MAX_DIM:
        raise TableError(f"dim: found {dim}, expected 1 to {MAX_DIM}")
    if dtype == "int4" and dim % 2:
        raise TableError(f"dim: found {dim}, expected an even number for int4, two of whose numbers share a byte")
    return {"float32": 4 * dim, "float16": 2 * dim, "int8": dim + 8, "int4": dim // 2 + 4}[dtype]


def _layout(dtype: str, dim: int) -> np.dtype:
    """The fields of a quantised row."""
    number, columns = ("<f4", dim) if dtype == "int8" else ("<f2", dim // 2)
    return np.dtype([("q", "u1", (columns,)), ("scale", number), ("bias", number)])


def encode(vectors: np.ndarray, dtype: str, first: int | np.ndarray = 0) -> np.ndarray:
    """Rows of float32 vectors.

    Args:
        vectors: float32 [n, D], finite.
        dtype: one of ``DTYPES``.
        first: number of the first row, for messages; or those of all rows.

    Returns:
        uint8 [n, ``row_bytes(dtype, D)``].

    Raises:
        TableError: numbers that are not finite, or that the dtype cannot hold; the first row is named.
    """
    if vectors.ndim != 2 or vectors.dtype != np.float32:
        raise TableError(f"vectors: found {vectors.dtype} of shape {vectors.shape}, expected float32 [n, D]")
    count, dim = vectors.shape
    size = row_bytes(dtype, dim)
    if not count:
        return np.empty((0, size), np.uint8)
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype in _FLOATS:
            held = np.ascontiguousarray(vectors, _FLOATS[dtype])
            _check_finite(held, dtype, first)
            return held.view(np.uint8)
        low, high = vectors.min(1, keepdims=True), vectors.max(1, keepdims=True)
        rows = np.empty(count, _layout(dtype, dim))
        if dtype == "int8":
            spread = high - low
            rows["scale"], rows["bias"] = (spread / np.float32(255))[:, 0], low[:, 0]
            _check_finite(spread, dtype, first)
            inverse = np.float32(255) / (spread + _EPSILON)
            rows["q"] = np.rint((vectors - low) * inverse)
        else:
            low = low.astype("<f2")
            bias = low.astype(np.float32)
            spread = high - bias
            scale = np.where(spread == 0, np.float32(1), spread / np.float32(15)).astype("<f2").astype(np.float32)
            scale[(scale == 0) | np.isinf(1 / np.where(scale == 0, np.float32(1), scale))] = 1
            _check_finite(bias + scale, dtype, first)
            q = np.clip(np.rint((vectors - bias) * (np.float32(1) / scale)), 0, 15).astype(np.uint8)
            rows["q"] = q[:, ::2] | q[:, 1::2] << 4
            rows["scale"], rows["bias"] = scale[:, 0], low[:, 0]
    return rows.view(np.uint8).reshape(count, size)


def _check_finite(numbers: np.ndarray, dtype: str, first: int | np.ndarray) -> None:
    good = np.isfinite(numbers).all(1)
    if not good.all():
        at = int(np.argmin(good))
        row = first[at] if isinstance(first, np.ndarray) else first + at
        raise TableError(f"vectors: row {row} holds a number that is not finite in {dtype}")


def decode(rows: np.ndarray, dtype: str, dim: int) -> np.ndarray:
    """Vectors of rows.

    Args:
        rows: uint8 [n, ``row_bytes(dtype, dim)``].

    Returns:
        float32 [n, dim], in memory of its own.

    Raises:
        TableError: rows of another size.
    """
    size = row_bytes(dtype, dim)
    if rows.ndim != 2 or rows.dtype != np.uint8 or rows.shape[1] != size:
        raise TableError(f"rows: found {rows.dtype} of shape {rows.shape}, expected uint8 [n, {size}]")
    rows = np.ascontiguousarray(rows)
    if dtype in _FLOATS:
        return rows.view(_FLOATS[dtype]).astype(np.float32)
    fields = rows.view(_layout(dtype, dim))[:, 0]
    q = fields["q"]
    if dtype == "int4":
        q = np.stack([q & 15, q >> 4], 2).reshape(len(q), dim)
    with np.errstate(over="ignore", invalid="ignore"):
        return q * fields["scale"].astype(np.float32)[:, None] + fields["bias"].astype(np.float32)[:, None]
