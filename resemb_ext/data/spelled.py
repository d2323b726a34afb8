"""Text that spells ids and labels, as CSV files hold them."""

from __future__ import annotations

import contextlib
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

from .faults import NullEntry, plural, raise_at
from .findings import NOTE, WARNING, Finding

# Above these, neighbouring integers are the same float: distinct ids would collide unnoticed.
EXACT_FLOAT = {16: 2**11, 32: 2**24, 64: 2**53}
EXACT = EXACT_FLOAT[64]
#: A number that may have gone through floats; "007" is none.
NUMBER = r"^ *-?(0|[1-9]\d*)(\.\d*)?([eE][+-]?\d{1,3})? *$"
_MOST_DIGITS = 40  # no id is longer; spares the digits of 1e999999999
#: How other tools write nulls, the most frequent first; among ids such words are ids like any other.
NULL_WORDS = ("nan", "NaN", "None", "null", "NULL", "NA", "N/A", "<NA>", "NaT", "none", "nil", r"\N", "#N/A")
# What C++, R and Excel write, which round; Java, which does not, leaves out the plus.
_ROUNDING = r"^ *-?\d(\.\d+)?[eE]\+\d+ *$"
_LABELS = {"0": 0, "1": 1, "false": 0, "true": 1}


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def null_words(array: pa.Array) -> pa.Array:
    """Which texts are empty or a word for null; null where there is none."""
    return pc.is_in(pc.utf8_trim(array, " "), value_set=pa.array(["", *NULL_WORDS], array.type), skip_nulls=True)


def lost_digits(array: pa.Array) -> str | None:
    """A text that spells an integer with fewer digits than it has, although they would not take more room.

    So C++'s 1.23457e+06, and Excel's 1.23457E+11 from 12 digits on; but not R's 1e+05, which stands for 100000 alone.
    """
    for word in pc.unique(array.filter(pc.match_substring_regex(array, _ROUNDING))).to_pylist():
        digits, power = word.strip(" -").lower().split("e+")
        if max(len(digits) - 2, 0) < int(power) and (
            len(word.strip()) > int(power) + 1 or ("E" in word and int(power) > 10)
        ):
            return word.strip()
    return None


def _whole(text: str) -> int | None:
    """The integer that a decimal number spells; None for a fraction, or one of too many digits."""
    number = Decimal(text)
    if number.adjusted() > _MOST_DIGITS or number != number.to_integral_value():
        return None
    return int(number)


def integers(values: list[int | None]) -> pa.Array | None:
    """int64 or uint64, whichever holds them all; None where neither does."""
    for kind in (pa.int64(), pa.uint64()):
        try:
            return pa.array(values, kind)
        except (OverflowError, pa.ArrowInvalid):
            continue
    return None


def spelled_ids(array: pa.Array, column: str, what: str, findings: list[Finding]) -> pa.Array:
    """Text that spells integers throughout becomes integers; one "007" or "x1" keeps the column text.

    A number with a decimal point or an exponent is an integer that went through floats: "12.0" is 12 and "3e3" is
    3000.

    Args:
        array: text, perhaps with nulls.
        column, what: for messages.
        findings: gets what is odd.

    Raises:
        BadEntry: a fraction among numbers.
    """
    for kind in (pa.int64(), pa.uint64()):
        try:
            numbers = array.cast(kind)
        except pa.ArrowInvalid:
            continue
        if pc.all(pc.equal(numbers.cast(array.type), array)).as_py() is not False:
            return numbers
        break
    if pc.all(pc.match_substring_regex(array, NUMBER)).as_py():
        numbers = _through_floats(array, column, what, findings)
        if numbers is not None:
            return numbers
    nulls = pc.is_in(array, value_set=pa.array(NULL_WORDS, array.type))
    if count := pc.sum(nulls).as_py():
        word = array[pc.index(nulls, True).as_py()].as_py()
        others = array.filter(pc.invert(nulls)).drop_null()
        numbers = len(others) and pc.all(pc.match_substring_regex(others, NUMBER)).as_py()
        findings.append(
            Finding(
                WARNING if numbers else NOTE,
                "words for nulls",
                f"{count} {plural(what)} of column {column!r} are words such as {word!r}"
                + (", all others are numbers" if numbers else ""),
                "ids like any other" + ("; the column is text. Nulls are empty values" if numbers else ""),
            )
        )
    outer = pc.fill_null(pc.match_substring_regex(array, r"^ | $"), False)
    if count := pc.sum(outer).as_py():
        shown = array[pc.index(outer, True).as_py()].as_py()
        findings.append(
            Finding(
                WARNING,
                "blanks",
                f"{count} {plural(what)} of column {column!r} begin or end with a blank, the first is {shown!r:.60}",
                "kept: they are other ids than those without it",
            )
        )
    return array


def _through_floats(array: pa.Array, column: str, what: str, findings: list[Finding]) -> pa.Array | None:
    """Numbers as integers, or as their digits where 64 bits are too few; None where they stay text."""
    encoded = array.dictionary_encode()
    distinct = encoded.dictionary.to_pylist()
    wholes = [_whole(word) for word in distinct]
    if None in wholes:
        if any(Decimal(word).adjusted() > _MOST_DIGITS for word in distinct):
            return None
        bad = pa.array([n is None for n in wholes])
        raise_at(pc.fill_null(bad.take(encoded.indices), False), column, f"fractional {what}", array)
    rounded = [
        w for w, n in zip(distinct, wholes, strict=True) if n is not None and "e" in w.lower() and abs(n) > EXACT
    ]
    if word := rounded[0].strip() if rounded else lost_digits(encoded.dictionary):
        fault = f"{plural(what)} of column {column!r} such as {word!r} may have lost digits where they were written"
        done = "the column is read as text" if rounded else "ids that are alike now are one"
        findings.append(Finding(WARNING, "rounded ids", fault, f"{done}; write ids in full"))
    if rounded:
        return None
    numbers = integers(wholes)
    if numbers is None:
        numbers = pa.array([str(n) for n in wholes], array.type)
    return numbers.take(encoded.indices)


def spelled_labels(array: pa.Array, column: str) -> pa.Array:
    """Text such as "1", "0.0" or "False" as int8.

    Raises:
        NullEntry: a word for null.
        BadEntry: any other text.
    """
    nulls = null_words(array)
    if pc.any(nulls).as_py():
        raise_at(pc.fill_null(nulls, False), column, "null label", array, NullEntry)
    encoded = array.dictionary_encode()
    labels = []
    for word in encoded.dictionary.to_pylist():
        plain = word.strip().lower()
        labels.append(_LABELS.get(plain, _LABELS.get(plain.rstrip("0").removesuffix(".") if "." in plain else plain)))
    numbers = pa.array(labels, pa.int8()).take(encoded.indices)
    if numbers.null_count:
        with contextlib.suppress(pa.ArrowInvalid):
            array = array.cast(pa.int64())  # shows a number as one
        raise_at(pc.is_null(numbers), column, "label must be 0 or 1", array)
    return numbers
