"""``resemb selftest``: the property tests, run against the installed package."""

from __future__ import annotations

import argparse
from typing import Any

from resemb_command import COMMANDS

EXAMPLE = """example:
  resemb selftest --examples 50
"""


def add_parser(subparsers: Any) -> None:
    """Adds ``selftest``."""
    parser = subparsers.add_parser(
        "selftest",
        help=COMMANDS["selftest"],
        description=(
            "Compares the operators with their plain-PyTorch reference on random problems. Needs\nhypothesis."
        ),
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: cpu)")
    parser.add_argument(
        "--examples", type=int, default=200, metavar="N", help="random problems per property (default: %(default)s)"
    )
    parser.set_defaults(run=_run_selftest)


def _run_selftest(args: argparse.Namespace) -> int:
    """Runs ``resemb selftest``."""
    from resemb_ext.testing import selftest

    return selftest(device=args.device, examples=args.examples)
