"""``resemb grow``: the items of new events in a saved run, without training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from resemb_command import COMMANDS

from .publish import COMPACT, DTYPES

EXAMPLES = """examples:
  resemb train --data events.parquet --keep-counts --out runs/first
  resemb grow runs/first today.parquet
  resemb grow runs/first today.parquet --to items.table --keep 10
  resemb grow runs/first-grown-1 tomorrow.parquet --to items.table

EVENTS holds events that the run's graph has not seen: new ones, and perhaps those that the run held out.
Users and items are known by the run's ids; others are new. The grown run is a folder of its own, which
predict, export and publish read. Nothing is trained.
"""
_FIELDS = ("user", "item", "time", "category", "label")


def add_parser(subparsers: Any) -> None:
    """Adds ``grow``."""
    parser = subparsers.add_parser(
        "grow",
        help=COMMANDS["grow"],
        description="Gives a saved run rows for the items of new events, from the graph alone.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder", metavar="RUN", type=Path, help="run folder of resemb train --keep-counts, or a grown run"
    )
    parser.add_argument("events", metavar="EVENTS", type=Path, help="log file of new events")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="folder of the grown run (default: RUN-grown-N)")
    parser.add_argument("--seed", type=int, metavar="N", help="(default: the best on validation)")
    for field in _FIELDS:
        parser.add_argument(f"--{field}-column", metavar="NAME", help="of EVENTS (default: as of the run)")
    parser.add_argument("--to", metavar="TABLE", type=Path, help="publish the next version of this table")
    parser.add_argument("--dtype", choices=DTYPES, help="with --to, of a table that is made (default: int8)")
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="SHARE",
        default=0.0,
        help="with --to, leave out rows whose vector moved by at most this share of its length (default: 0)",
    )
    parser.add_argument(
        "--compact",
        type=float,
        metavar="SHARE",
        default=COMPACT,
        help="with --to, write a new base where deltas would hold more than this share of the rows (default: %(default)s)",
    )
    parser.add_argument(
        "--keep",
        type=int,
        metavar="N",
        help="with --to, remove versions that none of the newest N needs (default: all)",
    )
    parser.set_defaults(run=_run_grow)


def _run_grow(args: argparse.Namespace) -> int:
    """Runs ``resemb grow``."""
    for name, usual in (("dtype", None), ("tolerance", 0.0), ("compact", COMPACT), ("keep", None)):
        if args.to is None and getattr(args, name) != usual:
            raise ValueError(f"--{name} is of a table; name one with --to")
    from resemb_ext.serving.grow import grow_run

    columns = {field: getattr(args, f"{field}_column") for field in _FIELDS}
    done = grow_run(
        args.folder,
        args.events,
        args.out,
        seed=args.seed,
        columns={field: name for field, name in columns.items() if name is not None},
        to=args.to,
        dtype=args.dtype,
        tolerance=args.tolerance,
        compact=args.compact,
        keep=args.keep,
    )
    print(
        f"{done.folder}: {done.events:,} events, {done.new_items:,} new items, {len(done.changed):,} of {done.rows:,} rows "
        "changed"
    )
    if done.published is not None:
        version = done.published
        wrote = f"a {version.kind}, {version.changed:,} rows, {version.bytes:,} bytes"
        print(f"version {version.sequence} of {args.to} is in force: {wrote if version.bytes else 'no row changed'}")
    return 0
