"""A folder of parts as one log, as Spark and warehouses write it: files of one kind, also by ``key=value`` folders."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .arrow import as_arrow
from .columns import list_names
from .findings import WARNING, Finding
from .kinds import PARQUET, SETS, kind_of
from .source import Source
from .spelled import EXACT_FLOAT, is_text, spelled_ids

# Of such tables a log in the folder says which files count.
_TABLES = {"_delta_log": "Delta", ".hoodie": "Hudi"}
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


def open_parts(folder: Path, open_part: Callable[[Path], Source]) -> Source:
    """The files under a folder, in the order of their names; those that begin with "." or "_" are no part of the log.

    Columns are those of any part, and the keys of folders called ``key=value``; where a part has no such column, its
    rows have nulls.

    Args:
        folder: searched with its subfolders.
        open_part: opens a file.

    Raises:
        ValueError: no files, files of several kinds, a training and a test set, or a table of Delta or Hudi.
    """
    for name, table in _TABLES.items():
        if (folder / name).exists():
            raise ValueError(
                f"cannot read {str(folder)!r}: it is a {table} table, some of whose files may be of the past; export "
                "it as plain Parquet"
            )
    found, others = [], []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        inside = path.relative_to(folder)
        if not _hidden(inside) and kind_of(path):
            found.append(path)
        elif not any(part.startswith(".") for part in inside.parts) and (kind_of(path) or not _hidden(inside)):
            others.append(str(inside))  # markers such as _SUCCESS need no word
    # Spark writes empty text files for parts without rows; an empty Parquet file is a damaged one.
    files = [path for path in found if path.stat().st_size or kind_of(path) in PARQUET]
    if not files:
        raise ValueError(
            f"cannot read {str(folder)!r}: it is a folder without files of logs; it holds {list_names(others)}"
        )
    # "train.csv", "train-00000-of-00001.parquet", "train/part-0.parquet"
    sets = {re.split(r"[-._]", path.relative_to(folder).parts[0].lower())[0] for path in files}
    if len(sets & SETS.keys()) > 1:
        raise ValueError(
            f"cannot read {str(folder)!r}: it is a folder of a training and a test set, but a log is one whole; name "
            "one of them. Ready-made samples (train.csv, test.csv) are read by resemb train and read_ready_made"
        )
    kinds = {kind_of(path): path.relative_to(folder) for path in files}
    if len(kinds) > 1:
        raise ValueError(
            f"cannot read {str(folder)!r}: it is a folder of several kinds of files "
            f"({list_names(list(map(str, kinds.values())))}); name one of them, or keep one kind in the folder"
        )
    parts = _Parts(folder, [(open_part(path), _keys(path.relative_to(folder))) for path in files])
    first = parts.parts[0][0]
    if others:
        parts.findings.append(
            Finding(
                WARNING,
                "other files",
                f"{len(others)} files are no parts by their names: {list_names(others)}",
                "left out",
            )
        )
    known = set(files)
    twins = [path for path in files if path.with_suffix("") in known]
    if twins:
        twin = twins[0].relative_to(folder)
        parts.findings.append(
            Finding(
                WARNING,
                "files twice",
                f"{len(twins)} files are there packed and unpacked, such as {twin} and {twin.with_suffix('')}",
                "both are read, so their events count twice; take one of them out of the folder",
            )
        )
    return Source(
        folder,
        parts.names,
        parts.read,
        text=first.text,
        hint=first.hint,
        place=parts.place,
        findings=parts.findings,
        lacking=parts.lacking,
    )


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or (part.startswith("_") and "=" not in part) for part in path.parts)


def _keys(path: Path) -> dict[str, str | None]:
    """What the folders of a part are called: {"day": "2019-10-01"} of ``day=2019-10-01/part-0.parquet``."""
    keys: dict[str, str | None] = {}
    for folder in path.parts[:-1]:
        key, mark, value = folder.partition("=")
        if key and mark:
            keys[urllib.parse.unquote(key)] = None if value == _NO_VALUE else urllib.parse.unquote(value)
    return keys


class _Parts:
    def __init__(self, folder: Path, parts: list[tuple[Source, dict[str, str | None]]]) -> None:
        self.folder, self.parts = folder, parts
        self.names = list(dict.fromkeys(name for part, keys in parts for name in (*part.names, *keys)))
        self.findings: list[Finding] = []
        self.lacking: dict[str, str] = {}
        self._rows: list[int] = []

    def read(self, columns: Sequence[str]) -> pa.Table:
        """The columns of all parts, one below the other.

        Raises:
            ValueError: a column is text in one part and numbers in another, or its numbers have no common exact type.
        """
        pieces: dict[str, list[pa.Array]] = {column: [] for column in columns}
        self._rows = []
        for part, keys in self.parts:
            own = [column for column in columns if column in part.names]
            # A part's rows are counted even where it has none of the columns.
            table = part.read(own or part.names[:1])
            self._rows.append(len(table))
            name = part.path.relative_to(self.folder)
            self.findings += [replace(finding, found=f"{name}: {finding.found}") for finding in part.findings]
            for column in columns:
                if column in own:
                    pieces[column].append(as_arrow(table[column], column))
                else:
                    pieces[column].append(_repeated(keys.get(column), len(table)))
        for column in columns:
            self._look_for(column)
        return pa.table({column: self._joined(column, arrays) for column, arrays in pieces.items()})

    def _look_for(self, column: str) -> None:
        """Says which parts have rows but not the column."""
        without = [
            part
            for (part, keys), rows in zip(self.parts, self._rows, strict=True)
            if rows and column not in part.names and column not in keys
        ]
        if without:
            name = without[0].path.relative_to(self.folder)
            count = f"{len(without)} of {len(self.parts)} parts"
            found = f"{count} have no column {column!r}, the first is {name} with {list_names(without[0].names)}"
            self.lacking[column] = found
            self.findings.append(Finding(WARNING, "columns", found, "their rows have nulls there"))

    def _joined(self, column: str, arrays: list[pa.Array]) -> pa.ChunkedArray:
        if not any(column in part.names for part, _ in self.parts) and not self.parts[0][0].text:
            whole = pa.concat_arrays([array.cast(pa.string()) for array in arrays])
            return pa.chunked_array([spelled_ids(whole, column, "value", [])])
        kinds: dict[Any, int] = {}
        for k, array in enumerate(arrays):
            if not pa.types.is_null(array.type):
                kinds.setdefault(array.type, k)
        try:
            common = _common_type(list(kinds), arrays)
            return pa.chunked_array([array.cast(common) for array in arrays], common)
        except pa.ArrowException:
            shown = " and ".join(f"{kind} in {self.parts[k][0].path.name}" for kind, k in list(kinds.items())[:2])
            raise ValueError(
                f"cannot read {str(self.folder)!r}: column {column!r} is {shown}; write it with one type"
            ) from None

    def place(self, row: int) -> str:
        """Part and line of a row (0-based) that has been read."""
        for (part, _), rows in zip(self.parts, self._rows, strict=True):
            if row < rows:
                name = str(part.path.relative_to(self.folder))
                return f"{name}, row {row}" if part.place is None else part.place(row).replace(part.path.name, name, 1)
            row -= rows
        raise ValueError(f"{self.folder.name} has no such row")


def _repeated(value: str | None, count: int) -> pa.Array:
    return pa.nulls(count) if value is None else pa.array([value]).take(pa.array([0] * count, pa.int64()))


def _common_type(kinds: list[pa.DataType], arrays: list[pa.Array]) -> pa.DataType:
    """The type that holds all values exactly.

    Raises:
        ArrowException: there is none.
    """
    if len(kinds) < 2:
        return kinds[0] if kinds else pa.null()
    if all(is_text(kind) for kind in kinds):
        return pa.large_string()
    numbers = [pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds]
    if all(numbers) and any(pa.types.is_floating(kind) for kind in kinds):
        for array in arrays:
            exact = EXACT_FLOAT[array.type.bit_width if pa.types.is_floating(array.type) else 64]
            limits = pc.min_max(array).as_py().values()
            if any(value is not None and abs(value) > exact for value in limits):
                raise pa.ArrowInvalid(f"numbers beyond {exact} in floats, or beside them")
        return pa.float64()
    if all(numbers):
        largest = max((pc.max(array).as_py() or 0 for array in arrays if not pa.types.is_null(array.type)), default=0)
        return pa.uint64() if largest > 2**63 - 1 else pa.int64()
    tables = [pa.table({"": pa.nulls(0, kind)}) for kind in kinds]
    return pa.concat_tables(tables, promote_options="permissive").schema.field(0).type
