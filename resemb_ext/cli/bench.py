"""``resemb bench``: the benchmarks of the source tree."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import resemb_ext
from resemb_command import COMMANDS

EXAMPLES = """examples:
  resemb bench
  resemb bench --full --log events.parquet --out suite.json

The same as python -m benchmarks in the source tree, whose --help lists all options.
"""


def add_parser(subparsers: Any) -> None:
    """Adds ``bench``; what follows it is passed on."""
    parser = subparsers.add_parser(
        "bench",
        help=COMMANDS["bench"],
        description=(
            "Times lookup, backward and whole steps against their plain PyTorch forms. The benchmarks\n"
            "are part of the source tree, not of the wheel."
        ),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_run_bench)


def _run_bench(args: argparse.Namespace) -> int:
    """Runs ``resemb bench``: ``python -m benchmarks`` with ``args.rest``, in a process of its own.

    Raises:
        FileNotFoundError: the package does not run from its source tree.
    """
    root = Path(resemb_ext.__file__).resolve().parents[1]
    if not (root / "benchmarks" / "__main__.py").is_file():
        raise FileNotFoundError(
            f"bench: the benchmarks are not in the installed package ({root}); run it from the source "
            "tree, after pip install -e ."
        )
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.call(
        [sys.executable, "-m", "benchmarks", *args.rest], env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    )
