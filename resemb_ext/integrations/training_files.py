"""Columns of training files and tables in ids, with histories as lists or matrices."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from resemb_ext.runtime.frames import open_frame

from .histories import PADDING

_HELD_OUT = ("valid", "validation", "test")


class Columns:
    """Columns of a training file or table, as arrays."""

    def __init__(self, data: Any, labels: list[str]) -> None:
        self._labels = labels
        frame = open_frame(_opened(data) if isinstance(data, (str, os.PathLike)) else data, "data", "a path, ")
        self.names = frame.names
        self._values_of = frame.columns(frame.names)

    def _values(self, name: str) -> Any:
        if name not in self.names:
            raise ValueError(f"data: no column {name!r}; found {', '.join(map(str, self.names))}")
        return self._values_of[name]

    def flat(self, name: str) -> np.ndarray:
        """A column of one number a row."""
        values = np.asarray(self._values(name))
        if values.ndim != 1 or values.dtype == object:
            raise ValueError(f"{name}: found shape {list(values.shape)} of {values.dtype}; expected one number a row")
        return values

    def ids(self, name: str) -> np.ndarray:
        """A column of integers; npz and Parquet of FuxiCTR may hold them as floats."""
        return _integers(self.flat(name), name)

    def matrix(self, name: str) -> np.ndarray:
        """A column of lists, [N, L]; shorter ones are padded behind."""
        values = self._values(name)
        if isinstance(values, (pa.ChunkedArray, pa.Array)):
            values = values.to_numpy()
        values = np.asarray(values)
        if values.dtype == object:
            values = _padded(values, name)
        if values.ndim != 2:
            raise ValueError(f"{name}: found shape {list(values.shape)}; expected a history of ids in each row")
        return _integers(values, name)

    def positive(self) -> np.ndarray:
        """bool [N]: the rows with label 1; all, where no column is a label of the feature map."""
        label = next((name for name in self._labels if name in self.names), None)
        if label is None:
            return np.ones(len(self._values(self.names[0])), dtype=bool)
        return self.flat(label) == 1


def _integers(values: np.ndarray, name: str) -> np.ndarray:
    whole = values.astype(np.int64) if values.dtype.kind in "iuf" else None
    if whole is None or (values.dtype.kind == "f" and not np.array_equal(whole, values)):
        raise ValueError(
            f"{name}: found {values.dtype} values that are no whole numbers; expected ids of the feature map"
        )
    return whole


def _padded(rows: np.ndarray, name: str) -> np.ndarray:
    """Rows of lists as a matrix."""
    try:
        lists = [np.asarray([] if row is None else row) for row in rows]
        lengths = np.array([len(row) for row in lists])
    except TypeError:
        raise ValueError(
            f"{name}: found rows of {type(rows[0]).__name__}; expected a history of ids in each row"
        ) from None
    matrix = np.full((len(lists), max(lengths, default=0)), PADDING, dtype=np.float64)
    matrix[np.arange(matrix.shape[1]) < lengths[:, None]] = np.concatenate(lists) if len(lists) else []
    return matrix


def _opened(path: str | os.PathLike[str]) -> Any:
    """The columns of a file, or of a folder's files, found as FuxiCTR finds them."""
    given = os.fspath(path)
    if Path(given).stem.lower() in _HELD_OUT:
        raise ValueError(f"data: found {given}, which is named as held-out data; a graph must see training events only")
    paths = [given] if os.path.isfile(given) else []
    for ending in (".parquet", ".npz"):
        if not paths:
            paths = sorted(glob.glob(os.path.join(glob.escape(given), f"*{ending}"))) or [
                name for name in (given + ending,) if os.path.isfile(name)
            ]
    if not paths:
        raise FileNotFoundError(f"data: no file {given}, no {given}.parquet or .npz, and no folder of such files")
    if paths[0].endswith(".npz"):
        files = [np.load(name) for name in paths]
        return {name: np.concatenate([file[name] for file in files]) for name in files[0].files}
    if not paths[0].endswith(".parquet"):
        raise ValueError(
            f"data: found {given}; expected Parquet or npz. CSV holds raw values: give what FuxiCTR's build_dataset wrote"
        )
    return pa.concat_tables([pq.read_table(name) for name in paths])
