"""Columns of Arrow arrays as the NumPy arrays that the builder takes."""

from typing import Any

import numpy as np


def filled(field: str, column: str, values: Any, first: int = 0) -> Any:
    """An Arrow array without nulls, as plain values.

    Args:
        field, column: for messages.
        values: the (chunked) array.
        first: its first row, for messages.

    Raises:
        ValueError: a null, whose row is named.
    """
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.ChunkedArray):  # of older Arrow
        values = pa.concat_arrays(values.chunks)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if values.null_count:
        row = first + int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise ValueError(f"column {column!r}, row {row}: null, expected a {field}")
    return values


def numbers(values: Any) -> np.ndarray:
    """What ``filled`` gave as an array. Numbers come as they lie: to_numpy would import pandas first."""
    import pyarrow as pa

    if pa.types.is_decimal(values.type):
        return values.cast(pa.int64() if values.type.scale <= 0 else pa.float64()).to_numpy()
    if not len(values) or not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        return values.to_numpy(zero_copy_only=False)
    dtype = np.dtype(values.type.to_pandas_dtype())
    return np.frombuffer(values.buffers()[1], dtype, len(values), values.offset * dtype.itemsize)


def whole_ids(column: str, values: Any, remedy: str) -> np.ndarray:
    """Ids of what ``filled`` gave.

    Raises:
        TypeError: no integers; the message ends with ``remedy``.
        ValueError: decimals that are not whole or go beyond 64 bits.
    """
    import pyarrow as pa

    if pa.types.is_decimal(values.type):
        try:
            return values.cast(pa.int64()).to_numpy()
        except pa.ArrowInvalid as error:
            raise ValueError(f"column {column!r} is {values.type}, expected integers of 64 bits: {error}") from None
    array = numbers(values)
    if array.dtype.kind not in "iu":
        raise TypeError(f"column {column!r} is {values.type}, expected integers; {remedy}")
    return array


def time_unit(kind: Any) -> str | None:
    """The dtype of dates that times of an Arrow type have as an array; None: they are numbers."""
    import pyarrow as pa

    if pa.types.is_timestamp(kind):
        return f"<M8[{kind.unit}]"
    if pa.types.is_date(kind):
        return "<M8[D]" if pa.types.is_date32(kind) else "<M8[ms]"
    return None


def clicks(column: str, values: Any, first: int) -> np.ndarray:
    """bool [n]: which of the labels, 0/1 or booleans without nulls, are 1."""
    labels = values.to_numpy(zero_copy_only=False)
    if labels.dtype.kind not in "biuf":
        raise TypeError(f"column {column!r} is {values.type}, expected labels of 0/1 or booleans")
    bad = (labels != 0) & (labels != 1)
    if bad.any():
        at = int(np.argmax(bad))
        raise ValueError(
            f"column {column!r}, row {first + at}: label is {labels[at]}, expected 0 or 1;"
            " --label-column - leaves the column out"
        )
    return labels == 1
