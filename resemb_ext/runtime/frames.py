"""Tables of any library: their columns as arrays, or their rows in batches of Arrow.

Libraries hand their rows over by the Arrow C stream protocol (``__arrow_c_stream__``), of which pyarrow makes batches.
What is library-specific here: how columns are named and chosen before a query runs, and types that would arrive wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

EXPECTED = (
    "a mapping of arrays, a DataFrame of pandas, polars or Spark, a DuckDB relation, a pyarrow Table, Dataset or"
    " RecordBatchReader, or another object with __arrow_c_stream__"
)


@dataclass(frozen=True)
class Frame:
    """A table whose columns are known and not yet read.

    Attributes:
        names: of its columns.
        lazy: whether its rows are still to be computed or read.
        once: whether its rows can be read only once.
        columns: takes names and gives each column: an array, a Series or a (chunked) Arrow array.
        reader: takes names and rows a batch, which it may disregard, and gives the batches.
    """

    names: list[str]
    lazy: bool
    once: bool
    columns: Callable[[Sequence[str]], Mapping[str, Any]]
    reader: Callable[[Sequence[str], int], pa.RecordBatchReader]

    def check(self, names: Sequence[str]) -> None:
        """ValueError where a name stands for two columns."""
        for name in names:
            if self.names.count(name) > 1:
                raise ValueError(f"the data have {self.names.count(name)} columns {name!r}, expected one; rename them")


def is_frame(source: Any) -> bool:
    """Whether ``open_frame`` takes it."""
    return _opener(source) is not None


def open_frame(source: Any, name: str, others: str = "") -> Frame:
    """The columns of a table; nothing is run or read.

    Args:
        source: the table.
        name: of the argument, for messages.
        others: what else the caller takes, for messages.

    Raises:
        TypeError: the source is no table.
    """
    opener = _opener(source)
    frame = None if opener is None else opener(source)
    if frame is None:
        hint = "; give its .to_spark()" if hasattr(source, "to_spark") else ""
        raise TypeError(f"{name} is a {type(source).__name__}, expected {others}{EXPECTED}{hint}")
    return frame


def _opener(source: Any) -> Callable[[Any], Frame | None] | None:
    if isinstance(source, Mapping):
        return _in_memory
    library, kind = type(source).__module__.partition(".")[0], type(source).__name__
    if library == "polars":
        return {"DataFrame": _polars, "LazyFrame": _polars}.get(kind)
    if library == "pyarrow":
        return _ARROW.get(kind) or next(
            (_ARROW[c.__name__] for c in type(source).__mro__ if c.__name__ in _ARROW), None
        )
    if library == "pyspark":
        return None if hasattr(source, "to_spark") or kind != "DataFrame" else _spark
    if library in ("duckdb", "_duckdb"):
        return _duckdb if kind == "DuckDBPyRelation" else None
    series = hasattr(source, "columns") and hasattr(source, "__getitem__")
    if hasattr(source, "__arrow_c_stream__") and not (series and library == "pandas"):
        return _stream
    return _in_memory if series else None


def _in_memory(source: Any) -> Frame:
    """Mappings and DataFrames whose columns are arrays or Series."""
    names = list(source) if isinstance(source, Mapping) else list(source.columns)

    def columns(wanted: Sequence[str]) -> Mapping[str, Any]:
        return {name: source[name] for name in wanted}

    return Frame(names, False, False, columns, _reader_of(columns))


def _reader_of(columns: Callable[[Sequence[str]], Mapping[str, Any]]) -> Callable[..., pa.RecordBatchReader]:
    """A reader of columns that are in memory."""

    def reader(wanted: Sequence[str], rows: int) -> pa.RecordBatchReader:
        import pyarrow as pa

        arrays = [to_arrow(values, name) for name, values in columns(wanted).items()]
        table = pa.table(arrays, names=list(wanted))
        return pa.RecordBatchReader.from_batches(table.schema, iter(table.to_batches(max_chunksize=rows)))

    return reader


def to_arrow(values: Any, column: str) -> Any:
    """A (chunked) Arrow array of an array, list or Series; NaN of pandas becomes null.

    Raises:
        TypeError: it is of no one type.
        ValueError: integers beyond 64 bits, several dimensions, or Arrow arrays that cannot be made.
    """
    import numpy as np
    import pyarrow as pa

    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if hasattr(values, "detach"):  # a tensor
        values = values.detach().cpu().numpy()
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise ValueError(f"column {column!r} must be one-dimensional, got shape {values.shape}")
    try:
        return pa.array(values, from_pandas=True)
    except OverflowError:
        return _big_integers(values, column)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise TypeError(
            f"column {column!r} cannot be read as one type (ids are all integers or all text): {error}"
        ) from None


def _big_integers(values: Any, column: str) -> pa.Array:
    import pyarrow as pa

    try:
        return pa.array(values, type=pa.uint64(), from_pandas=True)
    except (OverflowError, pa.ArrowInvalid, pa.ArrowTypeError):
        raise ValueError(f"column {column!r} holds integers outside both int64 and uint64; pass them as text") from None


def _table(read: Callable[[Sequence[str]], pa.Table], names: list[str], lazy: bool = False) -> Frame:
    """Tables that one call reads whole."""

    def columns(wanted: Sequence[str]) -> Mapping[str, Any]:
        table = read(wanted)
        return {name: table[name] for name in wanted}

    return Frame(names, lazy, False, columns, _reader_of(columns))


def _batches(
    reader: Callable[[Sequence[str], int], pa.RecordBatchReader], names: list[str], once: bool = False
) -> Frame:
    """Tables that are read in batches."""

    def columns(wanted: Sequence[str]) -> Mapping[str, Any]:
        with reader(wanted, 1 << 17) as stream:
            table = stream.read_all()
        return {name: table[name] for name in wanted}

    return Frame(names, True, once, columns, reader)


def _picked(stream: pa.RecordBatchReader, wanted: Sequence[str]) -> pa.RecordBatchReader:
    """Some columns of a stream that gives them all."""
    import pyarrow as pa

    schema = pa.schema([stream.schema.field(name) for name in wanted])
    return pa.RecordBatchReader.from_batches(schema, (batch.select(list(wanted)) for batch in stream))


def _stream(source: Any) -> Frame | None:
    """Anything that speaks the protocol; each read asks for a new stream. None where it is a column alone."""
    import pyarrow as pa

    names = getattr(source, "columns", None)
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        try:
            names = _schema(source).names
        except pa.ArrowInvalid:
            return None

    def reader(wanted: Sequence[str], rows: int) -> pa.RecordBatchReader:
        return _picked(pa.RecordBatchReader.from_stream(source), wanted)

    return _batches(reader, list(names))


def _schema(source: Any) -> pa.Schema:
    import pyarrow as pa

    if hasattr(source, "__arrow_c_schema__"):
        return pa.schema(source)
    return pa.RecordBatchReader.from_stream(source).schema


def _arrow_table(source: Any) -> Frame:
    return _table(lambda wanted: source.select(list(wanted)), source.schema.names)


def _arrow_batch(source: Any) -> Frame:
    import pyarrow as pa

    return _arrow_table(pa.Table.from_batches([source]))


def _arrow_reader(source: Any) -> Frame:
    return _batches(lambda wanted, rows: _picked(source, wanted), source.schema.names, once=True)


def _arrow_dataset(source: Any) -> Frame:
    return _batches(
        lambda wanted, rows: source.scanner(columns=list(wanted), batch_size=rows).to_reader(), source.schema.names
    )


def _arrow_scanner(source: Any) -> Frame:
    return _batches(lambda wanted, rows: _picked(source.to_reader(), wanted), source.projected_schema.names)


_ARROW: dict[str, Callable[[Any], Frame | None]] = {
    "Table": _arrow_table,
    "RecordBatch": _arrow_batch,
    "RecordBatchReader": _arrow_reader,
    "Dataset": _arrow_dataset,
    "Scanner": _arrow_scanner,
}


def _polars(source: Any) -> Frame:
    """A DataFrame, or a LazyFrame, of which only the wanted columns are computed."""
    lazy = type(source).__name__ == "LazyFrame"
    names = list(source.collect_schema().names() if lazy else source.columns)

    def chosen(wanted: Sequence[str]) -> Any:
        import polars

        some = source.select(list(wanted))
        schema = some.collect_schema()
        # Arrow has no integers of 128 bits.
        wide = [name for name in wanted if schema[name] in (polars.Int128, getattr(polars, "UInt128", None))]
        return some.with_columns(polars.col(wide).cast(polars.Decimal(38, 0))) if wide else some

    def read(wanted: Sequence[str]) -> pa.Table:
        frame = chosen(wanted)
        return (frame.collect() if lazy else frame).to_arrow()

    def reader(wanted: Sequence[str], rows: int) -> pa.RecordBatchReader:
        import pyarrow as pa

        frame = chosen(wanted)
        schema = frame.clear().collect().to_arrow().schema

        def batches() -> Iterator[pa.RecordBatch]:
            for part in frame.collect_batches(chunk_size=rows):
                yield from part.to_arrow().to_batches()

        return pa.RecordBatchReader.from_batches(schema, batches())

    frame = _table(read, names, lazy)
    # Older polars has no batches of a query: its wanted columns are then computed whole.
    return Frame(names, True, False, frame.columns, reader) if hasattr(source, "collect_batches") else frame


def _duckdb(source: Any) -> Frame:
    """A relation, of which only the wanted columns are computed."""
    kinds = dict(zip(source.columns, map(str, source.types), strict=True))
    names = list(source.columns)

    def reader(wanted: Sequence[str], rows: int) -> pa.RecordBatchReader:
        import pyarrow as pa

        quoted = {name: '"' + name.replace('"', '""') + '"' for name in wanted}
        # As decimals these would arrive negative from 2^127 on.
        text = [name for name in wanted if kinds[name] == "UHUGEINT"]
        parts = [f"CAST({q} AS VARCHAR) AS {q}" if name in text else q for name, q in quoted.items()]
        stream = pa.RecordBatchReader.from_stream(source.project(", ".join(parts)))
        return _cast(stream, wanted, dict.fromkeys(text, pa.decimal256(39, 0))) if text else stream

    return _batches(reader, names)


def _cast(stream: pa.RecordBatchReader, names: Sequence[str], types: Mapping[str, pa.DataType]) -> pa.RecordBatchReader:
    """A stream whose columns get these names, and some of them other types."""
    import pyarrow as pa

    fields = [pa.field(name, types.get(name, field.type)) for name, field in zip(names, stream.schema, strict=True)]
    schema = pa.schema(fields)
    batches = (
        pa.RecordBatch.from_arrays([batch[i].cast(field.type) for i, field in enumerate(fields)], schema=schema)
        for batch in stream
    )
    return pa.RecordBatchReader.from_batches(schema, batches)


def _spark(source: Any) -> Frame:
    """A data frame of Spark, of which only the wanted columns are computed."""
    if not hasattr(source, "toArrow"):
        raise TypeError("data frames of Spark need pyspark 4 or later")
    types = dict(source.dtypes)

    def chosen(wanted: Sequence[str], as_numbers: Sequence[str] = ()) -> Any:
        from pyspark.sql import functions

        columns = []
        for place, name in enumerate(wanted):
            column = functions.col("`" + name.replace("`", "``") + "`")
            column = functions.unix_micros(column) if name in as_numbers else column
            columns.append(column.alias(f"c{place}"))  # Spark's own stream cannot resolve names with dots
        return source.select(*columns)

    def columns(wanted: Sequence[str]) -> Mapping[str, Any]:
        return dict(zip(wanted, chosen(wanted).toArrow().columns, strict=True))

    def reader(wanted: Sequence[str], rows: int) -> pa.RecordBatchReader:
        import pyarrow as pa

        if not hasattr(source, "__arrow_c_stream__"):
            return _reader_of(columns)(wanted, rows)
        # Its stream refuses timestamps with a zone.
        stamps = [name for name in wanted if types[name] == "timestamp"]
        stream = pa.RecordBatchReader.from_stream(chosen(wanted, stamps))
        return _cast(stream, wanted, dict.fromkeys(stamps, pa.timestamp("us", "UTC")))

    return Frame(list(source.columns), True, False, columns, reader)
