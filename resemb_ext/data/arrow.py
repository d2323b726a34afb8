"""Turn columns of any source into checked arrays: ids and labels.

Each function takes one pyarrow array and the column's name and either returns a clean array or
raises an error that names the column and the first bad row. Rows count from 0, header excluded.
"""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from resemb_ext.runtime.frames import to_arrow

from .faults import BadEntry, NullEntry, plural, raise_at
from .findings import Finding
from .spelled import EXACT_FLOAT, integers, is_text, null_words, spelled_ids, spelled_labels

__all__ = ["BadEntry", "as_arrow", "canonical_ids", "canonical_labels", "missing"]

_INT64_MAX = int(np.iinfo(np.int64).max)


def as_arrow(values: Any, column: str) -> pa.Array:
    """One contiguous pyarrow array from an array, list, Series, or (chunked) pyarrow array."""
    values = to_arrow(values, column)
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.ExtensionArray):
        uuids = getattr(values.type, "extension_name", "") == "arrow.uuid"
        values = _uuid_text(values.storage) if uuids else values.storage
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    elif pa.types.is_run_end_encoded(values.type):
        values = pc.run_end_decode(values)
    # By name: older Arrow has no such types.
    if str(values.type) == "string_view":
        values = values.cast(pa.large_string())
    elif str(values.type) == "binary_view":
        values = values.cast(pa.large_binary())
    return values


def _uuid_text(array: pa.Array) -> pa.Array:
    """UUIDs of 16 bytes as text files spell them."""
    encoded = array.dictionary_encode()
    words = [str(uuid.UUID(bytes=value)) for value in encoded.dictionary.to_pylist()]
    return pa.array(words, pa.large_string()).take(encoded.indices)


def missing(array: pa.Array, words: bool = False) -> np.ndarray:
    """bool [n]: which entries are null, NaN or empty text; with ``words`` also those that are a word for null."""
    mask = pc.is_null(array, nan_is_null=pa.types.is_floating(array.type))
    if is_text(array.type):
        mask = pc.or_(mask, pc.fill_null(null_words(array) if words else pc.equal(array, ""), False))
    return mask.to_numpy(zero_copy_only=False)


def _any(mask: Any) -> bool:
    return bool(pc.any(mask).as_py())


def _no_nulls(array: pa.Array, column: str, what: str) -> None:
    if array.null_count:
        raise_at(pc.is_null(array), column, f"null {what}", array, NullEntry)


def _whole_floats(array: pa.Array, column: str, what: str) -> pa.Array:
    """Nullable float ids to int64; NaN, fractions and inexact magnitudes are errors."""
    values = array.to_numpy(zero_copy_only=False).astype(np.float64)
    valid = pc.is_valid(array).to_numpy(zero_copy_only=False)
    values = np.where(valid, values, 0.0)
    if np.isnan(values).any():
        raise_at(np.isnan(values), column, f"null {what} (NaN)", array, NullEntry)
    fractional = values != np.trunc(values)
    if fractional.any():
        raise_at(fractional, column, f"fractional {what}", array)
    limit = EXACT_FLOAT[array.type.bit_width]
    if (np.abs(values) > limit).any():
        raise_at(
            np.abs(values) > limit,
            column,
            f"{array.type} {what} beyond {limit} is not exact; store ids as integers or text",
            array,
        )
    return pa.array(values.astype(np.int64), mask=~valid)


def _whole_decimals(array: pa.Array, column: str, what: str) -> pa.Array:
    """Decimals, as warehouses export integers, to integers, or to their digits where 64 bits are too few."""
    try:
        return array.cast(pa.int64())
    except pa.ArrowInvalid:
        values = array.to_pylist()
    fractional = np.array([value is not None and value != value.to_integral_value() for value in values])
    if fractional.any():
        raise_at(fractional, column, f"fractional {what}", array)
    wholes = [None if value is None else int(value) for value in values]
    numbers = integers(wholes)
    return pa.array([None if n is None else str(n) for n in wholes]) if numbers is None else numbers


def canonical_ids(
    values: Any,
    column: str,
    what: str = "id",
    *,
    nulls: bool = False,
    parse: bool = False,
    findings: list[Finding] | None = None,
) -> pa.Array:
    """Raw ids of any kind as int64, uint64 or large_string.

    Args:
        values: array-like or pyarrow array.
        column: name for messages.
        what: what an entry is, for messages ("user id").
        nulls: keep nulls (categories) instead of raising; NaN is one of them.
        parse: text comes from a text file: text that spells integers throughout becomes integers.
        findings: gets what is odd about text that is parsed.

    Raises:
        ValueError: null, empty, fractional or inexact id (the row is named).
        TypeError: a type that cannot be an id (bool, time, list, ...).
    """
    array = as_arrow(values, column)
    if not nulls:
        _no_nulls(array, column, what)
    if parse and is_text(array.type):
        array = spelled_ids(array, column, what, [] if findings is None else findings)
    elif pa.types.is_decimal(array.type):
        array = _whole_decimals(array, column, what)
    elif nulls and pa.types.is_floating(array.type):
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
    kind = array.type
    if pa.types.is_null(kind):
        return array.cast(pa.int64())
    if pa.types.is_unsigned_integer(kind):
        array = array.cast(pa.uint64())
        top = pc.max(array).as_py()
        return array.cast(pa.int64()) if top is None or top <= _INT64_MAX else array
    if pa.types.is_integer(kind):
        return array.cast(pa.int64())
    if pa.types.is_floating(kind):
        return _whole_floats(array, column, what)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        try:
            array = array.cast(pa.large_string())
        except pa.ArrowInvalid:
            raise TypeError(f"column {column!r}: binary {plural(what)} are not UTF-8 text") from None
        kind = array.type
    if is_text(kind):
        array = array.cast(pa.large_string())
        empty = pc.equal(array, "")
        if _any(empty):
            if not nulls:
                raise_at(pc.fill_null(empty, False), column, f"empty {what}", array, NullEntry)
            array = pc.if_else(empty, pa.scalar(None, pa.large_string()), array)
        return array
    raise TypeError(f"column {column!r} has type {kind}; {plural(what)} must be integers or text")


def canonical_labels(values: Any, column: str) -> np.ndarray:
    """Click labels as int8; anything but 0/1 (or false/true) is an error that names the row."""
    array = as_arrow(values, column)
    _no_nulls(array, column, "label")
    kind = array.type
    if pa.types.is_boolean(kind):
        return array.cast(pa.int8()).to_numpy()
    if is_text(kind):
        return spelled_labels(array, column).to_numpy()
    if pa.types.is_decimal(kind):
        array = array.cast(pa.float64())
        kind = array.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise TypeError(f"column {column!r} has type {kind}; labels must be 0/1 or booleans")
    numbers = array.to_numpy(zero_copy_only=False)
    bad = (numbers != 0) & (numbers != 1)
    if bad.any():
        raise_at(bad, column, "label must be 0 or 1", array)
    return numbers.astype(np.int8)
