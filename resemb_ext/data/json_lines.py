"""JSON lines: one object a line. Names and types of the columns are those of all objects."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json

from .lines import CHUNK, chunks, filled_lines, lent, text_lines
from .source import Source, readable
from .spelled import EXACT, integers

# What Arrow infers that it reads exactly. Its doubles may have been integers.
_EXACT_TYPES = {pa.int64(): "integers", pa.string(): "text", pa.bool_(): "true and false"}
_REMEDY = "; jq -c '.[]' makes such lines of an array, and so does pandas' to_json(orient='records', lines=True)"
_SURROGATE = re.compile("[\ud800-\udfff]")
_KINDS = {int: "integers", float: "numbers", str: "text", bool: "true and false", list: "a list"}


def open_json_lines(path: Path) -> Source:
    """Looks at every object for the names and types of the columns.

    Raises:
        ValueError: an empty file, or a line that is no JSON object.
    """
    file = _JsonLines(path)
    return Source(path, list(file.kinds), file.read, place=file.place)


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects and their lines, counted from 1."""
    for number, line in enumerate(text_lines(path), 1):
        if line.strip():
            yield number, _object(line, number)


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line, parse_float=_number)
    except (ValueError, RecursionError):
        raise ValueError(f"line {number}: not a JSON object on one line{_REMEDY if number == 1 else ''}") from None
    if not isinstance(value, dict):
        raise ValueError(f"line {number}: expected an object, found {value!r:.60}{_REMEDY if number == 1 else ''}")
    return value


def _number(text: str) -> float | int:
    """A number with a point or an exponent: an integer where a float would not hold it exactly."""
    number = float(text)
    if EXACT < abs(number) < 1e40 and (exact := Decimal(text)) == exact.to_integral_value():
        return int(exact)
    return number


class _JsonLines:
    def __init__(self, path: Path) -> None:
        self.path = path
        # By column: kinds of its values, in order of appearance; the type's name for others than numbers and text.
        self.kinds: dict[str, dict[str, None]] = {}
        for chunk in chunks(path, CHUNK):
            table = _by_arrow(chunk)
            if table is None:
                self.kinds = self._kinds_of_all_objects()
                break
            for name, kinds in _kinds_of_table(table).items():
                self.kinds.setdefault(name, {}).update(kinds)
        if not self.kinds:
            raise ValueError("it is empty")

    def _kinds_of_all_objects(self) -> dict[str, dict[str, None]]:
        kinds: dict[str, dict[str, None]] = {}
        for _, value in _objects(self.path):
            for name, entry in value.items():
                known = kinds.setdefault(name, {})
                if entry is not None:
                    known[_KINDS.get(type(entry), type(entry).__name__)] = None
        return kinds

    def read(self, columns: Sequence[str]) -> pa.Table:
        """The columns; numbers are int64, uint64 or float64, integers beyond 64 bits their digits as text.

        Lists of one type stay lists, as histories of samples are.

        Raises:
            ValueError: a column that mixes text, numbers and lists, or holds objects; its line is named.
        """
        with readable(self.path):
            by_name = {kind: type_ for type_, kind in _EXACT_TYPES.items()}
            types: dict[str, pa.DataType] = {}
            for column in columns:
                kinds = list(self.kinds[column])
                if not kinds:
                    types[column] = pa.null()
                elif len(kinds) == 1 and kinds[0] in by_name:
                    types[column] = by_name[kinds[0]]
            if len(types) == len(set(columns)):
                table = self._read_by_arrow(columns, pa.schema(types.items()))
                if table is not None:
                    return table
            return self._read_objects(columns)

    def _read_by_arrow(self, columns: Sequence[str], schema: pa.Schema) -> pa.Table | None:
        tables = []
        for chunk in chunks(self.path, CHUNK):
            table = _by_arrow(chunk, schema)
            if table is None:
                return None
            tables.append(table.select(list(columns)))
        return pa.concat_tables(tables)

    def _read_objects(self, columns: Sequence[str]) -> pa.Table:
        values: dict[str, list[Any]] = {column: [] for column in columns}
        first: dict[str, tuple[int, str]] = {}
        for number, value in _objects(self.path):
            for column, entries in values.items():
                entry = value.get(column)
                entries.append(entry)
                if entry is None:
                    continue
                kind = _KINDS.get(type(entry))
                if kind is None:
                    raise ValueError(f"line {number}: {column!r} is {entry!r:.60}, expected a number or text")
                if kind == "text" and _SURROGATE.search(entry):
                    raise ValueError(f"line {number}: {column!r} is {entry!a:.60}, which is cut within a character")
                begun, expected = first.setdefault(column, (number, kind))
                if kind != expected and not {kind, expected} <= {"integers", "numbers"}:
                    raise ValueError(
                        f"line {number}: {column!r} is {entry!r:.60}, expected {expected} as in line {begun}"
                    )
        return pa.table({column: _array(column, entries) for column, entries in values.items()})

    def place(self, row: int) -> str:
        for at, (number, _) in enumerate(_objects(self.path)):
            if at == row:
                return f"{self.path.name}, line {number}"
        raise ValueError(f"{self.path.name} has no row {row}")


def _array(column: str, entries: list[Any]) -> pa.Array:
    if any(isinstance(entry, list) for entry in entries):
        try:
            return pa.array(entries)
        except (pa.ArrowException, OverflowError) as error:
            raise ValueError(f"column {column!r} holds lists of no one type: {error}") from None
    kinds = {type(entry) for entry in entries if entry is not None}
    if float in kinds:
        if all(entry is None or isinstance(entry, float) or abs(entry) <= EXACT for entry in entries):
            return pa.array(entries, pa.float64())
        if any(isinstance(entry, float) and not entry.is_integer() for entry in entries):
            return pa.array([entry if entry is None else float(entry) for entry in entries])
        entries = [entry if entry is None else int(entry) for entry in entries]
        kinds = {int}
    if int not in kinds:
        return pa.array(entries)
    numbers = integers(entries)
    return pa.array([entry if entry is None else str(entry) for entry in entries]) if numbers is None else numbers


_NO_OBJECT = re.compile(rb"^[ \t\r]*[^{\s]", re.MULTILINE)  # a line that begins otherwise than an object


def _by_arrow(chunk: bytes, schema: pa.Schema | None = None) -> pa.Table | None:
    """Arrow's table of a chunk of lines; None where it finds faults or not one object a line."""
    if _NO_OBJECT.search(chunk):  # on some of them Arrow 26 ends the process
        return None
    options = pa.json.ParseOptions(
        explicit_schema=schema, unexpected_field_behavior="infer" if schema is None else "ignore"
    )
    read = pa.json.ReadOptions(use_threads=False, block_size=max(len(chunk), 1))
    try:
        with lent(io.BytesIO(chunk)) as held:
            table = pa.json.read_json(held.pop(), read, options)
    except pa.ArrowException:
        return None
    return table if len(table) == filled_lines(chunk) else None


def _kinds_of_table(table: pa.Table) -> dict[str, dict[str, None]]:
    kinds: dict[str, dict[str, None]] = {}
    for field in table.schema:
        if pa.types.is_timestamp(field.type):
            name = "text"
        elif pa.types.is_floating(field.type):
            name = "numbers"
        else:
            name = _EXACT_TYPES.get(field.type, str(field.type))
        kinds[field.name] = {} if pa.types.is_null(field.type) else {name: None}
    return kinds
