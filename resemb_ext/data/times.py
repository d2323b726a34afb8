"""Times of any source as numbers, and their exact order where float64 cannot tell them apart."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .arrow import as_arrow
from .clocks import UNITS
from .faults import BadEntry, NullEntry, raise_at
from .findings import WARNING, Finding
from .spelled import EXACT, EXACT_FLOAT, is_text, lost_digits, null_words

#: Ticks a second by unit.
TICKS = {name: ticks for name, _, ticks in UNITS}
_LARGEST = 2.0**63
# Decimals of at most this many digits are distinct float64.
_EXACT_DIGITS = 15
_BEYOND = "time beyond 64-bit integers; subtract a start, or write it in a coarser unit"


class Times(NamedTuple):
    """Times [n].

    Attributes:
        values: int64 for whole numbers and times of whole seconds, else float64.
        exact: int64, in the same order as the times as they were written, where float64 rounds some
            of them to the same number (nanoseconds, long decimals); None where ``values`` order them.
        per_second: ticks of ``exact`` in one unit of ``values``; 0 where it is an order alone.
    """

    values: np.ndarray
    exact: np.ndarray | None = None
    per_second: int = 0


def canonical_times(values: Any, column: str, findings: list[Finding] | None = None) -> Times:
    """Times in the column's unit; dates and timestamps become Unix seconds.

    Text is read as numbers or, failing that, as ISO 8601. Whole numbers are exact; others are
    rounded to float64.

    Args:
        values: array-like or pyarrow array [n].
        column: name for messages.
        findings: gets a warning of floats too large to hold single units.

    Raises:
        BadEntry: null, NaN, infinite or unreadable time, or one beyond int64 (the row is named).
        TypeError: a type that is no time (bool, list, ...).
    """
    array = as_arrow(values, column)
    if array.null_count:
        raise_at(pc.is_null(array), column, "null time", array, NullEntry)
    if pa.types.is_decimal(array.type):
        array = array.cast(pa.string())
    if is_text(array.type):
        nulls = null_words(array)
        if pc.any(nulls).as_py():
            raise_at(nulls, column, "null time", array, NullEntry)
        read = _spelled(pc.utf8_trim(array, " "), column)
        if findings is not None and (word := lost_digits(array)):
            fault = f"times of column {column!r} such as {word!r} may have lost digits where they were written"
            done = "events of equal times keep the source's order; write times in full"
            findings.append(Finding(WARNING, "rounded times", fault, done))
        if isinstance(read, Times):
            return read
        array = read
    kind = array.type
    if pa.types.is_date(kind):
        array = array.cast(pa.timestamp("s"))
        kind = array.type
    if pa.types.is_timestamp(kind):
        per_second = TICKS[kind.unit]
        ticks = array.cast(pa.int64()).to_numpy()
        if (ticks % per_second).any():
            return Times(ticks / per_second, ticks, per_second)
        return Times(ticks // per_second)
    if pa.types.is_integer(kind):
        if pa.types.is_unsigned_integer(kind):
            large = pc.greater(array.cast(pa.uint64()), pa.scalar(2**63 - 1, pa.uint64()))
            if pc.any(large).as_py():
                raise_at(large, column, _BEYOND, array)
        return Times(array.cast(pa.int64()).to_numpy())
    if pa.types.is_floating(kind):
        times = _finite(array.to_numpy(zero_copy_only=False).astype(np.float64), column, array)
        largest = np.abs(times).max(initial=0)
        if findings is not None and largest > EXACT_FLOAT[kind.bit_width]:
            step = np.spacing(np.array(largest, dtype=kind.to_pandas_dtype()))
            fault = f"times of column {column!r} are {kind}, which rounds the largest to multiples of {step:g}"
            done = "events of equal times keep the source's order; store times as integers"
            findings.append(Finding(WARNING, "rounded times", fault, done))
        return Times(times)
    raise TypeError(f"column {column!r} has type {kind}; times must be numbers, timestamps or ISO 8601 text")


def _finite(times: np.ndarray, column: str, array: pa.Array) -> np.ndarray:
    if not np.isfinite(times).all():
        error = NullEntry if np.isnan(times).any() else BadEntry
        raise_at(~np.isfinite(times), column, "time is not finite", array, error)
    if (np.abs(times) >= _LARGEST).any():
        raise_at(np.abs(times) >= _LARGEST, column, _BEYOND, array)
    return times


def _spelled(array: pa.Array, column: str) -> Times | pa.Array:
    """Text as numbers or, failing that, as timestamps."""
    if not pc.any(pc.match_substring_regex(array, "[xX]")).as_py():  # Arrow takes 0x1F for a number
        try:
            return Times(array.cast(pa.int64()).to_numpy())
        except pa.ArrowInvalid:
            pass
        try:
            numbers = array.cast(pa.float64()).to_numpy()
        except pa.ArrowInvalid:
            return _dates(array, column)
        return _decimals(array, _finite(numbers, column, array))
    return _dates(array, column)


def _decimals(array: pa.Array, numbers: np.ndarray) -> Times:
    """Numbers of which some have a point or an exponent."""
    if (pc.max(pc.utf8_length(array)).as_py() or 0) <= _EXACT_DIGITS + 1:
        return Times(numbers)
    encoded = array.dictionary_encode()
    index = encoded.indices.to_numpy()
    exact = [Decimal(word) for word in encoded.dictionary.to_pylist()]
    if all(number == number.to_integral_value() for number in exact):
        # A point or an exponent stands for a float, as long as that is exact.
        inexact = bool((np.abs(numbers) > EXACT).any())
        return Times(np.array([int(number) for number in exact])[index] if inexact else numbers)
    rank = {number: place for place, number in enumerate(sorted(set(exact)))}
    return Times(numbers, np.array([rank[number] for number in exact], dtype=np.int64)[index])


def _dates(array: pa.Array, column: str) -> pa.Array:
    import pandas as pd

    # Warehouses write "2019-10-01 00:00:00 UTC" and "2019-10-01 00:00:00 +0000"; dates may have slashes.
    plain = pc.replace_substring_regex(array, r"^(\d{4})/(\d\d)/(\d\d)", r"\1-\2-\3")
    plain = pc.replace_substring_regex(plain, r"(?i) *(utc|gmt|z)$", "Z")
    plain = pc.replace_substring_regex(plain, r" +([+-]\d\d(:?\d\d)?)$", r"\1")
    text = pd.Series(plain.to_pandas())
    parsed = pd.to_datetime(text, format="ISO8601", errors="coerce", utc=True)
    bad = parsed.isna()
    if bad.any():
        # What most entries are tells which of the others are at fault.
        no_number = pd.to_numeric(text, errors="coerce").isna()
        bad = bad if bad.sum() <= no_number.sum() else no_number
        raise_at(bad.to_numpy(), column, "time is neither a number nor ISO 8601", array)
    return pa.array(parsed.dt.tz_localize(None).to_numpy())
