"""``resemb graph build --engine spark``: Spark counts the pairs, here or on a cluster."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from resemb_ext.graph import GraphRows, InterestGraph
from resemb_ext.runtime.files import staging

from .graph_common import columns_of
from .graph_streamed import check_numbers, of_times

_SPARK = ("rows", "parts", "master", "spark_conf", "max_user_events", "split_user_events")
# Of the other engine alone.
_NATIVE = ("stream", "spill_dir", "work_dir", "restart", "keep_counts", "category_edges", "delimiter", "drop_null")


def add_spark(build: argparse.ArgumentParser) -> None:
    """Adds ``--engine`` and what it takes to ``graph build``."""
    build.add_argument(
        "--engine",
        choices=("native", "spark"),
        default="native",
        help="spark counts a .parquet log, or a folder of them, here or on a cluster (default: %(default)s)",
    )
    build.add_argument(
        "--master", metavar="URL", help='with --engine spark: a cluster, as "spark://host:7077" (default: local[*])'
    )
    build.add_argument(
        "--rows",
        type=Path,
        metavar="DIR",
        help="with --engine spark: new folder for the rows as Parquet; --out may then be left out",
    )
    build.add_argument("--parts", type=int, metavar="N", help="with --rows: parts of the folder (default: 64)")
    build.add_argument(
        "--max-user-events",
        type=int,
        metavar="N",
        help="with --engine spark: only the latest N events of a user (or session) count",
    )
    build.add_argument(
        "--split-user-events",
        type=int,
        metavar="N",
        help="with --engine spark: sort longer histories in pieces; the graph stays the same",
    )
    build.add_argument(
        "--spark-conf",
        action="append",
        metavar="KEY=VALUE",
        help="with --engine spark: a configuration of Spark; may be given several times",
    )


def check_engine(args: argparse.Namespace) -> None:
    """ValueError where options of one engine are given to the other, and where there is nothing to write."""
    spark = args.engine == "spark"
    if not spark:
        for name in _SPARK:
            if getattr(args, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} needs --engine spark")
    else:
        for name in _NATIVE:
            if getattr(args, name):
                raise ValueError(f"--{name.replace('_', '-')} is not offered by --engine spark; leave out one of them")
        if args.split != "none":
            raise ValueError("--split needs the whole log; with --engine spark give the cut as --before TIME")
        if args.threads is not None and args.master is not None:
            raise ValueError("--threads and --master are both given; --master 'local[N]' takes N threads")
    if args.out is None and args.rows is None:
        raise ValueError(f"--out is missing, expected the file to write{' (or --rows, a folder)' if spark else ''}")


def spark_graph(args: argparse.Namespace, options: dict[str, Any]) -> InterestGraph:
    """The graph; its rows stay where ``--rows`` names a folder."""
    if args.rows is not None:
        return InterestGraph.from_rows(spark_rows(args, options, args.rows))
    with staging(args.out) as folder:
        return InterestGraph.from_rows(spark_rows(args, options, folder / "rows"))


def spark_rows(args: argparse.Namespace, options: dict[str, Any], folder: Path) -> GraphRows:
    """The rows, in a new folder; ids are numbered as ``read_log`` numbers them."""
    from resemb_ext.integrations import spark

    columns, dates = _columns(args)
    options, before = of_times(dates, options, args.before)
    options = {name: value for name, value in options.items() if not name.startswith("category_")}
    config = dict(_pair(text) for text in args.spark_conf or [])
    master = args.master if args.threads is None else f"local[{args.threads}]"
    with spark.session(master, args.memory, config or None) as running:
        return spark.interest_graph(
            args.data,
            folder,
            **columns,
            before=before,
            items=spark.id_map(args.data, columns["item"], spark=running),
            padding_idx=0,
            max_user_events=args.max_user_events,
            split_user_events=args.split_user_events,
            parts=64 if args.parts is None else args.parts,
            spark=running,
            **options,
        )


def _columns(args: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """The log's columns by field, and whether its times are dates."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from resemb_ext.data.columns import resolve_columns
    from resemb_ext.data.kinds import PARQUET

    files = [args.data] if args.data.is_file() else sorted(args.data.rglob("*.parquet"))
    if not files or files[0].suffix.lower() not in PARQUET:
        raise ValueError(f"--data {args.data}: --engine spark needs a .parquet file, or a folder of them")
    try:
        schema = pq.read_schema(files[0])
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"cannot read {str(files[0])!r}: {error}") from None
    wanted = {**columns_of(args), "category": False}
    if args.category_column:
        raise ValueError("--category-column is for --category-edges; leave it out with --engine spark")
    found = resolve_columns(schema.names, wanted, args.data.name).by_field
    columns = {field: found[field] for field in wanted if field in found}
    check_numbers(schema, columns, "--engine spark")
    kind = schema.field(columns["time"]).type
    return columns, pa.types.is_timestamp(kind) or pa.types.is_date(kind)


def _pair(text: str) -> tuple[str, str]:
    key, mark, value = text.partition("=")
    if not mark or not key:
        raise ValueError(f"--spark-conf is {text!r}, expected KEY=VALUE")
    return key, value
