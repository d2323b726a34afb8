"""What the `resemb graph` commands share: the log's options, and tables of statistics."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_log(parser: argparse.ArgumentParser, *, required: bool, purpose: str) -> None:
    parser.add_argument("--data", type=Path, required=required, metavar="LOG", help=purpose)
    for column in ("user", "item", "time", "label"):
        parser.add_argument(
            f"--{column}-column", metavar="NAME", help=f"{column} column (default: guessed)"
        )


def read(args: argparse.Namespace) -> Any:
    from resemb_ext.data import read_log

    return read_log(
        args.data,
        user=args.user_column,
        item=args.item_column,
        time=args.time_column,
        label=args.label_column,
    )


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
