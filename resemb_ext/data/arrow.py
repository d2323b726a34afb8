"""Turn columns of any source into checked arrays: ids, times, labels.

Each function takes one pyarrow array and the column's name and either returns a clean array or
raises an error that names the column and the first bad row. Rows count from 0, header excluded.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_INT64_MAX = int(np.iinfo(np.int64).max)
# Above these, neighbouring integers are the same float: distinct ids would collide unnoticed.
_EXACT_FLOAT = {16: 2**11, 32: 2**24, 64: 2**53}
_LABEL_TEXT = r"^([+-]?\d+(\.\d*)?|true|false)$"


def as_arrow(values: Any, column: str) -> pa.Array:
    """One contiguous pyarrow array from an array, list, Series, or (chunked) pyarrow array."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if not isinstance(values, pa.Array):
        if isinstance(values, np.ndarray) and values.ndim != 1:
            raise ValueError(f"column {column!r} must be one-dimensional, got shape {values.shape}")
        try:
            values = pa.array(values, from_pandas=True)
        except OverflowError:
            values = _big_int_array(values, column)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise TypeError(
                f"column {column!r} cannot be read as one type (ids are all integers or all text): {error}"
            ) from None
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    return values


def _big_int_array(values: Any, column: str) -> pa.Array:
    try:
        return pa.array(values, type=pa.uint64(), from_pandas=True)
    except (OverflowError, pa.ArrowInvalid, pa.ArrowTypeError):
        raise ValueError(f"column {column!r} holds integers outside both int64 and uint64; pass them as text") from None


class BadEntry(ValueError):
    """A bad entry of a column: ``row`` counts from 0, ``what`` says the column and the fault."""

    def __init__(self, row: int, column: str, fault: str) -> None:
        self.row, self.column, self.fault = row, column, fault
        super().__init__(f"column {column!r}, row {row}: {fault}; rows count from 0, no header")

    @property
    def what(self) -> str:
        """Column and fault without the row, for messages that name the place otherwise."""
        return f"column {self.column!r}: {self.fault}"

    def at(self, row: int) -> BadEntry:
        """The same fault in another row."""
        return BadEntry(row, self.column, self.fault)


def _raise_at(mask: pa.Array | np.ndarray, column: str, what: str, values: pa.Array) -> NoReturn:
    """Raise BadEntry for the first row where ``mask`` is true; it says how many more there are."""
    rows = np.flatnonzero(np.asarray(mask))
    row = int(rows[0])
    shown = "" if values[row].as_py() is None else f" ({values[row].as_py()!r:.80})"
    more = f", as in {len(rows) - 1} more rows" if len(rows) > 1 else ""
    raise BadEntry(row, column, f"{what}{shown}{more}")


def _any(mask: Any) -> bool:
    return bool(pc.any(mask).as_py())


def _no_nulls(array: pa.Array, column: str, what: str) -> None:
    if array.null_count:
        _raise_at(pc.is_null(array), column, f"null {what}", array)


def _whole_floats(array: pa.Array, column: str, what: str) -> pa.Array:
    """Nullable float ids to int64; NaN, fractions and inexact magnitudes are errors."""
    values = array.to_numpy(zero_copy_only=False).astype(np.float64)
    valid = pc.is_valid(array).to_numpy(zero_copy_only=False)
    values = np.where(valid, values, 0.0)
    if np.isnan(values).any():
        _raise_at(np.isnan(values), column, f"null {what} (NaN)", array)
    fractional = values != np.trunc(values)
    if fractional.any():
        _raise_at(fractional, column, f"fractional {what}", array)
    limit = _EXACT_FLOAT[array.type.bit_width]
    if (np.abs(values) > limit).any():
        _raise_at(
            np.abs(values) > limit,
            column,
            f"{array.type} {what} beyond {limit} is not exact; store ids as integers or text",
            array,
        )
    return pa.array(values.astype(np.int64), mask=~valid)


def canonical_ids(values: Any, column: str, what: str = "id", *, nulls: bool = False, parse: bool = False) -> pa.Array:
    """Raw ids of any kind as int64, uint64 or large_string.

    Args:
        values: array-like or pyarrow array.
        column: name for messages.
        what: what an entry is, for messages ("user id").
        nulls: keep nulls (categories) instead of raising.
        parse: text comes from a CSV: text that spells integers throughout becomes integers.

    Raises:
        ValueError: null, empty, fractional or inexact id (the row is named).
        TypeError: a type that cannot be an id (bool, time, list, ...).
    """
    array = as_arrow(values, column)
    if parse and (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        array = _parse_text_ids(array, column, what)
    kind = array.type
    if not nulls:
        _no_nulls(array, column, what)
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
            raise TypeError(f"column {column!r}: binary {what}s are not UTF-8 text") from None
        kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        array = array.cast(pa.large_string())
        empty = pc.equal(array, "")
        if _any(empty):
            if not nulls:
                _raise_at(pc.fill_null(empty, False), column, f"empty {what}", array)
            array = pc.if_else(empty, pa.scalar(None, pa.large_string()), array)
        return array
    raise TypeError(f"column {column!r} has type {kind}; {what}s must be integers or text")


def _parse_text_ids(array: pa.Array, column: str, what: str) -> pa.Array:
    """Text that spells integers exactly becomes integers; "007" or "x1" keeps the column text.

    A column of numbers of which some have a decimal point is one of integers that went through
    floats: "12.0" is 12, and a fraction is an error.
    """
    for kind in (pa.int64(), pa.uint64()):
        try:
            numbers = array.cast(kind)
        except pa.ArrowInvalid:
            continue
        if pc.all(pc.equal(numbers.cast(array.type), array)).as_py() is not False:
            return numbers
        return array
    if not pc.all(pc.match_substring_regex(array, r"^-?\d+(\.\d*)?$")).as_py():
        return array
    fractional = pc.fill_null(pc.match_substring_regex(array, r"\.\d*[1-9]"), False)
    if _any(fractional):
        _raise_at(fractional, column, f"fractional {what}", array)
    whole = pc.replace_substring_regex(array, r"\.0*$", "")
    return array if whole.equals(array) else _parse_text_ids(whole, column, what)


def canonical_times(values: Any, column: str) -> np.ndarray:
    """Times as int64 or float64, in the column's unit; dates and timestamps become Unix seconds.

    Text is read as numbers or, failing that, as ISO 8601. Unix seconds are int64 where all are
    whole, float64 elsewhere.

    Raises:
        ValueError: null, NaN, infinite or unreadable time (the row is named).
        TypeError: a type that is no time (bool, list, ...).
    """
    array = as_arrow(values, column)
    _no_nulls(array, column, "time")
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        array = _parse_text_times(array, column)
        kind = array.type
    if pa.types.is_date(kind):
        array = array.cast(pa.timestamp("s"))
        kind = array.type
    if pa.types.is_timestamp(kind):
        per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[kind.unit]
        ticks = array.cast(pa.int64()).to_numpy()
        whole = not (ticks % per_second).any()
        return ticks // per_second if whole else ticks / per_second
    if pa.types.is_integer(kind):
        try:
            return array.cast(pa.int64()).to_numpy()
        except pa.ArrowInvalid:
            raise ValueError(f"column {column!r} holds times beyond int64") from None
    if pa.types.is_floating(kind):
        times = array.to_numpy(zero_copy_only=False).astype(np.float64)
        if not np.isfinite(times).all():
            _raise_at(~np.isfinite(times), column, "time is not finite", array)
        return times
    raise TypeError(f"column {column!r} has type {kind}; times must be numbers, timestamps or ISO 8601 text")


def _parse_text_times(array: pa.Array, column: str) -> pa.Array:
    for kind in (pa.int64(), pa.float64()):
        try:
            return array.cast(kind)
        except pa.ArrowInvalid:
            continue
    import pandas as pd

    text = pd.Series(array.to_pandas())
    parsed = pd.to_datetime(text, format="ISO8601", errors="coerce", utc=True)
    bad = parsed.isna()
    if bad.any():
        # What most entries are tells which of the others are at fault.
        no_number = pd.to_numeric(text, errors="coerce").isna()
        bad = bad if bad.sum() <= no_number.sum() else no_number
        _raise_at(bad.to_numpy(), column, "time is neither a number nor ISO 8601", array)
    return pa.array(parsed.dt.tz_localize(None).to_numpy().astype("datetime64[us]"))


def canonical_labels(values: Any, column: str) -> np.ndarray:
    """Click labels as int8; anything but 0/1 (or false/true) is an error that names the row."""
    array = as_arrow(values, column)
    _no_nulls(array, column, "label")
    kind = array.type
    if pa.types.is_boolean(kind):
        return array.cast(pa.int8()).to_numpy()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        # One bad entry turns a text file's whole column into text.
        spelled = pc.match_substring_regex(array, _LABEL_TEXT, ignore_case=True)
        if _any(spelled) and not pc.all(spelled).as_py():
            _raise_at(pc.invert(spelled), column, "label must be 0 or 1", array)
        if len(array) and _any(spelled):
            words = pc.replace_substring_regex(pc.utf8_lower(array), "^true$", "1")
            numbers = pc.replace_substring_regex(words, "^false$", "0").cast(pa.float64())
            array, kind = numbers, numbers.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise TypeError(f"column {column!r} has type {kind}; labels must be 0/1 or booleans")
    numbers = array.to_numpy(zero_copy_only=False)
    bad = (numbers != 0) & (numbers != 1)
    if bad.any():
        _raise_at(bad, column, "label must be 0 or 1", array)
    return numbers.astype(np.int8)
