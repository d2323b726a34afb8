"""What numbers of a time column count: the unit of Unix times, mixed units, whole days, dates as digits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .findings import NOTE, WARNING, Finding

# The largest time that still reads as Unix seconds, milliseconds, ...: the year 5138 in each.
UNITS = (("s", 10**11, 1), ("ms", 10**14, 10**3), ("us", 10**17, 10**6), ("ns", 10**20, 10**9))
_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_FIRST_UNIX = 10**8  # 1973; smaller numbers count something else
_DAY = 86_400
_END_OF_DAY = 240_000  # as 235959; seconds and 2359 are smaller
# What a date's digits may be followed by: hour, minute, second.
_LIMITS = (24, 60, 60)


def time_unit(time: np.ndarray) -> tuple[str, int] | None:
    """Unit of times and its ticks a second, if their size is that of Unix times; else None."""
    largest = float(np.abs(time).max())
    if largest < _FIRST_UNIX:
        return None
    return next(((name, ticks) for name, top, ticks in UNITS if largest < top), None)


def date_digits(time: np.ndarray) -> int:
    """Digits of times that spell dates: 8 (20220430), 10, 12 or 14 (20220430235959); 0 for others."""
    if len(time) == 0 or (time.dtype.kind == "f" and (time != np.trunc(time)).any()):
        return 0
    smallest, largest = time.min(), time.max()
    for digits in (8, 10, 12, 14):
        scale = 10 ** (digits - 8)
        if not (19_000_101 * scale <= smallest and largest < 21_010_101 * scale):
            continue
        rest = np.unique(time.astype(np.int64))
        for limit in reversed(_LIMITS[: (digits - 8) // 2]):
            if (rest % 100 >= limit).any():
                return 0
            rest = np.unique(rest // 100)
        day, month = rest % 100, rest // 100 % 100
        return digits if ((day >= 1) & (day <= 31) & (month >= 1) & (month <= 12)).all() else 0
    return 0


def look_at(time: np.ndarray, column: str, others: Sequence[str]) -> tuple[str | None, list[Finding]]:
    """A remark on times for the line on columns, and what is odd about them.

    Args:
        time: int64 or float64 [n].
        column: its name.
        others: further columns that may hold times.
    """
    if not len(time):
        return None, []
    finer = f"name a finer column with time= or --time-column{_one_of(others)}"
    digits = date_digits(time)
    if digits:
        what = "whole days" if digits == 8 else "dates"
        example = str(time.max().item())[:digits]
        found = f"times of column {column!r} are {what} in digits, such as {example}"
        done = f"gaps count these numbers, not time; events of a day keep the source's order; {finer}"
        return f"{what} in digits", [Finding(WARNING, "dates in digits", found, done)]
    dates = [other for other in others if "date" in str(other).lower()]
    if dates and time.min() >= 0 and time.max() < _END_OF_DAY:
        fault = f"times of column {column!r} lie between {time.min()} and {time.max()}, and there is {dates[0]!r}"
        done = f"if they are times of a day, days are mixed up: join both columns, or {finer}"
        return None, [Finding(WARNING, "time of day", fault, done)]
    findings = _mixed(time, column)
    unit = time_unit(time)
    if unit is None or findings or (time % (_DAY * unit[1])).any():
        return None, findings
    found = f"times of column {column!r} are whole days"
    return "whole days", [Finding(NOTE, "whole days", found, f"events of a day keep the source's order; {finer}")]


def _one_of(columns: Sequence[str]) -> str:
    return f", perhaps {' or '.join(map(repr, columns))}" if columns else ""


def _mixed(time: np.ndarray, column: str) -> list[Finding]:
    size = np.abs(time.astype(np.float64))
    if size.max() < _FIRST_UNIX:
        return []
    edges = [0, *(top for _, top, _ in UNITS), np.inf]
    counts = np.histogram(size[size >= _FIRST_UNIX], edges)[0]
    found = [f"{count:,} in {_NAMES[name]}" for count, (name, *_) in zip(counts, UNITS, strict=False) if count]
    if len(found) > 1:
        return [
            Finding(
                WARNING,
                "mixed units",
                f"times of column {column!r} look like Unix times {' and '.join(found)}",
                "sorted as plain numbers, so histories are in the wrong order; write all in one unit",
            )
        ]
    empty = int((time <= 0).sum())
    if empty and not ((time > 0) & (time < _FIRST_UNIX)).any():
        return [
            Finding(
                WARNING,
                "times missing",
                f"{empty:,} of {len(time):,} times of column {column!r} are 0 or below, the others Unix times",
                "kept, as the first events of their users; leave such rows out where they mean no time",
            )
        ]
    return []
