"""Events as Spark reads them: their columns, their order, and what is wrong with them before pairs are counted."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from resemb_ext.data import IdMap
from resemb_ext.graph.checks import INT32_MAX
from resemb_ext.graph.streamed import cut_of

_WHOLE = (T.ByteType, T.ShortType, T.IntegerType, T.LongType)
_SPAN = 2**63  # the difference of two times is a 64-bit integer


class Events(NamedTuple):
    """Events that count.

    Attributes:
        frame: columns ``keys``, ``order`` and "item", an int in [0, num_items).
        keys: columns of a history: "user", perhaps "session".
        order: columns by which a history is sorted, "time" (bigint or double) first where there are times.
        size: how many.
        last: the latest time, or None.
        unit: dtype of dates, whose ticks times are, or None.
        largest_item: or -1.
    """

    frame: DataFrame
    keys: list[str]
    order: list[str]
    size: int
    last: int | float | None
    unit: str | None
    largest_item: int


class Table(NamedTuple):
    """Columns of events by field, in their own types, before any is read."""

    frame: DataFrame
    names: dict[str, str]  # of each field its column, for messages
    place: list[str]  # columns that say where a row lies; empty: rows have no order
    unit: str | None

    def kind(self, field: str) -> T.DataType:
        return self.frame.schema[field].dataType


def url_of(path: str | os.PathLike[str]) -> str:
    """A path as Spark takes it, whatever its own file system is."""
    text = os.fspath(path)
    return text if "://" in text else f"file://{Path(text).absolute()}"


def open_table(spark: SparkSession, events: Any, names: Mapping[str, str | None]) -> Table:
    """The columns of a DataFrame or of Parquet files; nothing is read but schemas.

    Raises:
        FileNotFoundError, ValueError, TypeError: no such file, no such column, a column of another type.
    """
    wanted = {field: name for field, name in names.items() if name is not None}
    frame, place = _opened(spark, events, wanted)
    if "user" in wanted and "time" not in wanted and "order" not in wanted and not place:
        raise ValueError("time is None and a DataFrame has no order of its own; name the column that orders it (order)")
    table = Table(frame, wanted, place, None)
    return table._replace(unit=_unit_of(table)) if "time" in wanted else table


def _opened(spark: SparkSession, events: Any, wanted: dict[str, str]) -> tuple[DataFrame, list[str]]:
    if hasattr(events, "toDF") and hasattr(events, "schema"):
        at = _places(events.columns, wanted)
        numbered = events.toDF(*(f"c{k}" for k in range(len(events.columns))))
        return numbered.select(*(F.col(f"c{k}").alias(field) for field, k in at.items())), []
    several = isinstance(events, Sequence) and not isinstance(events, (str, bytes))
    paths = [_existing(path) for path in (events if several else [events])]
    if not paths:
        raise ValueError("events is empty, expected at least one Parquet file")
    files = [_read(spark, path, number, wanted) for number, path in enumerate(paths)]
    if len({str(file.schema) for file in files}) > 1:
        raise ValueError("events: the files hold columns of different types")
    frame = files[0]
    for file in files[1:]:
        frame = frame.unionByName(file)
    return frame, ["place_file", "place_name", "place_row"]


def _existing(path: Any) -> str:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            f"events is a {type(path).__name__}, expected a Spark DataFrame, a path of Parquet files, or paths"
        )
    text = os.fspath(path)
    if "://" not in text and not Path(text).exists():
        raise FileNotFoundError(f"events: no file {text}")
    return text


def _read(spark: SparkSession, path: str, number: int, wanted: dict[str, str]) -> DataFrame:
    frame = spark.read.parquet(re.sub(r"([\\*?\[\]{}])", r"\\\1", url_of(path)))
    at = _places(frame.columns, wanted)
    columns = [F.col("`" + frame.columns[k].replace("`", "``") + "`").alias(field) for field, k in at.items()]
    return frame.select(
        *columns,
        F.lit(number).alias("place_file"),
        F.col("_metadata.file_path").alias("place_name"),
        F.col("_metadata.row_index").alias("place_row"),
    )


def _places(found: list[str], wanted: dict[str, str]) -> dict[str, int]:
    for field, name in wanted.items():
        if name not in found:
            raise ValueError(f"no column {name!r} (the {field}), found {', '.join(found) or 'none'}")
        if found.count(name) > 1:
            raise ValueError(f"the events have {found.count(name)} columns {name!r}, expected one; rename them")
    return {field: found.index(name) for field, name in wanted.items()}


def _unit_of(table: Table) -> str | None:
    kind = table.kind("time")
    if isinstance(kind, (T.TimestampType, T.TimestampNTZType)):
        return "<M8[us]"
    if isinstance(kind, T.DateType):
        return "<M8[D]"
    if not isinstance(kind, (*_WHOLE, T.FloatType, T.DoubleType, T.DecimalType)):
        raise TypeError(
            f"column {table.names['time']!r} is {kind.simpleString()}, expected times as numbers, timestamps or dates"
        )
    return None


def _time(table: Table) -> Column:
    """Times as a bigint or double: of dates, microseconds or days since 1970."""
    kind, time = table.kind("time"), F.col("time")
    if isinstance(kind, T.TimestampType):
        return F.unix_micros(time)
    if isinstance(kind, T.TimestampNTZType):  # not by way of TIMESTAMP, which the session's time zone would move
        since = time - F.lit("1970-01-01 00:00:00").cast("timestamp_ntz")
        part = {name: F.extract(F.lit(name), since) for name in ("DAY", "HOUR", "MINUTE", "SECOND")}
        minutes = (part["DAY"].cast("bigint") * 24 + part["HOUR"]) * 60 + part["MINUTE"]
        return minutes * 60_000_000 + (part["SECOND"] * 1_000_000).cast("bigint")
    if isinstance(kind, T.DateType):
        return F.unix_date(time).cast("bigint")
    if isinstance(kind, _WHOLE) or (isinstance(kind, T.DecimalType) and kind.scale <= 0):
        return time.cast("bigint")
    number = time.cast("double")
    return F.when(number == 0, F.lit(0.0)).otherwise(number)  # -0.0 is no earlier than 0.0


def _ticks(before: Any, unit: str | None, whole: bool) -> Any:
    """``before`` in the units of a time column: the least number that is not before it."""
    cut = cut_of(before, unit)
    if unit is None:
        return math.ceil(cut) if whole else float(cut)
    floor = cut.astype(unit)
    return int(floor.astype(np.int64)) + int(floor < cut)


def checked(table: Table, items: IdMap | None, before: Any, num_items: int | None, padding: int | None) -> Events:
    """The events that count, after one pass over them that finds what cannot be counted.

    Raises:
        ValueError, IndexError, TypeError: naming the column.
    """
    _check_items(table, items)
    frame, names = table.frame, table.names
    if "time" in names:
        frame = frame.withColumn("time", _time(table))
    whole = "time" in names and isinstance(frame.schema["time"].dataType, T.LongType)
    use = F.lit(True)
    if "label" in names:
        use = F.col("label").cast("double") == 1
    if before is not None:
        use = use & (F.col("time") < F.lit(_ticks(before, table.unit, whole)))
    count, last, largest = _survey(table, frame, use, items, num_items, padding)
    order = ["time"] if "time" in names else []
    order += ["order"] if "order" in names else []
    keys = ["user", "session"] if "session" in names else ["user"]
    frame = frame.where(use)
    if items is None:
        frame = frame.withColumn("item", F.col("item").cast("int"))
    else:
        frame, largest = _numbered(frame, items), items.size - 1
    order += table.place or ["item"]
    frame = frame.select(*dict.fromkeys([*keys, *order, "item"]))
    return Events(frame, keys, order, count, last, table.unit, largest)


def _check_items(table: Table, items: IdMap | None) -> None:
    kind, name = table.kind("item"), table.names["item"]
    whole = isinstance(kind, _WHOLE) or (isinstance(kind, T.DecimalType) and kind.scale <= 0 and kind.precision <= 18)
    if items is None:
        if not whole:
            raise TypeError(
                f"column {name!r} is {kind.simpleString()}, expected integers; items=rx.data.IdMap.fit(...) numbers others"
            )
        return
    if not isinstance(items, IdMap):
        raise TypeError(f"items is a {type(items).__name__}, expected an rx.data.IdMap")
    if items.kind == "uint64":
        raise ValueError("items: ids beyond 2**63 - 1 are not offered by Spark; give them as text")
    if not (isinstance(kind, T.StringType) if items.kind == "text" else whole):
        raise TypeError(
            f"column {name!r} is {kind.simpleString()}, but items was made from {items.kind} ids; convert the column"
        )


def _survey(
    table: Table, frame: DataFrame, use: Column, items: IdMap | None, num_items: int | None, padding: int | None
) -> tuple[int, int | float | None, int]:
    """Events that count, their latest time, and their largest item (-1 where ``items`` numbers them)."""
    names = table.names

    def of_used(column: Column) -> Column:
        return F.when(use, column)

    figures = {f"null_{field}": F.count_if(F.col(field).isNull()) for field in names}
    figures["count"] = F.count_if(use)
    if "label" in names:
        figures["labels"] = F.count_if(~F.col("label").cast("double").isin(0.0, 1.0))
    if "time" in names:
        time = F.col("time")
        figures |= {"first": F.min(of_used(time)), "last": F.max(of_used(time))}
        if isinstance(frame.schema["time"].dataType, T.DoubleType):
            figures["unbounded"] = F.count_if(use & (F.isnan(time) | (F.abs(time) == math.inf)))
    if items is None:
        item = F.col("item").cast("bigint")
        figures |= {"least": F.min(of_used(item)), "largest": F.max(of_used(item))}
        if padding is not None:
            figures["padded"] = F.count_if(use & (item == padding))
    elif items.kind == "text":
        figures["empty"] = F.count_if(F.col("item") == "")
    found = frame.agg(*(column.alias(name) for name, column in figures.items())).first()
    assert found is not None
    for field, name in names.items():
        if found[f"null_{field}"]:
            raise ValueError(f"column {name!r} (the {field}) has {found[f'null_{field}']:,} nulls, expected none")
    seen = found.asDict()
    if seen.get("labels"):
        raise ValueError(f"column {names['label']!r} has {seen['labels']:,} labels other than 0 and 1")
    if seen.get("unbounded"):
        raise ValueError(f"column {names['time']!r} has {seen['unbounded']:,} times that are not finite")
    if seen.get("empty"):
        raise ValueError(f"column {names['item']!r} has {seen['empty']:,} empty ids")
    if table.unit is None and isinstance(seen.get("last"), int) and seen["last"] - seen["first"] >= _SPAN:
        raise ValueError(f"column {names['time']!r} spans more than 2**63 - 1, from {seen['first']} to {seen['last']}")
    if items is None and seen["count"]:
        _check_range(names["item"], seen["least"], seen["largest"], num_items)
    if seen.get("padded"):
        raise ValueError(
            f"column {names['item']!r} holds padding_idx = {padding} in {seen['padded']:,} rows; drop padding from the"
            " events before building"
        )
    return seen["count"], seen.get("last"), -1 if seen.get("largest") is None else seen["largest"]


def _check_range(name: str, least: int, largest: int, num_items: int | None) -> None:
    height = INT32_MAX - 1 if num_items is None else num_items
    wrong = least if least < 0 else largest if largest >= height else None
    if wrong is not None:
        shown = "2**31 - 2" if num_items is None else num_items
        raise IndexError(f"column {name!r} holds {wrong}, expected ids in [0, num_items = {shown})")


def _numbered(frame: DataFrame, items: IdMap) -> DataFrame:
    """Raw items as their numbers; those that the map has not seen get its out-of-vocabulary number."""
    numbers = np.arange(items.first, items.oov, dtype=np.int32)
    values = pa.array(items.values, pa.string() if items.kind == "text" else pa.int64())
    known = frame.sparkSession.createDataFrame(pa.table({"raw": values, "number": numbers}))
    raw = F.col("item") if items.kind == "text" else F.col("item").cast("bigint")
    joined = frame.withColumn("raw", raw).join(known, "raw", "left")
    return joined.withColumn("item", F.coalesce("number", F.lit(items.oov).cast("int")))
