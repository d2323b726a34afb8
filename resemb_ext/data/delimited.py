"""Text files of one row a line: CSV, TSV and the like, RecBole .inter, MovieLens .dat."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from .columns import printable
from .findings import WARNING, Finding
from .layout import Layout, bad_line, layout_of
from .lines import CHUNK, LINE_LIMIT, LineStream, filled_lines, lent
from .source import Source, readable


def open_delimited(path: Path, kind: str, header: Sequence[str] | None, delimiter: str | None) -> Source:
    """A text file of the kind that its suffix says; ``header`` and ``delimiter`` as of ``read_log``.

    Raises:
        ValueError: as ``layout_of``.
    """
    layout = layout_of(path, kind, header, delimiter)
    file = Delimited(path, layout)
    return Source(path, layout.names, file.read, text=True, hint=layout.hint, place=file.place, findings=file.findings)


class _Spans(NamedTuple):
    """Rows that take several lines: how many, and the lines of the first."""

    rows: int
    begin: int
    last: int


class Delimited:
    """Reads columns as text. Only an empty value is null.

    A quote means what the file's lines say. Where every line has as many values as there are columns, split at the
    delimiter alone, a quote groups nothing: it goes where it opens and closes a value, and is a letter elsewhere. Only
    where some line has not, quotes group values with delimiters and line ends in them. So a stray quote takes no line
    away, and rows of values that hold line ends are still read.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path, self.layout = path, layout
        self.findings: list[Finding] = []
        self._grouped = False  # whether quotes group

    def read(self, columns: Sequence[str]) -> pa.Table:
        """The columns as text.

        Raises:
            ValueError: a line of too few or many values (it is named), text that is not UTF-8, quotes that
                may take lines away.
        """
        for column in columns:
            kind = self.layout.types.get(column, "")
            if kind.endswith("_seq"):
                raise ValueError(f"column {column!r} of {self.path.name} is a {kind}, expected one value")
        with readable(self.path):
            table = self._grouping(columns) if self.layout.quotes else self._letters(columns)
            if self.layout.step > 1:
                self._check_gaps(table)
            return self._clean(table.select(list(columns)))

    def batches(self, rows: int, size: int) -> Iterator[pa.RecordBatch]:
        """All columns as text, at most ``rows`` rows at a time; empty values are empty text.

        Args:
            rows: of a batch.
            size: bytes of the file that are read at a time.

        Raises:
            ValueError: as ``read``.
        """
        if self.layout.quotes:
            with readable(self.path):
                self._grouping([])
        stream = LineStream(self.path, size, self.layout.skip)
        if stream.at_end():
            return
        numbers = [str(k) for k in range(len(self.layout.names))]  # names may be double
        read, parse, convert = self._options(numbers, numbers, self._grouped)
        read.use_threads = False  # reads no further blocks ahead
        lending = lent(stream)
        del stream
        with lending as held:
            reader = pa.csv.open_csv(held.pop(), read, parse, convert)
            try:
                with reader:
                    for batch in reader:
                        table = self._clean(pa.Table.from_batches([batch]))
                        filled = [pc.fill_null(column, "") for column in table.columns]
                        yield from pa.table(filled, self.layout.names).to_batches(rows)
            finally:
                del reader  # it keeps the file, also where the caller stops in between

    def place(self, row: int) -> str:
        """File and line of a row (0-based) that has been read."""
        for begin, last, _ in self.layout.records(self.path, self._grouped):
            row -= begin > self.layout.skip
            if row < 0:
                return f"{self.path.name}, line {last}"
        raise ValueError(f"{self.path.name} has no such row")

    def _letters(self, columns: Sequence[str]) -> pa.Table:
        try:
            return self._parse(columns, quotes=False, size=CHUNK)
        except pa.ArrowInvalid as error:
            raise ValueError(bad_line(self.path, self.layout, False) or printable(str(error))) from None

    def _grouping(self, columns: Sequence[str]) -> pa.Table:
        look = _LookForQuotes(self.layout.delimiter)
        try:
            table = self._parse(columns, quotes=False, size=CHUNK, look=look)
        except pa.ArrowInvalid:
            return self._grouped_by_quotes(columns)
        if not look.open:
            return table
        spans = self._spans(strict=True)
        if spans is None or not spans.rows:
            return table
        # Both readings are sound. Commas and semicolons come from writers that quote, tabs from those that do not.
        if self.layout.delimiter in ",;":
            return self._grouped_by_quotes(columns)
        self._find(
            f"a quote in line {spans.begin} may open a value that ends in line {spans.last}",
            "each line is a row and the quotes are letters; a log that means it otherwise has to be .csv or .parquet",
        )
        return table

    def _grouped_by_quotes(self, columns: Sequence[str]) -> pa.Table:
        for size in (CHUNK, LINE_LIMIT):
            filled = 0

            def count(chunk: bytes) -> None:
                nonlocal filled
                filled += filled_lines(chunk)

            try:
                table = self._parse(columns, quotes=True, look=count, size=size)
                break
            except pa.ArrowInvalid as error:
                # A quoted value with line ends may be longer than two chunks.
                if "straddling" in str(error) and size == CHUNK:
                    continue
                by_commas = self.layout.delimiter in ",;"
                raise ValueError(bad_line(self.path, self.layout, by_commas) or printable(str(error))) from None
        self._grouped = True
        if filled == len(table):
            return table
        spans = self._spans(strict=True)
        if spans is None:
            spans = self._spans(strict=False)
            assert spans is not None  # rows span lines, and any quotes are read
            raise ValueError(
                f"a quote in line {spans.begin} opens a value that goes on to line {spans.last}, but the file has stray "
                "quotes, so that lines may be lost; quote the whole value and write a quote inside it twice, or take it "
                "out"
            )
        self._find(
            f"{spans.rows} {'rows take' if spans.rows > 1 else 'row takes'} several lines, by line ends in quoted "
            f"values; the first is in lines {spans.begin} to {spans.last}",
            "such lines are one row",
        )
        return table

    def _find(self, found: str, done: str) -> None:
        self.findings.append(Finding(WARNING, "quotes", found, done))

    def _spans(self, strict: bool) -> _Spans | None:
        """Rows that span lines; None where, strictly read, quotes are not well-formed or a row's length is wrong."""
        count, first = 0, (0, 0)
        try:
            for begin, last, values in self.layout.records(self.path, True, strict):
                if strict and len(values) != len(self.layout.names):
                    return None
                if last > begin:
                    count, first = count + 1, first if count else (begin, last)
        except csv.Error:
            return None
        return _Spans(count, *first)

    def _parse(
        self, columns: Sequence[str], *, quotes: bool, size: int, look: Callable[[bytes], None] | None = None
    ) -> pa.Table:
        gaps = [name for name in self.layout.spread if name.startswith("\0")]
        names = list(dict.fromkeys([*columns, *gaps]))
        stream = LineStream(self.path, size, self.layout.skip, look)
        if stream.at_end():
            return pa.table({name: pa.array([], pa.string()) for name in names})
        lending = lent(stream)
        del stream
        with lending as held:
            return pa.csv.read_csv(held.pop(), *self._options(self.layout.spread, names, quotes))

    def _options(
        self, names: Sequence[str], wanted: Sequence[str], quotes: bool
    ) -> tuple[pa.csv.ReadOptions, pa.csv.ParseOptions, pa.csv.ConvertOptions]:
        """Of Arrow's reader; without wanted columns it counts rows, as a column of nulls."""
        convert = pa.csv.ConvertOptions(
            include_columns=list(wanted) or ["\0"],
            include_missing_columns=not wanted,
            # Type inference would turn "007" into 7 and ids beyond int64 into floats that collide.
            column_types={name: pa.string() for name in wanted},
            strings_can_be_null=True,
            null_values=[""],
        )
        parse = pa.csv.ParseOptions(
            delimiter=self.layout.delimiter[0], quote_char='"' if quotes else False, newlines_in_values=quotes
        )
        # The size of a block is a limit here: the stream gives chunks of its own.
        read = pa.csv.ReadOptions(column_names=list(names), block_size=4 * LINE_LIMIT)
        return read, parse, convert

    def _check_gaps(self, table: pa.Table) -> None:
        for name in self.layout.spread[1::2]:
            filled = pc.is_valid(table[name])
            if pc.any(filled).as_py():
                sign = self.layout.delimiter
                place = self.place(pc.index(filled, True).as_py()).rsplit(", ", 1)[1]
                raise ValueError(f"{place}: expected {sign!r} between columns, found {sign[0]!r}")

    def _clean(self, table: pa.Table) -> pa.Table:
        """Values without the blanks around them, if these are none of theirs, and without their quotes."""
        for k, column in enumerate(table.columns):
            if self.layout.trim:
                column = _empty_to_null(pc.utf8_trim(column, " "))
            if self.layout.quotes and not self._grouped:
                column = _unquoted(column)
            table = table.set_column(k, table.column_names[k], column)
        return table


class _LookForQuotes:
    """Whether some value opens a quote that is not closed where the value ends."""

    def __init__(self, delimiter: str) -> None:
        sign = re.escape(delimiter.encode())
        inner = b'[^"%b\\n\\r]*' % sign
        self._unclosed = re.compile(b'(?:\\A|[\\n\\r]|%b)"%b(?:""%b)*(?=%b|[\\n\\r]|\\Z)' % (sign, inner, inner, sign))
        self.open = False

    def __call__(self, chunk: bytes) -> None:
        if not self.open and b'"' in chunk:
            self.open = self._unclosed.search(chunk) is not None


def _unquoted(column: pa.ChunkedArray) -> pa.ChunkedArray:
    quoted = pc.fill_null(pc.match_substring_regex(column, r'(?s)^"(?:[^"]|"")*"$'), False)
    if not pc.any(quoted).as_py():
        return column
    inner = pc.replace_substring(pc.utf8_slice_codeunits(column, 1, -1), '""', '"')
    return _empty_to_null(pc.if_else(quoted, inner, column))


def _empty_to_null(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
