"""``resemb graph build``: a graph of a log, with its options and statistics beside it."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from resemb_ext.data.splits import HOWS
from resemb_ext.graph import WEIGHTINGS, InterestGraph
from resemb_ext.runtime.files import check_out, check_report, write_json

from .graph_common import add_log, columns_of, command, print_table, read

OPTIONS = (
    *("window", "max_gap", "session_gap", "decay", "min_count", "weighting", "damping"),
    *("category_edges", "category_weight", "top_k", "self_weight", "directed"),
)

_LEAST_MEMORY = 1 << 20  # with less, a build spends its time on the disk


def _run_build(args: argparse.Namespace) -> int:
    """``resemb graph build``: writes the graph and, beside it, its options and statistics as JSON."""
    if not args.out.parent.is_dir():
        raise FileNotFoundError(f"--out: folder {args.out.parent} does not exist")
    if args.out.is_dir():
        raise ValueError(f"--out: {args.out} is a folder, expected a file name")
    if args.category_weight != 1 and not args.category_edges:
        raise ValueError("--category-weight needs --category-edges, whose weight it is")
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
    if args.stream:
        graph = _streamed(args, {**options, **common})
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


def _streamed(args: argparse.Namespace, options: dict[str, Any]) -> InterestGraph:
    """The graph of a Parquet log read in batches, its ids numbered as ``read_log`` numbers them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from resemb_ext.data import IdMap
    from resemb_ext.data.columns import resolve_columns
    from resemb_ext.data.kinds import PARQUET

    if args.split != "none":
        raise ValueError("--split needs the whole log; with --stream give the cut as --before TIME")
    if options["category_edges"]:
        raise ValueError("--category-edges needs the whole log; leave out --stream")
    if not args.data.is_file() or args.data.suffix.lower() not in PARQUET:
        several = "; InterestGraph.from_parquet takes several in Python" if args.data.is_dir() else ""
        raise ValueError(f"--data {args.data}: --stream needs a .parquet file{several}")
    if args.restart and args.work_dir is None:
        raise ValueError("--restart needs --work-dir, whose work it drops")
    if args.delimiter is not None:
        raise ValueError("--delimiter is for text files; --stream reads .parquet")
    if args.drop_null:
        raise ValueError("--drop-null needs the whole log; leave out --stream, or write a log without nulls first")
    wanted = columns_of(args)
    if wanted["category"]:
        raise ValueError("--category-column is for --category-edges; leave it out with --stream")
    wanted["category"] = False
    try:
        with pq.ParquetFile(args.data) as file:
            schema = file.schema_arrow
            found = resolve_columns(schema.names, wanted, args.data.name).by_field
            columns = {field: found[field] for field in wanted if field in found}
            _check_numbers(schema, columns)
            options, before = _of_times(schema.field(columns["time"]).type, options, args.before)
            if "session" in columns:
                raise ValueError(
                    f"--stream joins the events of a user whatever their sessions, and"
                    f" {args.data.name} has the session column {columns['session']!r}; leave out"
                    " --stream, or give --session-column - to ignore it, or, where no two users"
                    f" share a session's id, --user-column {columns['session']}"
                )
            # The distinct ids must fit in memory, the events need not.
            maps: dict[str, Any] = {}
            for field, first in (("item", 1), ("user", 0)):
                name = columns[field]
                kind = schema.field(name).type
                if field == "user" and pa.types.is_integer(kind) and kind != pa.uint64():
                    continue  # taken as they are; only uint64 may not fit
                maps[f"{field}s"] = IdMap.fit(_distinct(file, name), first=first, name=name)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"cannot read {str(args.data)!r}: {error}") from None
    named: dict[str, Any] = columns
    kept = {"work_dir": args.work_dir, "restart": args.restart, "save": args.out} if args.work_dir else {}
    return InterestGraph.from_parquet(
        args.data,
        **named,
        **maps,
        **kept,
        before=before,
        memory=args.memory,
        spill_dir=args.spill_dir,
        padding_idx=0,
        **options,
    )


def _distinct(file: Any, name: str) -> Any:
    """The distinct ids of a column, read in batches; integers of a dense range by a bitmap."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = file.schema_arrow.field(name).type
    batches = file.iter_batches(1 << 20, columns=[name])
    span = _id_range(file, name) if kind == pa.int64() else None
    if span is not None:
        there = np.zeros(span[1] - span[0] + 1, bool)
        for batch in batches:
            column = batch.column(0)
            if column.null_count:
                return column  # whose null is an error of the map
            ids = column.to_numpy()
            if len(ids) and (ids.min() < span[0] or ids.max() > span[1]):
                raise ValueError(
                    f"column {name!r} holds an id outside [{span[0]}, {span[1]}], which the file says it has"
                )
            there[ids - span[0]] = True
        return pa.array(np.flatnonzero(there) + span[0])
    seen, later, waiting = pa.array([], kind), [], 0
    for batch in batches:
        later.append(pc.unique(batch.column(0)))
        waiting += len(later[-1])
        if waiting > max(len(seen), 1 << 20):  # so that an id is looked at few times
            seen, later, waiting = pc.unique(pa.chunked_array([seen, *later])), [], 0
    return pc.unique(pa.chunked_array([seen, *later]))


def _id_range(file: Any, name: str) -> tuple[int, int] | None:
    """The smallest and largest of an integer column, where all row groups say them and a bitmap of them is small."""
    at = [file.metadata.schema.column(c).path for c in range(file.metadata.num_columns)].index(name)
    found = [file.metadata.row_group(g).column(at).statistics for g in range(file.num_row_groups)]
    if not found or not all(s is not None and s.has_min_max for s in found):
        return None
    low, high = min(int(s.min) for s in found), max(int(s.max) for s in found)
    return (low, high) if high - low < max(file.metadata.num_rows, 1 << 20) else None


def _check_numbers(schema: Any, columns: dict[str, str]) -> None:
    """Times and labels that a whole log may spell as text or decimals are numbers in one that is streamed."""
    import pyarrow as pa

    plain = (pa.types.is_integer, pa.types.is_floating)
    tests = {
        "time": ("numbers or dates", (*plain, pa.types.is_timestamp, pa.types.is_date)),
        "label": ("0/1 or booleans", (*plain, pa.types.is_boolean)),
    }
    for field, (expected, allowed) in tests.items():
        name = columns.get(field)
        if name is None:
            continue
        kind = schema.field(name).type
        if not any(test(kind) for test in allowed):
            other = " or --label-column -" if field == "label" else ""
            raise ValueError(
                f"column {name!r} is {kind}; --stream needs {field}s as {expected}: store them so, or leave out"
                f" --stream{other}"
            )


def _of_times(kind: Any, options: dict[str, Any], before: int | float | None) -> tuple[dict[str, Any], Any]:
    """Gaps and ``--before`` for a column of this type: of dates they are (Unix) seconds, as everywhere."""
    import pyarrow as pa

    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        return options, before

    def microseconds(name: str) -> np.timedelta64 | None:
        seconds = before if name == "before" else options[name]
        if seconds is None:
            return None
        if not abs(seconds) < 2**43:  # beyond the years that a date can hold
            raise ValueError(f"--{name.replace('_', '-')}: found {seconds}, expected seconds")
        return np.timedelta64(round(seconds * 10**6), "us")

    gaps = {name: microseconds(name) for name in ("max_gap", "session_gap")}
    start = microseconds("before")
    return {**options, **gaps}, None if start is None else np.datetime64(0, "us") + start


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
    build.add_argument("--out", type=Path, required=True, metavar="FILE", help="graph to write")
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
        "--memory", type=_bytes, metavar="SIZE", help="with --stream: spill beyond it, for example 4G; at least 1M"
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
        help="with --stream: use events before this time only (of dates: Unix seconds)",
    )
    build.add_argument("--threads", type=int, help="worker threads (default: all CPUs)")
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
