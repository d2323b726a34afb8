"""``resemb export``: a trained model as files that score without this package."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from resemb_command import COMMANDS

EXAMPLES = """examples:
  resemb export runs/first
  resemb export runs/first --arm res --seed 0 --onnx --out served/first
  python examples/score_exported.py served/first rows.jsonl

The folder holds the folded model (model.pt2, and model.onnx with --onnx), the id map items.json and
export.json, which says how to call it. Loading needs torch (or onnxruntime), and not this package.
"""


def add_parser(subparsers: Any) -> None:
    """Adds ``export``."""
    parser = subparsers.add_parser(
        "export",
        help=COMMANDS["export"],
        description="Exports the best checkpoint of a run with plain tables and its id map.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="RUN", type=Path, help="run folder of resemb train")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="folder to write (default: RUN/export)")
    parser.add_argument("--arm", choices=("plain", "res"), help="(default: the best on validation)")
    parser.add_argument("--seed", type=int, metavar="N", help="(default: the best on validation)")
    parser.add_argument("--onnx", action="store_true", help="write model.onnx as well")
    parser.add_argument("--overwrite", action="store_true", help="replace the files of an earlier export")
    parser.set_defaults(run=_run_export)


def _run_export(args: argparse.Namespace) -> int:
    """Runs ``resemb export``."""
    from resemb_ext.serving import export_run
    from resemb_ext.serving.exported import ABOUT, read_about

    place = export_run(args.folder, args.out, arm=args.arm, seed=args.seed, onnx=args.onnx, overwrite=args.overwrite)
    for name in sorted([ABOUT, *read_about(place)["sha256"]]):
        print(f"{(place / name).stat().st_size:>12,}  {place / name}")
    return 0
