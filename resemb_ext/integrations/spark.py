"""Spark 4: interest graphs of logs that one machine does not hold, as rows in Parquet files.

Also as ``rx.spark``.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resemb_ext.data import IdMap
from resemb_ext.graph import GraphRows, checks, numbering
from resemb_ext.graph.events import Totals, meta_of
from resemb_ext.graph.options import Options
from resemb_ext.graph.rows import file_system, write_header
from resemb_ext.runtime.files import staging

try:
    from pyspark.sql import DataFrame, SparkSession
except ImportError as error:
    raise ImportError(f'pyspark cannot be imported ({error}); pip install "resemb_ext[spark]"') from error

from . import spark_events, spark_histories, spark_session, spark_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Unpack

    from resemb_ext.graph.options import BuildOptions

__all__ = ["id_map", "interest_graph", "session"]

session = spark_session.session

_LACKS = {
    "category": "InterestGraph.from_categories and InterestGraph.mixed add edges of categories",
    "category_edges": "InterestGraph.from_categories and InterestGraph.mixed add edges of categories",
    "category_weight": "InterestGraph.from_categories and InterestGraph.mixed add edges of categories",
    "keep_counts": "only graphs of InterestGraph keep counts for update",
    "threads": 'master="local[N]" takes N threads',
}


def interest_graph(
    events: DataFrame | str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    user: str = "user_id",
    item: str = "item_id",
    time: str | None = "timestamp",
    label: str | None = None,
    session: str | None = None,
    order: str | None = None,
    before: Any = None,
    items: IdMap | None = None,
    num_items: int | None = None,
    padding_idx: int | None = None,
    max_user_events: int | None = None,
    split_user_events: int | None = None,
    parts: int = 64,
    spark: SparkSession | None = None,
    master: str | None = None,
    memory: int | None = None,
    config: Mapping[str, str] | None = None,
    **options: Unpack[BuildOptions],
) -> GraphRows:
    """The graph of ``InterestGraph.from_events``, counted by Spark and written as rows.

    Rows, weights and degrees are those of ``InterestGraph.from_events``, whose options these are. They are equal to the
    bit but for ``weighting="ppmi"`` and ``damping``: a logarithm or power of Java may differ from that of the C library
    in the last bit of a double, and so a float32 weight in its last bit.

    Pairs come from ``lead(item, 1)`` to ``lead(item, window)`` over each user's order; the log is never joined with
    itself. The events are read two to five times, so ``persist()`` a query that is dear. A user's events are sorted in
    one task, which spills to disk; ``max_user_events`` and ``split_user_events`` are for users with very many.

    Args:
        events: a Spark DataFrame; or Parquet files: one, a folder, or several, whose rows follow each other.
        out: folder to write, which must not be there: local, or on disks that all hosts share; or a URI that both Spark
            and ``pyarrow.fs`` know, such as s3://bucket/graph.
        user, item: names of columns, of users of any type, and of items, integers in [0, num_items).
        time: column of numbers, timestamps or dates; None: rows are in time order, or ``order`` is that order.
        label: column of 0/1 or booleans; only rows with 1 count.
        session: column; only events of one user and session make pairs.
        order: column by which events of one time are sorted. Without it, rows of files keep their order, and rows of a
            DataFrame, which have none, are sorted by item.
        before: only events of a time below it count, as of ``InterestGraph.from_parquet``.
        items: map of raw items to numbers; what it has not seen gets its out-of-vocabulary number.
        num_items: H; None means items.size or the largest id + 1.
        padding_idx: as of ``InterestGraph.from_events``.
        max_user_events: only the latest so many events of each user (or session) count. This changes the graph: it is
            that of the log without the earlier ones.
        split_user_events: histories with more events are cut by time into pieces of about this many, which are sorted
            in tasks of their own. Pieces overlap by ``window`` events, so the graph stays the same. Events of one time
            stay in one piece.
        parts: folders that the rows are dealt to, item i to i mod parts. W processes read no row of another one where
            W divides it. For graphs of more than some hundred million rows, more.
        spark: a running session; None takes that of the DataFrame, the active one, or starts one for this call.
        master: of a session that is started: "local[*]" (default) embeds Spark in this process, "spark://host:7077",
            "yarn" and others use a cluster.
        memory: bytes of the heap of an embedded Spark, at least 512 MiB; None means half of the machine's. The first
            session of a process settles it; asking a later one for more is an error.
        config: further options of a session that is started.
        options: those of ``InterestGraph.from_events`` but for ``category``, ``category_edges``, ``category_weight``,
            ``keep_counts`` and ``threads``; window is at most 128.

    Returns:
        The folder. ``InterestGraph.from_rows`` makes a graph of it, ``GraphRows.shard`` reads the rows of one of
        several processes.

    Raises:
        FileNotFoundError: no such file, no folder to write to, no Java.
        FileExistsError: ``out`` is there.
        OSError: a Java below 17, a job that fails, a full disk; of Spark's own errors, the line that names the cause.
        IndexError: an item id outside [0, num_items).
        ValueError, TypeError: as ``InterestGraph.from_events``; an option that Spark lacks; no such column.
    """
    for name, value in options.items():
        if name in _LACKS:
            raise ValueError(f"{name} is {value!r:.60}, which Spark does not offer; {_LACKS[name]}")
    if before is not None and time is None:
        raise ValueError(f"before is {before!r} but time is None; name the column of times")
    for name, value in (("max_user_events", max_user_events), ("split_user_events", split_user_events)):
        if value is not None:
            checks.whole_number(name, value, 1)
    if split_user_events is not None and time is None:
        raise ValueError("split_user_events cuts histories by time, and time is None")
    parts = checks.whole_number("parts", parts, 1, 1 << 20)
    if num_items is None and items is not None:
        num_items = items.size
    if num_items is not None:
        num_items = checks.whole_number("num_items", num_items, 1, checks.INT32_MAX - 1)
    if padding_idx is not None:
        padding_idx = checks.whole_number("padding_idx", padding_idx, 0, None if num_items is None else num_items - 1)
    Options.of(dict(options), "<M8[us]", True)  # what is wrong whatever the times are, before Spark starts
    _check_out(out)
    columns = {"user": user, "item": item, "time": time, "label": label, "session": session, "order": order}
    given = getattr(events, "sparkSession", None) or spark
    with spark_session.session(master, memory, config, given=given) as running:
        table = spark_events.open_table(running, events, columns)
        chosen = Options.of(dict(options), table.unit, time is not None)
        found = spark_events.checked(table, items, before, num_items, padding_idx)
        if max_user_events is not None:
            found = spark_histories.capped(found, max_user_events)
        height = num_items or max(found.largest_item, -1 if padding_idx is None else padding_idx) + 1
        if not height:
            raise ValueError("num_items is None and there are no events; give num_items")
        native = chosen.native(num_items=height, events=found.size, padding=padding_idx, category=None)
        if native["window"] > spark_histories.MOST_WINDOW:
            raise ValueError(f"window is {chosen.window}, expected at most {spark_histories.MOST_WINDOW} with Spark")
        counted = spark_histories.counted(found, native, split_user_events)
        rows = spark_weights.rows_of(counted, found, native, parts)
        meta = {
            **meta_of(chosen, height, padding_idx, Totals(found.size, found.last), table.unit),
            **dict.fromkeys(("event_digest", "event_hash")),  # of events in their order, which Spark has not
            **({"sessions": True} if session is not None else {}),
            **numbering.of_maps(items, None, False),
            "spark": {"version": running.version, "max_user_events": max_user_events},
        }
        with _written(out, running) as folder:
            ordered = rows.sortWithinPartitions("part", "item")
            ordered.write.partitionBy("part").parquet(spark_events.url_of(folder))
            write_header(folder, height, parts, meta)
            _check_written(folder, height)
    return GraphRows(out)


def id_map(
    events: DataFrame | str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    item: str = "item_id",
    *,
    first: int = 1,
    spark: SparkSession | None = None,
    master: str | None = None,
    memory: int | None = None,
    config: Mapping[str, str] | None = None,
) -> IdMap:
    """The map of all distinct ids of a column, which ``rx.data.IdMap.fit`` makes of them: they must fit in memory.

    Args:
        events, spark, master, memory, config: as of ``interest_graph``.
        item: name of the column, integers or text.
        first: number of the first id; 1 leaves 0 to padding.

    Raises:
        ValueError: nulls or empty ids; no such column.
        TypeError: ids that are neither integers nor text.
        FileNotFoundError, OSError: as ``interest_graph``.
    """
    given = getattr(events, "sparkSession", None) or spark
    with spark_session.session(master, memory, config, given=given) as running:
        table = spark_events.open_table(running, events, {"item": item})
        ids = table.frame.select("item").distinct().toArrow()["item"]
    if ids.null_count:
        raise ValueError(f"column {item!r} holds nulls, expected an item in every row")
    return IdMap.fit(ids, first=first, name=item)


def _check_out(out: str | os.PathLike[str]) -> None:
    files, root = file_system(out)
    from pyarrow.fs import FileType

    if files.get_file_info(root).type != FileType.NotFound:
        raise FileExistsError(errno.EEXIST, "out is there already, expected a new folder", os.fspath(out))
    if "://" not in os.fspath(out) and not Path(out).absolute().parent.is_dir():
        raise FileNotFoundError(f"out: folder {Path(out).absolute().parent} does not exist")


@contextmanager
def _written(out: str | os.PathLike[str], running: SparkSession) -> Iterator[str]:
    """Where to write what then lies at ``out`` as a whole.

    A cluster writes in place, as other hosts and users could not write into a private folder; the header comes last.
    """
    target = Path(out).absolute()
    if "://" in os.fspath(out):
        yield os.fspath(out)
    elif running.conf.get("spark.master", "").startswith("local"):
        with staging(target) as folder:
            yield str(folder / target.name)
            os.rename(folder / target.name, target)
    else:
        try:
            yield str(target)
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise


def _check_written(folder: str, height: int) -> None:
    """OSError where the driver does not see all rows: on a cluster, a local path of each host."""
    stored = GraphRows(folder).num_rows()
    if stored != height:
        raise OSError(
            f"out: {stored:,} of {height:,} rows are seen here; on a cluster, out must lie on disks that all hosts share"
        )
