"""A graph's rows in blocks: what is computed by them takes little memory beside its result."""

from collections.abc import Iterator

import numpy as np

_SIZE = 1 << 20  # entries, and rows; a longer row is a block of its own


def of_rows(indptr: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """Rows and their entries, in order; the offsets must ascend from 0.

    Yields:
        rows: slice of the rows.
        span: slice of their entries.
    """
    first, height = 0, len(indptr) - 1
    while first < height:
        past = first + int(np.searchsorted(indptr[first : first + _SIZE + 1], indptr[first] + _SIZE, side="right")) - 1
        past = min(max(past, first + 1), height)
        yield slice(first, past), slice(int(indptr[first]), int(indptr[past]))
        first = past


def row_ids(indptr: np.ndarray, rows: slice) -> np.ndarray:
    """int64: the row of every entry of a block."""
    lengths = np.diff(indptr[rows.start : rows.stop + 1])
    return np.repeat(np.arange(rows.start, rows.stop, dtype=np.int64), lengths)


def spread(values: np.ndarray, indptr: np.ndarray, rows: slice) -> np.ndarray:
    """Each row's value at every entry of a block."""
    return np.repeat(values[rows], np.diff(indptr[rows.start : rows.stop + 1]))
