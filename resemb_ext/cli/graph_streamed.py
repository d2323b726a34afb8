"""``resemb graph build --stream``: a Parquet log read in batches."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from resemb_ext.graph import InterestGraph

from .graph_common import columns_of


def streamed(args: argparse.Namespace, options: dict[str, Any]) -> InterestGraph:
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
            check_numbers(schema, columns, "--stream")
            kind = schema.field(columns["time"]).type
            options, before = of_times(pa.types.is_timestamp(kind) or pa.types.is_date(kind), options, args.before)
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


def check_numbers(schema: Any, columns: dict[str, str], option: str) -> None:
    """Times and labels that a whole log may spell as text or decimals are numbers in one that is not read as a whole."""
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
                f"column {name!r} is {kind}; {option} needs {field}s as {expected}: store them so, or leave out"
                f" {option}{other}"
            )


def of_times(dates: bool, options: dict[str, Any], before: int | float | None) -> tuple[dict[str, Any], Any]:
    """Gaps and ``--before`` for a column of numbers or dates: of dates they are (Unix) seconds, as everywhere."""
    if not dates:
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
