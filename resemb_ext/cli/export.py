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
  resemb export runs/first --table int8 --out served/bundle
  python served/bundle/score.py rows.jsonl

The folder holds the folded model (model.pt2, and model.onnx with --onnx), the id map items.json and
export.json, which says how to call it. Loading needs torch (or onnxruntime), and not this package.

With --table it is a bundle: the model in both forms beside its item table, and what scores with them. That needs
numpy and onnxruntime alone, and takes what is published to the table while it serves.
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
    parser.add_argument(
        "--out", metavar="FOLDER", type=Path, help="folder to write (default: RUN/export, with --table RUN/bundle)"
    )
    parser.add_argument("--arm", choices=("plain", "res"), help="(default: the best on validation)")
    parser.add_argument("--seed", type=int, metavar="N", help="(default: the best on validation)")
    parser.add_argument("--onnx", action="store_true", help="write model.onnx as well (with --table it always is)")
    parser.add_argument(
        "--table",
        choices=("float32", "float16", "int8", "int4"),
        help="write a bundle: the item table as a file of such numbers, beside the model",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the files of an earlier export")
    parser.set_defaults(run=_run_export)


def _run_export(args: argparse.Namespace) -> int:
    """Runs ``resemb export``."""
    if args.table is not None:
        return _export_bundle(args)
    from resemb_ext.serving import export_run
    from resemb_ext.serving.exported import ABOUT, read_about

    place = export_run(args.folder, args.out, arm=args.arm, seed=args.seed, onnx=args.onnx, overwrite=args.overwrite)
    _print_sizes(place, [ABOUT, *read_about(place)["sha256"]])
    return 0


def _export_bundle(args: argparse.Namespace) -> int:
    from resemb_ext.serving import export_bundle
    from resemb_ext.serving.lite.bundle import ABOUT, TABLE, read_about

    if args.overwrite:
        raise ValueError("--overwrite: a bundle may be in use, so none is replaced; choose another --out")
    place = export_bundle(args.folder, args.out, table=args.table, arm=args.arm, seed=args.seed)
    about = read_about(place)
    _print_sizes(place, [ABOUT, TABLE, *(name for name in about["sha256"] if "/" not in name)])
    found = about["agreement"]
    print(
        f"logits of {found['rows']} random rows differ from the model's by at most {found['largest_difference']:.2g}; "
        f"their standard deviation is {found['logit_std']:.2g}"
    )
    return 0


def _print_sizes(place: Path, names: list[str]) -> None:
    for name in sorted(names):
        print(f"{(place / name).stat().st_size:>12,}  {place / name}")
