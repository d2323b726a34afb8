"""Read columns of files: CSV, TSV, RecBole .inter, MovieLens .dat, JSON lines, Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from .columns import GUESSES, looks_like_data, printable

_PARQUET = (".parquet", ".pq")
JSON = (".json", ".jsonl")
COMPRESSED = (".gz", ".bz2", ".zst")
_MOVIELENS = ("user_id", "item_id", "rating", "timestamp")
# What a line's values are parted by, and whether quotes group them.
_TEXT = {".csv": (",", True), ".tsv": ("\t", True), ".inter": ("\t", False), ".dat": (":", False)}
NAMES = frozenset(name for names in GUESSES.values() for name in names)
SUFFIXES = (".parquet", ".csv", ".tsv", ".inter", ".dat", ".json", ".jsonl")
_NAMES_HINT = (
    "; its first line looks like data: name the columns with header= "
    "(resemb data convert --header writes a log that has them)"
)


@dataclass(frozen=True)
class Source:
    """A file whose columns are known and not yet read.

    Attributes:
        path: the file.
        names: its columns.
        read: takes column names, of them those to keep as text, and gives a table.
        text: whether ids are spelled as text that may stand for integers.
        hint: what to add to a message about columns that are missing.
        line: takes a row (0-based) to its line in the file, None where a file has no lines.
    """

    path: Path
    names: list[str]
    read: Callable[[Sequence[str], Sequence[str]], pa.Table]
    text: bool = False
    hint: str = ""
    line: Callable[[int], int] | None = field(default=None, repr=False)


def kind_of(path: Path) -> str:
    """The suffix that says how to read the file, less that of a compression; "" for unknown."""
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    kind = suffixes[-1] if suffixes else ""
    return kind if kind in (*_PARQUET, *JSON, *_TEXT) else ""


def name_of(path: Path) -> str:
    """The file's name without its suffix, and that of a compression."""
    return Path(path.stem).stem if path.suffix.lower() in COMPRESSED else path.stem


def open_source(path: Path, header: Sequence[str] | None = None) -> Source:
    """Looks at a file's columns.

    Args:
        path: ``.parquet``, ``.csv``, ``.tsv``, ``.inter``, ``.dat``, ``.json`` or ``.jsonl`` (one
            object a line); all but Parquet may be compressed (``.gz``, ``.bz2``, ``.zst``).
        header: names of a text file's columns, whose first line is then data.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, an empty or damaged one, or a ``header`` that cannot be.
    """
    if not path.exists():
        raise FileNotFoundError(f"no log at {str(path)!r}")
    kind = kind_of(path)
    if path.is_dir():
        raise ValueError(
            f"cannot read {str(path)!r}: it is a folder; of folders only those of ready-made samples "
            "are read, by resemb train"
        )
    if not kind:
        raise ValueError(f"cannot read {str(path)!r}: expected a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file")
    if header is not None and kind not in _TEXT:
        raise ValueError(f"header: {path.name} names its columns itself")
    with readable(path):
        if kind in _PARQUET:
            return _parquet(path)
        if path.stat().st_size == 0:
            raise ValueError("it is empty")
        return _json(path) if kind in JSON else _text(path, kind, header)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what readers raise into one line that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        if isinstance(error, FileNotFoundError):
            raise
        why = printable(str(error)) or type(error).__name__
        raise ValueError(f"cannot read {str(path)!r}: {why}") from None
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"cannot read {str(path)!r}: {error}") from None


def _parquet(path: Path) -> Source:
    with pa.parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names

    def read(columns: Sequence[str], text: Sequence[str]) -> pa.Table:
        with readable(path), pa.parquet.ParquetFile(path) as file:
            return file.read(columns=list(columns))

    return Source(path, names, read)


@contextmanager
def _lines(path: Path) -> Iterator[io.TextIOWrapper]:
    """The file as text, decompressed."""
    with (
        pa.input_stream(path, compression="detect") as raw,
        io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline="") as text,
    ):
        yield text


def _records(text: io.TextIOWrapper, delimiter: str, quoted: bool) -> Any:
    """A csv reader; its ``line_num`` counts lines, records with line ends inside included."""
    if quoted:
        return csv.reader(text, delimiter=delimiter)
    return csv.reader(text, delimiter=delimiter, quoting=csv.QUOTE_NONE)


def _text(path: Path, kind: str, header: Sequence[str] | None) -> Source:
    delimiter, quoted = _TEXT[kind]
    # "::" parts columns by an empty one, which a parser of ":" finds between any two.
    step = 2 if kind == ".dat" else 1
    with _lines(path) as text:
        records = _records(text, delimiter, quoted)
        first: list[str] = next((row for row in records if row), [])
        skip = records.line_num
    if not first:
        raise ValueError("it is empty")
    if header is not None:
        skip = 0
        named = {name.lower() for name in first} & {name.lower() for name in (*header, *NAMES)}
        if named:
            raise ValueError(f"header: line 1 holds names itself ({', '.join(sorted(named))}); leave header out")
    if kind == ".dat" and header is None:
        header, skip = _MOVIELENS, 0
    names, hint, types = list(header or first), "", {}
    if kind == ".inter" and header is None:
        # RecBole's typed header: user_id:token, timestamp:float.
        types = dict(name.rsplit(":", 1) for name in names if ":" in name)
        names = [name.rsplit(":", 1)[0] for name in names]
        if not types:
            raise ValueError(f"expected a header such as user_id:token, found {first[0]!r}")
    if header is None and looks_like_data(names):
        hint = _NAMES_HINT
    found = first[::step]
    if len(found) != len(names) or any(first[1::step] if step > 1 else ()):
        mark = "::" if step > 1 else delimiter
        raise ValueError(f"line 1 has {len(found)} columns, expected {len(names)}: {mark.join(names)}")
    spread = names
    if step > 1:
        spread = [n for name in names for n in (name, f"\0{name}")][:-1]

    def read(columns: Sequence[str], text: Sequence[str]) -> pa.Table:
        for column in columns:
            if types.get(column, "").endswith("_seq"):
                raise ValueError(f"column {column!r} of {path.name} is a {types[column]}, expected one value")
        gaps = [n for n in spread if n.startswith("\0")]
        # Ids are read as text first: type inference would turn "007" into 7 and ids beyond int64
        # into floats that collide.
        convert = pa.csv.ConvertOptions(
            include_columns=[*columns, *gaps],
            column_types={name: pa.string() for name in (*text, *gaps)},
            strings_can_be_null=True,
        )
        with readable(path):
            try:
                table = pa.csv.read_csv(
                    path,
                    pa.csv.ReadOptions(column_names=spread, skip_rows=skip),
                    pa.csv.ParseOptions(
                        delimiter=delimiter, quote_char='"' if quoted else False, newlines_in_values=quoted
                    ),
                    convert,
                )
            except pa.ArrowInvalid as error:
                why = _bad_line(path, delimiter, quoted, len(spread), step)
                raise ValueError(why or printable(str(error))) from None
            for name in gaps:
                filled = pa.compute.is_valid(table[name])
                if pa.compute.any(filled).as_py():
                    row = pa.compute.index(filled, True).as_py()
                    raise ValueError(f"line {line(row)}: expected '::' between columns, found ':'")
        return table.select(list(columns))

    def line(row: int) -> int:
        with _lines(path) as text:
            records = _records(text, delimiter, quoted)
            at = 0 if header is not None else -1
            for record in records:
                if not record:
                    continue
                if at == row:
                    return records.line_num
                at += 1
        raise ValueError(f"{path.name} has no row {row}")

    return Source(path, names, read, text=True, hint=hint, line=line)


def _bad_line(path: Path, delimiter: str, quoted: bool, columns: int, step: int) -> str | None:
    """Which line of a file that cannot be parsed is at fault, and why; None where none is seen."""
    with _lines(path) as text:
        records = _records(text, delimiter, quoted)
        for record in records:
            if not record:
                continue
            shown = f"{(delimiter * step).join(record[::step]):.60}"
            if len(record) != columns:
                expected, found = -(-columns // step), -(-len(record) // step)
                return f"line {records.line_num}: expected {expected} columns, found {found} ({shown!a})"
            if any("\ufffd" in value for value in record):
                return f"line {records.line_num} is not UTF-8 text ({shown!a})"
    return None


_JSON_TYPES: dict[type, pa.DataType] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


def _json(path: Path) -> Source:
    def objects() -> Iterator[tuple[int, dict[str, Any]]]:
        with _lines(path) as text:
            for number, content in enumerate(text, 1):
                if not content.strip():
                    continue
                try:
                    value = json.loads(content)
                except ValueError:
                    raise ValueError(f"line {number}: not a JSON object on one line") from None
                if not isinstance(value, dict):
                    raise ValueError(f"line {number}: expected an object, found {value!r:.60}")
                yield number, value

    first = next(objects(), None)
    if first is None:
        raise ValueError("it is empty")
    types = {name: _JSON_TYPES.get(type(value)) for name, value in first[1].items()}

    def read(columns: Sequence[str], text: Sequence[str]) -> pa.Table:
        with readable(path):
            for column in columns:
                if types[column] is None:
                    raise ValueError(f"column {column!r}: expected numbers or text in line 1")
            schema = pa.schema([(column, types[column]) for column in columns])
            options = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
            try:
                return pa.json.read_json(path, parse_options=options).select(list(columns))
            except pa.ArrowException as error:
                for number, value in objects():
                    for column in columns:
                        kind = type(value.get(column))
                        if value.get(column) is not None and _JSON_TYPES.get(kind) != types[column]:
                            raise ValueError(
                                f"line {number}: {column} is {value[column]!r:.60}, expected "
                                f"{types[column]} as in line 1"
                            ) from None
                raise ValueError(printable(str(error))) from None

    def line(row: int) -> int:
        for at, (number, _) in enumerate(objects()):
            if at == row:
                return number
        raise ValueError(f"{path.name} has no row {row}")

    return Source(path, list(first[1]), read, line=line)
