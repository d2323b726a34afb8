"""``resemb data``: check a behaviour log, or write it as a clean Parquet file."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

from resemb_command import COMMANDS
from resemb_ext.runtime.files import check_out, write_atomic

from .graph_common import add_columns, add_reading, columns_of

EXAMPLES = """examples:
  resemb data validate events.csv
  resemb data validate ml-1m/ratings.dat --json
  resemb data convert UserBehavior.csv --header user_id,item_id,category,behavior,timestamp \\
      --where behavior=pv --out taobao.parquet
"""


def add_parser(subparsers: Any) -> None:
    """Adds ``data`` with its own subcommands to the command line's parsers."""
    parser = subparsers.add_parser(
        "data",
        help=COMMANDS["data"],
        description="Checks a behaviour log, or writes it as a clean Parquet file.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="data_command", metavar="COMMAND", required=True)
    check = commands.add_parser(
        "validate",
        help="report what a log holds, and what reading and training do with it",
        description=(
            "Reports rows, users, items, duplicates, time order, labels and odd times of a log, or\n"
            "the rows and histories of a folder of ready-made samples, and what reading, splitting\n"
            "and training do with each. Exit status: 0 nothing to worry about, 1 warnings, 2 the\n"
            "data cannot be read or trained on as they are."
        ),
        epilog="example:\n  resemb data validate events.csv --session-gap 1800",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_source(check)
    check.add_argument(
        "--history-separator",
        metavar="SIGN",
        help='of ready-made samples: what parts the ids of histories, "[]" for lists in brackets (default: found)',
    )
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(run=_run_validate)
    convert = commands.add_parser(
        "convert",
        help="write a log as Parquet with standard column names",
        description=(
            "Writes a log as Parquet: user_id, item_id, timestamp, and category, label, session_id\n"
            "where it has them, sorted by user and time. Every command reads it without options."
        ),
        epilog="example:\n  resemb data convert log.csv --where behavior=pv,buy --out log.parquet",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_source(convert)
    convert.add_argument(
        "--drop-duplicates", action="store_true", help="keep one of the events that share user, item and time"
    )
    convert.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")
    convert.set_defaults(run=_run_convert)


def _add_source(parser: argparse.ArgumentParser) -> None:
    from resemb_ext.data.kinds import SUFFIXES

    parser.add_argument(
        "log",
        metavar="LOG",
        type=Path,
        help=f"{', '.join(SUFFIXES)}; all but Parquet also with .gz, .bz2 or .zst; or a folder of such files",
    )
    add_columns(parser)
    parser.add_argument(
        "--session-gap",
        type=float,
        metavar="X",
        help="a session ends where the next event is more than X later, in the times' unit",
    )
    parser.add_argument(
        "--header", type=_names, metavar="A,B,...", help="column names of a text file that has no header line"
    )
    add_reading(parser)
    parser.add_argument(
        "--where",
        action="append",
        type=_condition,
        metavar="COLUMN=VALUE[,VALUE]",
        help="keep only rows with one of these values; may be repeated",
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _condition(text: str) -> tuple[str, list[str]]:
    column, mark, values = text.partition("=")
    if not (column and mark and values):
        raise argparse.ArgumentTypeError(f"{text!r}, expected COLUMN=VALUE[,VALUE]")
    return column, values.split(",")


def _read_samples(args: argparse.Namespace) -> Any:
    """Ready-made samples."""
    from resemb_ext.data import read_ready_made

    for option in ("time_column", "session_column", "session_gap", "header", "delimiter", "drop_null", "where"):
        if getattr(args, option):
            raise ValueError(f"--{option.replace('_', '-')} is for logs; {args.log} holds ready-made samples")
    if args.label_column == "-":
        raise ValueError("--label-column: ready-made samples need their labels")
    return read_ready_made(
        args.log,
        user=args.user_column,
        item=args.item_column,
        category=False if args.category_column == "-" else args.category_column,
        label=args.label_column,
        history_separator=args.history_separator,
    )


def _read(args: argparse.Namespace) -> Any:
    from resemb_ext.data import read_log

    where = dict(args.where or ())
    if len(where) < len(args.where or ()):
        raise ValueError("--where: give a column once, with its values joined by commas")
    return read_log(
        args.log,
        **columns_of(args),
        session_gap=args.session_gap,
        header=args.header,
        delimiter=args.delimiter,
        drop_null=args.drop_null,
        where=where,
    )


def _run_validate(args: argparse.Namespace) -> int:
    """``resemb data validate``."""
    from resemb_ext.data import DataWarning, is_ready_made, validate

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)  # they are among the findings
            ready = is_ready_made(args.log)
            if args.history_separator is not None and not ready:
                raise ValueError("--history-separator is for folders of ready-made samples")
            report = validate(_read_samples(args) if ready else _read(args))
    except (ValueError, TypeError, OSError) as error:
        if args.json:
            print(json.dumps({"log": str(args.log), "level": "error", "error": str(error)}))
        raise
    if args.json:
        print(json.dumps({"log": str(args.log), **report.to_dict()}, indent=2))
    else:
        for name, value in report.figures.items():
            if value is not None:
                print(f"{name.replace('_', ' '):<28} {_shown(value)}")
        print()
        for finding in report.findings:
            print(f"{finding.level:<8} {finding.name}: {finding.found} -> {finding.done}")
    return {"note": 0, "warning": 1, "error": 2}[report.level]


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_shown(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}" if value < 10**6 else f"{value:.0f}"
    return "-" if value is None else str(value)


def _times(log: Any) -> Any:
    """Times as they were read: seconds would round parts of seconds."""
    import pyarrow as pa

    from resemb_ext.data.times import TICKS

    if not log.ticks_per_second:
        return log.time
    unit = next(name for name, ticks in TICKS.items() if ticks == log.ticks_per_second)
    return pa.array(log.exact_time).cast(pa.timestamp(unit))


def _run_convert(args: argparse.Namespace) -> int:
    """``resemb data convert``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from resemb_ext.data.kinds import PARQUET
    from resemb_ext.data.validation import duplicates

    if args.out.suffix not in PARQUET:
        raise ValueError(f"--out: {args.out} must end in .parquet")
    if not args.out.parent.is_dir():
        raise FileNotFoundError(f"--out: folder {args.out.parent} does not exist")
    check_out(args.out, [args.log])
    log = _read(args)
    read = len(log)
    print(f"{args.log}: {log.columns_line}", file=sys.stderr)
    if args.drop_duplicates:
        log = log.subset(~duplicates(log))
    columns: dict[str, Any] = {
        "user_id": log.users.decode(log.user),
        "item_id": log.items.decode(log.item),
        "timestamp": _times(log),
    }
    if log.category is not None and log.categories is not None:
        names = pa.array(log.categories.values)
        known = pa.array(log.category - 1, mask=log.category == 0)
        columns["category"] = names.take(known)
    if log.label is not None:
        columns["label"] = log.label
    if log.session is not None:
        columns["session_id"] = log.session
    write_atomic(args.out, lambda target: pq.write_table(pa.table(columns), target))
    dropped = f" ({read - len(log)} duplicates dropped)" if args.drop_duplicates else ""
    print(f"{args.out}: {len(log)} events{dropped}; {', '.join(columns)}")
    return 0
