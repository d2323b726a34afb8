"""``resemb graph build``: a graph of a log, with its options and statistics beside it."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resemb_ext.data.splits import HOWS
from resemb_ext.graph import WEIGHTINGS, InterestGraph
from resemb_ext.runtime.files import check_out, check_report, write_json

from .graph_common import add_log, command, print_table, read
from .graph_spark import add_spark, check_engine, spark_graph, spark_rows
from .graph_streamed import streamed

OPTIONS = (
    *("window", "max_gap", "session_gap", "decay", "min_count", "weighting", "damping"),
    *("category_edges", "category_weight", "top_k", "self_weight", "directed"),
)

_LEAST_MEMORY = 1 << 20  # with less, a build spends its time on the disk


def _run_build(args: argparse.Namespace) -> int:
    """``resemb graph build``: writes the graph and, beside it, its options and statistics as JSON."""
    if args.category_weight != 1 and not args.category_edges:
        raise ValueError("--category-weight needs --category-edges, whose weight it is")
    check_engine(args)
    if args.out is None:
        return _run_rows(args)
    if not args.out.parent.is_dir():
        raise FileNotFoundError(f"--out: folder {args.out.parent} does not exist")
    if args.out.is_dir():
        raise ValueError(f"--out: {args.out} is a folder, expected a file name")
    beside = args.out.with_name(args.out.name + ".json")
    for file in (args.out, beside):
        check_out(file, [args.data])
    check_report(beside, {"graph", "hash", "meta", "stats"})
    began = time.perf_counter()
    options = {name: getattr(args, name) for name in OPTIONS}
    common: dict[str, Any] = {
        "threads": args.threads,
        "keep_counts": args.keep_counts,
        "progress": True if sys.stderr.isatty() else _lines(),
    }
    if args.engine == "spark":
        graph = spark_graph(args, options)
    elif args.stream:
        graph = streamed(args, {**options, **common})
    else:
        for name in ("memory", "before", "spill_dir", "work_dir", "restart"):
            if getattr(args, name):
                raise ValueError(f"--{name.replace('_', '-')} needs --stream, which reads the log in batches")
        log = read(args)
        events: Any = log
        if args.split != "none":
            from resemb_ext.data import split

            events = split(log, args.split).train
        graph = InterestGraph.from_log(events, **options, **common)
    took = time.perf_counter() - began
    if args.work_dir is None:  # else it was saved before the work was removed
        graph.save(args.out)
    report = {
        "graph": str(args.out),
        "data": str(args.data),
        "split": args.split,
        "hash": graph.hash,
        "meta": graph.meta,
        "stats": graph.stats(),
        "build_s": took,
    }
    write_json(beside, report)
    print(f"{args.out}: {graph.meta['events']} events of {args.data} ({took:.2f} s)")
    print(f"{beside}: options and statistics")
    print_table(graph.stats())
    return 0


def _run_rows(args: argparse.Namespace) -> int:
    """Rows in Parquet files alone: the graph need not fit this process."""
    began = time.perf_counter()
    rows = spark_rows(args, {name: getattr(args, name) for name in OPTIONS}, args.rows)
    took = time.perf_counter() - began
    print(f"{args.rows}: {rows.meta['events']} events of {args.data} ({took:.2f} s)")
    print_table({"num_items": rows.num_items, "parts": rows.parts})
    return 0


def _lines() -> Callable[[int, int], None]:
    """A progress callback that prints a plain line every 10 seconds."""
    began = printed = time.monotonic()
    first: int | None = None

    def show(done: int, total: int) -> None:
        nonlocal printed, first
        if first is None:
            first = done  # of work that was there already
        now = time.monotonic()
        if now - printed >= 10:
            printed = now
            left = (now - began) * (total - done) / max(done - first, 1)
            print(f"graph: {100 * done // max(total, 1)} %, about {left:.0f} s left", file=sys.stderr, flush=True)

    return show


def add_build(commands: Any) -> None:
    build = command(
        commands,
        "build",
        "count co-occurrences in a log",
        "resemb graph build --data events.parquet --split leave-last-out --window 3 --top-k 10 --out graph.npz",
    )
    add_log(build, required=True, purpose="the log, in any format of resemb train; with --stream .parquet alone")
    build.add_argument("--out", type=Path, metavar="FILE", help="graph to write")
    build.add_argument(
        "--split",
        choices=("none", *HOWS),
        default="none",
        help="take the training events of this split only, so that a model trained with the graph"
        " sees no future edge (default: %(default)s, all events)",
    )
    build.add_argument("--window", type=int, default=3, help="positions between two events (default: %(default)s)")
    build.add_argument(
        "--top-k",
        type=_top_k,
        default=10,
        metavar="K",
        help='other items kept in a row, or "all" (default: %(default)s)',
    )
    build.add_argument("--min-count", type=int, default=1, help="smallest pair count (default: %(default)s)")
    build.add_argument("--max-gap", type=float, metavar="T", help="longest time between two events of a pair")
    build.add_argument(
        "--session-gap",
        type=float,
        metavar="T",
        help="a longer pause ends a session, as those of the session column do; no pair spans it",
    )
    build.add_argument(
        "--decay",
        type=_decay,
        metavar="F",
        help='what a pair at distance g counts: "inverse" (1/g) or a number r (r^(g-1)) (default: 1)',
    )
    build.add_argument("--weighting", choices=WEIGHTINGS, default="count", help="(default: %(default)s)")
    build.add_argument(
        "--damping",
        type=float,
        default=0.0,
        metavar="A",
        help="divide weights by (n_i n_j)^A, n the items' events (default: %(default)s)",
    )
    build.add_argument(
        "--category-edges",
        type=int,
        default=0,
        metavar="N",
        help="join every item to the N most frequent of its category (default: %(default)s)",
    )
    build.add_argument("--category-weight", type=float, default=1.0, metavar="W", help="their weight (default: 1)")
    build.add_argument(
        "--self-weight",
        type=_self_weight,
        default="max",
        metavar="W",
        help='"max" (the row\'s largest weight) or a number (default: %(default)s)',
    )
    build.add_argument("--directed", action="store_true", help="count a pair in its earlier item's row only")
    build.add_argument("--keep-counts", action="store_true", help="keep all pairs' counts, for InterestGraph.update")
    build.add_argument(
        "--stream",
        action="store_true",
        help="read a .parquet log in batches: it may be larger than memory; training cannot tell such a "
        "graph's events and takes it with --allow-future-edges only",
    )
    build.add_argument(
        "--memory",
        type=_bytes,
        metavar="SIZE",
        help="with --stream: spill beyond it, for example 4G; at least 1M; with --engine spark: its heap, where it is local",
    )
    build.add_argument(
        "--spill-dir", type=Path, metavar="DIR", help="with --stream: folder to spill to (default: that of the system)"
    )
    build.add_argument(
        "--work-dir",
        type=Path,
        metavar="DIR",
        help="with --stream: keep the work there, so that the same command goes on after a kill; removed at the end",
    )
    build.add_argument("--restart", action="store_true", help="with --work-dir: drop the work that it holds")
    build.add_argument(
        "--before",
        type=_number,
        metavar="T",
        help="with --stream or --engine spark: use events before this time only (of dates: Unix seconds)",
    )
    build.add_argument("--threads", type=int, help="worker threads (default: all CPUs)")
    add_spark(build)
    build.set_defaults(run=_run_build)


def _number(text: str) -> int | float:
    """Integers stay exact: beyond 2**53 a float is another time."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise argparse.ArgumentTypeError(f"{text!r}, expected a number")


def _top_k(text: str) -> int | None:
    try:
        return None if text == "all" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r}, expected a whole number or "all"') from None


def _decay(text: str) -> str | float:
    try:
        return text if text == "inverse" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r}, expected "inverse" or a number') from None


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMGT]?)(i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a size such as 800M or 4G")
    size = int(match[1]) << 10 * ["", "K", "M", "G", "T"].index(match[2].upper())
    if size < _LEAST_MEMORY:
        unit = "" if match[2] or match[3] else f"; write {match[1]}G for {match[1]} gigabytes"
        raise argparse.ArgumentTypeError(f"{text!r} is {size:,} bytes, expected at least 1M{unit}")
    return size


def _self_weight(text: str) -> str | float:
    try:
        return text if text == "max" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r}, expected "max" or a number') from None
