"""Checks of arguments and CSR arrays; messages say which, what was found and what is expected."""

import operator
from typing import Any

import numpy as np

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
    array = vector(name, values)
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {array.dtype}, expected integers")
    if array.dtype == np.uint64 and array.max() > np.iinfo(np.int64).max:
        bad = int(np.argmax(array > np.iinfo(np.int64).max))
        raise ValueError(f"{name}[{bad}] is {array[bad]}, expected at most 2**63 - 1")
    return np.ascontiguousarray(array, dtype=np.int64)


def floats(name: str, values: Any) -> np.ndarray:
    """``values`` as a fresh float32 vector; weights that are negative or not finite are errors."""
    array = vector(name, values)
    if array.size and array.dtype.kind not in "iufb":
        raise TypeError(f"{name} has dtype {array.dtype}, expected real numbers")
    with np.errstate(over="ignore"):
        weights = array.astype(np.float32)
    wrong = ~(np.isfinite(weights) & (weights >= 0))
    if wrong.any():
        bad = int(np.argmax(wrong))
        raise ValueError(f"{name}[{bad}] is {array[bad]}, expected a finite number >= 0 that float32 can hold")
    return weights


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


def _row_starts_mask(indptr: np.ndarray) -> np.ndarray:
    """bool [E]: True at the first entry of every row that has one."""
    first = np.zeros(int(indptr[-1]), bool)
    first[indptr[:-1][np.diff(indptr) > 0]] = True
    return first


def unsorted_at(indptr: np.ndarray, neighbors: np.ndarray) -> int | None:
    """Position of the first entry that does not exceed the one before it in its row, or None."""
    wrong = neighbors[1:] <= neighbors[:-1]
    wrong &= ~_row_starts_mask(indptr)[1:]
    return int(np.argmax(wrong)) + 1 if wrong.any() else None


def row_ids(indptr: np.ndarray) -> np.ndarray:
    """int64 [E]: the row of every entry."""
    return np.repeat(np.arange(len(indptr) - 1, dtype=np.int64), np.diff(indptr))


def row_sums(indptr: np.ndarray, values: np.ndarray) -> np.ndarray:
    """float64 [H]: the sum of ``values`` over every row; 0 for empty rows."""
    sums = np.zeros(len(indptr) - 1)
    filled = np.diff(indptr) > 0
    if filled.any():
        sums[filled] = np.add.reduceat(values, indptr[:-1][filled], dtype=np.float64)
    return sums


def row_maxima(indptr: np.ndarray, values: np.ndarray) -> np.ndarray:
    """float64 [H]: the largest of ``values`` in every row; 1 for empty rows."""
    maxima = np.ones(len(indptr) - 1)
    filled = np.diff(indptr) > 0
    if filled.any():
        maxima[filled] = np.maximum.reduceat(values, indptr[:-1][filled])
    return maxima


def finite_total(name: str, degree: np.ndarray) -> None:
    """Row sums must be finite and not negative."""
    wrong = ~(np.isfinite(degree) & (degree >= 0))
    if wrong.any():
        bad = int(np.argmax(wrong))
        raise ValueError(f"{name}[{bad}] is {degree[bad]}, expected a finite number >= 0")


def neighbor_dtype(num_items: int) -> type[np.signedinteger]:
    """int32 where it can hold every id, else int64."""
    return np.int32 if num_items <= INT32_MAX else np.int64
