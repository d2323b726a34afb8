"""``resemb publish``: the item vectors of a run as the next version of a served table, and its earlier versions."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from resemb_command import COMMANDS

DTYPES = ("float32", "float16", "int8", "int4")  # those of serving.lite, which would load torch here
COMPACT = 0.25
EXAMPLES = """examples:
  resemb publish runs/first --to items.table
  resemb publish runs/second --to items.table --tolerance 0.01 --keep 10
  resemb publish --to items.table --list
  resemb publish --to items.table --roll-back 1

The first time it writes the table, then only rows that changed, beside it in TABLE.d. Readers go to
the new version while they serve. A kill leaves the version before.
"""


def add_parser(subparsers: Any) -> None:
    """Adds ``publish``."""
    parser = subparsers.add_parser(
        "publish",
        help=COMMANDS["publish"],
        description="Publishes the item vectors of a run's best checkpoint as the next version of a table.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="RUN", type=Path, nargs="?", help="run folder of resemb train")
    parser.add_argument("--to", metavar="TABLE", type=Path, required=True, help="file of the table")
    parser.add_argument("--list", action="store_true", help="show the versions of TABLE")
    parser.add_argument("--verify", action="store_true", help="compare all files of TABLE with their digests")
    parser.add_argument("--roll-back", metavar="N", type=int, help="put version N of TABLE in force again")
    parser.add_argument("--arm", choices=("plain", "res"), help="(default: the best on validation)")
    parser.add_argument("--seed", type=int, metavar="N", help="(default: the best on validation)")
    parser.add_argument("--dtype", choices=DTYPES, help="of a table that is made (default: int8)")
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="SHARE",
        default=0.0,
        help="leave out rows whose vector moved by at most this share of its length (default: 0, any changed byte)",
    )
    parser.add_argument("--full", action="store_true", help="write all rows, as a new base")
    parser.add_argument(
        "--compact",
        type=float,
        metavar="SHARE",
        default=COMPACT,
        help="write a new base where deltas would hold more than this share of the rows (default: %(default)s)",
    )
    parser.add_argument(
        "--keep", type=int, metavar="N", help="remove versions that none of the newest N needs (default: keep all)"
    )
    parser.set_defaults(run=_run_publish)


def _run_publish(args: argparse.Namespace) -> int:
    """Runs ``resemb publish``."""
    given = [
        name
        for name, value in (
            ("RUN", args.folder is not None),
            ("--list", args.list),
            ("--verify", args.verify),
            ("--roll-back", args.roll_back is not None),
        )
        if value
    ]
    if len(given) != 1:
        found = ", ".join(given) or "none of them"
        raise ValueError(f"expected one of RUN, --list, --verify and --roll-back; found {found}")
    if args.folder is not None:
        return _publish(args)
    from resemb_ext.serving.versions import roll_back, verify, versions

    if args.roll_back is not None:
        version = roll_back(args.to, args.roll_back)
        print(f"version {version.sequence} of {args.to} is in force: {version.rows:,} rows")
        return 0
    found_versions = verify(args.to) if args.verify else versions(args.to)
    print("version  follows  rows          changed       bytes           written (UTC)")
    for v in found_versions:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(v.written))
        parent = "-" if v.parent is None else v.parent
        kind = "base" if v.base == v.sequence else "delta"
        mark = "  in force" if v.in_force else ""
        print(f"{v.sequence:<8} {parent:<8} {v.rows:<13,} {v.changed:<13,} {v.bytes:<15,} {when}  {kind}{mark}")
    if args.verify:
        print("all files match their digests")
    return 0


def _publish(args: argparse.Namespace) -> int:
    from resemb_ext.serving import SavedModel
    from resemb_ext.serving.publish_run import publish_run

    saved = SavedModel.load(args.folder, args.arm, args.seed)
    done = publish_run(
        saved,
        args.to,
        run=args.folder.resolve().name,
        dtype=args.dtype,
        tolerance=args.tolerance,
        full=args.full,
        compact=args.compact,
        keep=args.keep,
    )
    if done.kind == "nothing":
        print(f"no row of {args.to} changed; version {done.sequence} stays in force")
        return 0
    print(f"{done.bytes:>12,}  {done.file}")
    print(f"version {done.sequence} is in force: a {done.kind}, {done.changed:,} of {done.rows:,} rows changed")
    return 0
