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

_HELD_OUT = ("valid", "validation", "val", "eval", "test")


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
        """bool [N]: the rows with label 1, of the first label that is a column; all, where none is.

        Raises:
            ValueError: labels other than 0 and 1.
        """
        label = next((name for name in self._labels if name in self.names), None)
        if label is None:
            return np.ones(len(self._values(self.names[0])), dtype=bool)
        labels = self.flat(label)
        wrong = ~np.isin(labels, (0, 1))
        if wrong.any():
            at = int(np.argmax(wrong))
            raise ValueError(
                f"{label}: found the label {labels[at]} in row {at}; expected 1 where an event happened, else 0"
            )
        return labels == 1


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
    if _is_held_out(given):
        raise ValueError(f"data: found {given}, which is named as held-out data; a graph must see training events only")
    paths = [given] if os.path.isfile(given) else []
    for ending in (".parquet", ".npz"):
        if not paths:
            paths = sorted(glob.glob(os.path.join(glob.escape(given), f"*{ending}"))) or [
                name for name in (given + ending,) if os.path.isfile(name)
            ]
    if not paths:
        raise FileNotFoundError(f"data: no file {given}, no {given}.parquet or .npz, and no folder of such files")
    held_out = [os.path.basename(name) for name in paths if _is_held_out(name)]
    if held_out:
        raise ValueError(
            f"data: found the folder {given} with {', '.join(held_out)}, which is named as held-out data; a graph must see "
            "training events only: give the path of the training part"
        )
    if paths[0].endswith(".npz"):
        parts = [_arrays(name) for name in paths]
        _check_same_columns(paths, [list(part) for part in parts])
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if not paths[0].endswith(".parquet"):
        raise ValueError(
            f"data: found {given}; expected Parquet or npz. CSV holds raw values: give what FuxiCTR's build_dataset wrote"
        )
    tables = [pq.read_table(name) for name in paths]
    _check_same_columns(paths, [table.column_names for table in tables])
    return pa.concat_tables([table.select(tables[0].column_names) for table in tables])


def _is_held_out(path: str) -> bool:
    return Path(path).stem.lower() in _HELD_OUT


def _arrays(path: str) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def _check_same_columns(paths: list[str], names: list[list[str]]) -> None:
    for path, found in zip(paths, names, strict=True):
        if set(found) != set(names[0]):
            raise ValueError(
                f"data: {path} has the columns {', '.join(found)}; expected those of {paths[0]}: {', '.join(names[0])}"
            )
