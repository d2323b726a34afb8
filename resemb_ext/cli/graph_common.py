"""What commands that read a log or describe a graph share: the log's options, and tables of statistics."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from resemb_ext.data.columns import FIELDS, OPTIONAL


def add_log(parser: argparse.ArgumentParser, *, required: bool, purpose: str) -> None:
    """Adds ``--data`` and what every command that reads a log takes."""
    parser.add_argument("--data", type=Path, required=required, metavar="LOG", help=purpose)
    add_columns(parser)
    add_reading(parser)


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Adds an option for the column of each field of a log."""
    for field in FIELDS:
        none = ', "-" for none' if field in OPTIONAL else ""
        parser.add_argument(f"--{field}-column", metavar="NAME", help=f"{field} column{none} (default: guessed)")


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Adds what every command that reads a log takes besides the columns."""
    parser.add_argument(
        "--delimiter",
        metavar="SIGN",
        help="what parts a text file's values, tab for a tab (default: by its suffix and first lines)",
    )
    parser.add_argument(
        "--drop-null", action="store_true", help="leave out rows without a user, item, time, label or session"
    )


def read(args: argparse.Namespace) -> Any:
    from resemb_ext.data import read_log

    return read_log(args.data, **columns_of(args), delimiter=args.delimiter, drop_null=args.drop_null)


def columns_of(args: argparse.Namespace) -> dict[str, Any]:
    """The columns given, as ``read_log`` takes them: False for an optional one left out."""
    given = {name: getattr(args, f"{name}_column") for name in FIELDS}
    return {f: False if c == "-" and f in OPTIONAL else c for f, c in given.items()}


def command(commands: Any, name: str, what: str, example: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=what,
        description=what[0].upper() + what[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def print_table(stats: dict[str, Any]) -> None:
    for name, value in stats.items():
        if isinstance(value, dict):
            value = "  ".join(f"{part} {number:.6g}" for part, number in value.items())
        elif isinstance(value, list):
            value = "  ".join(f"{number:.6g}" for number in value)
        elif isinstance(value, float):
            value = f"{value:.6g}"
        print(f"{name:<24} {'-' if value is None else value}")
