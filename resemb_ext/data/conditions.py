"""Rows that have wanted values: numbers compare as numbers, times as times, whatever the source's format."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .arrow import as_arrow
from .columns import printable
from .findings import WARNING, Finding
from .spelled import is_text

# As with ids, "007" is no number: it stays text.
_NUMBER = re.compile(r"-?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}

# Of a value its meaning, which equal values share; None where it can be none of the column's.
_Meaning = Callable[[Any], Hashable]


def rows_where(
    columns: Mapping[str, Any], where: Mapping[str, Any], name: str
) -> tuple[np.ndarray, tuple[Finding, ...]]:
    """Positions of the rows that have the wanted values, int64, and warnings of values that no row has.

    Args:
        columns: column by name, all of one length.
        where: column to wanted value or values.
        name: of the log, for messages.

    Raises:
        TypeError: a column of lists or objects.
        ValueError: no row has any of the values wanted of a column, or no row meets all conditions.
    """
    keep: np.ndarray | None = None
    findings = []
    for column, wanted in where.items():
        values = [wanted] if _is_single(wanted) else list(wanted)
        if not values:
            raise ValueError(f"where: names no value for {column!r}; expected a value or several")
        array = as_arrow(columns[column], column)
        if pa.types.is_nested(array.type):
            raise TypeError(f"where: column {column!r} has type {array.type}; expected single values in each row")
        encoded = array.dictionary_encode()
        meaning = _meaning_in(encoded.dictionary)
        present = [meaning(value) for value in _plain(encoded.dictionary)]
        sought = [meaning(value) for value in values]
        known = set(present) - {None}
        lacking = [str(value) for value, key in zip(values, sought, strict=True) if key not in known]
        if lacking:
            held = ", ".join(printable(str(value), 60) for value in encoded.dictionary[:8].to_pylist())
            more = ", ..." if len(encoded.dictionary) > 8 else ""
            fault = f"no row of {name!r} has {column} = {' or '.join(lacking)}; it holds {held}{more}"
            if len(lacking) == len(values):
                raise ValueError(fault)
            findings.append(Finding(WARNING, "where", fault, "rows with the other values are kept"))
        good = np.array([key in known.intersection(sought) for key in present] + [False])
        same = good[pc.fill_null(encoded.indices, len(present)).to_numpy(zero_copy_only=False)]
        keep = same if keep is None else keep & same
    assert keep is not None
    if not keep.any():
        raise ValueError(f"no row of {name!r} meets all conditions of where together: {', '.join(where)}")
    return np.flatnonzero(keep), tuple(findings)


def _is_single(wanted: Any) -> bool:
    return isinstance(wanted, (str, bytes)) or not isinstance(wanted, Iterable) or getattr(wanted, "ndim", 1) == 0


def _plain(array: pa.Array) -> list[Any]:
    """Python values; 32-bit floats by their shortest spelling, so that 4.1 is 4.1."""
    if pa.types.is_floating(array.type) and array.type.bit_width < 64:
        return [float(str(value)) for value in array.to_numpy(zero_copy_only=False)]
    if pa.types.is_timestamp(array.type):
        return list(array.to_numpy(zero_copy_only=False))
    return array.to_pylist()


def _meaning_in(distinct: pa.Array) -> _Meaning:
    kind = distinct.type
    if pa.types.is_boolean(kind):
        return _boolean
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _number
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _instant
    if is_text(kind):
        # What all values of a text column spell, they are: a CSV has no other way to say it.
        words = distinct.to_pylist()
        if all(_NUMBER.fullmatch(word.strip()) for word in words):
            return _number
        if all(word.strip().lower() in ("true", "false") for word in words):
            return _boolean
        if all(len(word) > 7 and word[:4].isdigit() and _instant(word) is not None for word in words):
            return _instant
    return lambda value: value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _boolean(value: Any) -> Hashable:
    return _BOOLEANS.get(str(value).strip().lower())


def _number(value: Any) -> Hashable:
    """An int or float; equal numbers are equal keys, and integers stay exact."""
    if isinstance(value, (bool, np.bool_)):
        return int(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    text = str(value).strip()
    if not _NUMBER.fullmatch(text):
        return None
    exact = Decimal(text)
    return int(exact) if exact == exact.to_integral_value() and abs(exact.adjusted()) < 40 else float(exact)


def _instant(value: Any) -> Hashable:
    """Year to nanosecond in UTC; times without a zone are UTC."""
    import pandas as pd

    if not isinstance(value, (str, date, np.datetime64)):  # a datetime is a date
        return None
    try:
        stamp = pd.to_datetime(value, format="ISO8601") if isinstance(value, str) else pd.Timestamp(value)
    except (ValueError, OverflowError):
        return None
    if stamp is pd.NaT:
        return None
    if stamp.tzinfo is not None:
        stamp = stamp.tz_convert("UTC")
    return (*stamp.timetuple()[:6], stamp.microsecond, stamp.nanosecond)
