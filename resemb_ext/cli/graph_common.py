"""What the ``resemb graph`` commands share: the log's options, and tables of statistics."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_COLUMNS = ("user", "item", "time", "category", "label", "session")
_OPTIONAL = ("category", "label", "session")


def add_log(parser: argparse.ArgumentParser, *, required: bool, purpose: str) -> None:
    parser.add_argument("--data", type=Path, required=required, metavar="LOG", help=purpose)
    for column in _COLUMNS:
        none = ', "-" for none' if column in _OPTIONAL else ""
        parser.add_argument(f"--{column}-column", metavar="NAME", help=f"{column} column{none} (default: guessed)")
    add_reading(parser)


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
    given = {name: getattr(args, f"{name}_column") for name in _COLUMNS}
    return {f: False if c == "-" and f in _OPTIONAL else c for f, c in given.items()}


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
