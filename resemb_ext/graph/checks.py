"""Checks of arguments and CSR arrays; messages say which, what was found and what is expected."""

import operator
from typing import Any

import numpy as np

from . import blocks

INT32_MAX = 2**31 - 1


def whole_number(name: str, value: Any, low: int, high: int | None = None) -> int:
    """``value`` as an int in [low, high]; TypeError for non-integers, ValueError outside."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} is {value!r}, expected an integer")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}, expected an integer") from None
    if number < low or (high is not None and number > high):
        wanted = f">= {low}" if high is None else f"in [{low}, {high}]"
        raise ValueError(f"{name} is {number}, expected an integer {wanted}")
    return number


def self_weight_option(value: Any) -> float | None:
    """None for "max" (a row's largest weight), else the weight itself."""
    if isinstance(value, str):
        if value != "max":
            raise ValueError(f'self_weight is {value!r}, expected "max" or a number >= 0')
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f'self_weight is {value!r}, expected "max" or a number >= 0')
    number = float(value)
    if not (0 <= number <= float(np.finfo(np.float32).max)):
        raise ValueError(f'self_weight is {number}, expected "max" or a finite number >= 0')
    return number


def padding_option(value: Any, num_items: int) -> int | None:
    """``padding_idx`` as an int in [0, num_items), or None."""
    return None if value is None else whole_number("padding_idx", value, 0, num_items - 1)


def vector(name: str, values: Any) -> np.ndarray:
    """``values`` as a one-dimensional array."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}, expected one dimension")
    return array


def integers(name: str, values: Any) -> np.ndarray:
    """``values`` as a contiguous int64 vector; floats, booleans and objects are refused."""
    return np.ascontiguousarray(any_integers(name, values), dtype=np.int64)


def any_integers(name: str, values: Any) -> np.ndarray:
    """The same in the type of integers that they have."""
    array = vector(name, values)
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {array.dtype}, expected integers")
    if array.dtype == np.uint64 and array.max() > np.iinfo(np.int64).max:
        bad = int(np.argmax(array > np.iinfo(np.int64).max))
        raise ValueError(f"{name}[{bad}] is {array[bad]}, expected at most 2**63 - 1")
    return array


def floats(name: str, values: Any) -> np.ndarray:
    """``values`` as a fresh float32 vector; weights that are negative or not finite are errors."""
    array = vector(name, values)
    if array.size and array.dtype.kind not in "iufb":
        raise TypeError(f"{name} has dtype {array.dtype}, expected real numbers")
    with np.errstate(over="ignore"):
        weights = array.astype(np.float32)
    if not _finite(weights):
        bad = int(np.argmax(~(np.isfinite(weights) & (weights >= 0))))
        raise ValueError(f"{name}[{bad}] is {array[bad]}, expected a finite number >= 0 that float32 can hold")
    return weights


def _finite(values: np.ndarray) -> bool:
    """Whether all are finite and >= 0: NaN is neither a smallest nor a largest number below infinity."""
    with np.errstate(invalid="ignore"):
        return not values.size or bool(values.min() >= 0 and values.max() < np.inf)


def check_indptr(indptr: np.ndarray, num_edges: int) -> None:
    """Row offsets must start at 0, ascend, and end at the number of neighbours."""
    if indptr.size == 0:
        raise ValueError("indptr is empty, expected num_items + 1 row offsets")
    if indptr[0] != 0:
        raise ValueError(f"indptr[0] is {indptr[0]}, expected 0")
    falls = indptr[1:] < indptr[:-1]
    if falls.any():
        row = int(np.argmax(falls))
        raise ValueError(
            f"indptr falls from {indptr[row]} to {indptr[row + 1]} at row {row}, expected row offsets that never fall"
        )
    if indptr[-1] != num_edges:
        raise ValueError(f"indptr ends at {indptr[-1]}, expected the number of neighbors, {num_edges}")


def check_neighbors(indptr: np.ndarray, neighbors: np.ndarray, num_items: int) -> None:
    """Neighbour ids must lie in [0, num_items)."""
    if neighbors.size == 0 or (neighbors.min() >= 0 and neighbors.max() < num_items):
        return
    at = int(np.argmax((neighbors < 0) | (neighbors >= num_items)))
    row = int(np.searchsorted(indptr, at, side="right")) - 1
    raise IndexError(f"neighbors[{at}] (row {row}) is {neighbors[at]}, expected an id in [0, num_items = {num_items})")


def unsorted_at(indptr: np.ndarray, neighbors: np.ndarray) -> int | None:
    """Position of the first entry that does not exceed the one before it in its row, or None."""
    for rows, span in blocks.of_rows(indptr):
        part = neighbors[span]
        wrong = part[1:] <= part[:-1]
        starts = indptr[rows.start + 1 : rows.stop] - span.start
        wrong[starts[(starts > 0) & (starts < len(part))] - 1] = False
        if wrong.any():
            return span.start + int(np.argmax(wrong)) + 1
    return None


def row_ids(indptr: np.ndarray) -> np.ndarray:
    """int64 [E]: the row of every entry."""
    return np.repeat(np.arange(len(indptr) - 1, dtype=np.int64), np.diff(indptr))


def row_sums(indptr: np.ndarray, values: np.ndarray) -> np.ndarray:
    """float64 [H]: the sum of ``values`` over every row; 0 for empty rows."""
    sums = np.zeros(len(indptr) - 1)
    for rows, span in blocks.of_rows(indptr):
        filled, starts = _filled(indptr, rows)
        if len(starts):
            sums[rows][filled] = np.add.reduceat(values[span], starts - span.start, dtype=np.float64)
    return sums


def row_maxima(indptr: np.ndarray, values: np.ndarray) -> np.ndarray:
    """float64 [H]: the largest of ``values`` in every row; 1 for empty rows."""
    maxima = np.ones(len(indptr) - 1)
    for rows, span in blocks.of_rows(indptr):
        filled, starts = _filled(indptr, rows)
        if len(starts):
            maxima[rows][filled] = np.maximum.reduceat(values[span], starts - span.start)
    return maxima


def _filled(indptr: np.ndarray, rows: slice) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of a block have entries, bool, and where these begin."""
    filled = np.diff(indptr[rows.start : rows.stop + 1]) > 0
    return filled, indptr[rows][filled]


def finite_total(name: str, degree: np.ndarray) -> None:
    """Row sums must be finite and not negative."""
    if not _finite(degree):
        bad = int(np.argmax(~(np.isfinite(degree) & (degree >= 0))))
        raise ValueError(f"{name}[{bad}] is {degree[bad]}, expected a finite number >= 0")


def neighbor_dtype(num_items: int) -> type[np.signedinteger]:
    """int32 where it can hold every id, else int64."""
    return np.int32 if num_items <= INT32_MAX else np.int64
