"""Pairs of events that lie close together in a history, by window functions of Spark."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, Window, WindowSpec
from pyspark.sql import functions as F
from pyspark.sql import types as T

from .spark_events import Events

MOST_WINDOW = 128  # a plan has a column for every distance
_MOST_PIECES = 10_000  # of a history
_BITS = 31  # of an item


def capped(events: Events, most: int) -> Events:
    """With the last ``most`` events of every history alone."""
    latest = Window.partitionBy(*events.keys).orderBy(*(F.col(name).desc() for name in events.order))
    frame = events.frame.withColumn("age", F.row_number().over(latest)).where(F.col("age") <= most).drop("age")
    return events._replace(frame=frame, size=frame.count())


def counted(events: Events, native: dict[str, Any], split: int | None) -> DataFrame:
    """The mass of every pair of items: int "left" and "right", bigint "mass".

    Of a directed graph, left is the item that comes first; else the smaller one.

    Args:
        native: options as ``Options.native`` gives them.
        split: cut histories of more events into pieces of about this many.
    """
    pieces = None if split is None else _pieces(events, split)
    if pieces is None:
        pairs = _pairs(events.frame, events.keys, events.order, native)
    else:
        pairs = _pairs(pieces, [*events.keys, "piece"], events.order, native).unionByName(
            _pairs(_seams(pieces, events, native["window"]), events.keys, events.order, native, across="piece")
        )
    first, second = F.col("item").cast("bigint"), F.col("other").cast("bigint")
    if not native["directed"]:
        first, second = F.least(first, second), F.greatest(first, second)
    # One key of 8 bytes is hashed and shuffled faster than two.
    both = F.shiftleft(first, _BITS).bitwiseOR(second)
    if native["mass"] is None:
        mass = F.count(F.lit(1))
    else:
        of = F.array(*(F.lit(int(m)) for m in native["mass"]))
        mass = F.sum(F.element_at(of, F.col("distance").cast("int")).cast("bigint"))
    return (
        pairs.groupBy(both.alias("pair"))
        .agg(mass.alias("mass"))
        .select(
            F.shiftright("pair", _BITS).cast("int").alias("left"),
            F.col("pair").bitwiseAND((1 << _BITS) - 1).cast("int").alias("right"),
            "mass",
        )
    )


def _pairs(
    frame: DataFrame, keys: list[str], order: list[str], native: dict[str, Any], across: str | None = None
) -> DataFrame:
    """Columns "item", "distance" (text) and "other" of all pairs; ``across``: of those that differ in this column."""
    history = Window.partitionBy(*keys).orderBy(*order)
    session, gap = _limit(frame, native, "session"), _limit(frame, native, "gap")
    if session is not None:
        pause = F.col("time") - F.lag("time").over(history)
        frame = frame.withColumn("starts", F.when(pause > session, 1).otherwise(0))
        until = history.rowsBetween(Window.unboundedPreceding, Window.currentRow)
        frame = frame.withColumn("stay", F.sum("starts").over(until))
    others = {}
    for distance in range(1, native["window"] + 1):
        others[str(distance)] = _other(history, distance, session is not None, gap, across)
    near = frame.select("item", *(other.alias(name) for name, other in others.items()))
    return near.unpivot("item", list(others), "distance", "other").where(F.col("other").isNotNull())


def _other(history: WindowSpec, distance: int, stays: bool, gap: Column | None, across: str | None) -> Column:
    """The item so many places later, or null where it makes no pair."""

    def later(name: str) -> Column:
        return F.lead(name, distance).over(history)

    fits = later("item") != F.col("item")
    if stays:
        fits = fits & (later("stay") == F.col("stay"))
    if gap is not None:
        fits = fits & (later("time") - F.col("time") <= gap)
    if across is not None:
        fits = fits & (later(across) != F.col(across))
    return F.when(fits, later("item"))


def _limit(frame: DataFrame, native: dict[str, Any], name: str) -> Column | None:
    """A longest time in the type of the times."""
    if native[f"int_{name}"] < 0:
        return None
    whole = isinstance(frame.schema["time"].dataType, T.LongType)
    return F.lit(native[f"int_{name}"] if whole else native[f"float_{name}"])


def _pieces(events: Events, split: int) -> DataFrame | None:
    """The events with int "piece" and bool "heavy": histories of more than ``split`` events are cut by time.

    Events of one time stay together, whatever their number. None where no history is that long.
    """
    frame, keys = events.frame, events.keys
    sizes = frame.groupBy(*keys).agg(F.count(F.lit(1)).alias("size")).where(F.col("size") > split)
    top = sizes.agg(F.max("size")).first()
    if top is None or top[0] is None:
        return None
    most = min(math.ceil(top[0] / split), _MOST_PIECES)
    shares = [k / most for k in range(1, most)]
    found = (
        frame.join(F.broadcast(sizes), keys)
        .groupBy(*keys)
        .agg(F.percentile_approx("time", shares, 10 * most).alias("at"), F.max("size").alias("size"))
    )
    # Collected: a quantile that is estimated anew, in a task that is run again, may be another one.
    collected = found.toArrow()
    cuts = []
    for at, size in zip(collected["at"].to_pylist(), collected["size"].to_pylist(), strict=True):
        pieces = min(math.ceil(size / split), most)
        cuts.append(sorted({at[round(k * most / pieces) - 1] for k in range(1, pieces)}))
    # By Arrow: of a list of rows, executors would unpack each in a Python of their own.
    table = collected.select(keys).append_column("cuts", pa.array(cuts, collected["at"].type))
    known = frame.sparkSession.createDataFrame(table)
    before = F.size(F.filter("cuts", lambda cut: cut <= F.col("time")))
    heavy = F.col("cuts").isNotNull()
    return (
        frame.join(F.broadcast(known), keys, "left")
        .withColumn("piece", F.when(heavy, before).otherwise(0))
        .withColumn("heavy", heavy)
        .drop("cuts")
    )


def _seams(pieces: DataFrame, events: Events, window: int) -> DataFrame:
    """The first and last ``window`` events of every piece: those that make pairs with another piece.

    Where a piece has more, some between are left out. But a window over an event that is left reaches no other piece
    past them.
    """
    within = [*events.keys, "piece"]
    first = F.row_number().over(Window.partitionBy(*within).orderBy(*events.order))
    last = F.row_number().over(Window.partitionBy(*within).orderBy(*(F.col(name).desc() for name in events.order)))
    ends = pieces.where("heavy").withColumn("from_first", first).withColumn("from_last", last)
    return ends.where((F.col("from_first") <= window) | (F.col("from_last") <= window))
