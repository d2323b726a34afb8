"""Rows of vectors as bytes by torch's own operators, which ``lite.encode`` equals without torch and slower."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .lite.rows import encode, row_bytes

_PREPACK = {
    "int8": torch.ops.quantized.embedding_bag_byte_prepack,
    "int4": torch.ops.quantized.embedding_bag_4bit_prepack,
}
_PARAMETERS = {"int8": (8, "<f4"), "int4": (4, "<f2")}  # bytes of scale and bias, and their dtype


def encode_rows(vectors: Tensor, dtype: str, first: int | np.ndarray = 0) -> np.ndarray:
    """Rows of float32 vectors, as ``lite.encode`` makes them.

    Args:
        vectors: float32 [n, D], contiguous, on the CPU, finite.
        dtype: "float32", "float16", "int8" or "int4".
        first: number of the first row, for messages; or those of all rows.

    Returns:
        uint8 [n, ``lite.row_bytes(dtype, D)``].

    Raises:
        TableError: numbers that are not finite, or that the dtype cannot hold; the first row is named.
    """
    row_bytes(dtype, vectors.shape[1])
    if dtype in _PREPACK and len(vectors):
        rows = _PREPACK[dtype](vectors).numpy()
        size, kind = _PARAMETERS[dtype]
        # FBGEMM takes no notice of numbers that are not finite, nor of a range that scale cannot hold.
        parameters = rows[:, -size:].copy().view(kind)
        if np.isfinite(parameters).all() and bool(torch.isfinite(vectors).all()):
            return rows
    return encode(vectors.numpy(), dtype, first)
