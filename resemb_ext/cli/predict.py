"""``resemb predict``: score a file of (history, target) rows with a saved run."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from resemb_command import COMMANDS
from resemb_ext.runtime.files import check_out, check_report, write_json
from resemb_ext.serving import SavedModel, score_file
from resemb_ext.train.folder import CANDIDATES, SCORES

EXAMPLES = """examples:
  resemb predict runs/first rows.parquet --out scores.parquet
  resemb predict runs/first rows.csv --out scores.csv --separator "|" --arm res --seed 0

A row is a history, oldest item first (a list column, or text that joins ids; null or empty for none),
and a target item. All columns are kept; logit and probability are added. Ids that the
run's log did not have are scored with the out-of-vocabulary row, and counted.
"""


def add_parser(subparsers: Any) -> None:
    """Adds ``predict``."""
    parser = subparsers.add_parser(
        "predict",
        help=COMMANDS["predict"],
        description="Scores the rows of a file with the best checkpoint of a run.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="RUN", type=Path, help="run folder of resemb train")
    parser.add_argument("file", metavar="FILE", type=Path, help=".parquet or .csv file of rows")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help=".parquet or .csv file to write")
    parser.add_argument("--arm", choices=("plain", "res"), help="(default: the best on validation)")
    parser.add_argument("--seed", type=int, metavar="N", help="(default: the best on validation)")
    parser.add_argument("--history-column", metavar="NAME", help="(default: guessed)")
    parser.add_argument("--target-column", metavar="NAME", help="(default: guessed)")
    parser.add_argument(
        "--separator",
        help='between ids of a text history, "[]" for lists in brackets (default: found in the histories)',
    )
    parser.add_argument("--json", action="store_true", help="print what lies in FILE.json")
    parser.set_defaults(run=_run_predict)


def _run_predict(args: argparse.Namespace) -> int:
    """Runs ``resemb predict``."""
    beside = args.out.with_name(args.out.name + ".json")
    for file in (args.out, beside):
        check_out(file, [args.file, args.folder / SCORES, args.folder / CANDIDATES])
    check_report(beside, {"run", "file", "rows", "unknown_targets"})
    saved = SavedModel.load(args.folder, args.arm, args.seed)
    done = score_file(
        saved,
        args.file,
        args.out,
        history=args.history_column,
        target=args.target_column,
        separator=args.separator,
        progress=None,
    )
    for what, count in (("target", done.target), ("history", done.history)):
        if count.unknown:
            print(
                f"resemb predict: warning: {count.unknown:,} of {count.ids:,} {what} ids are not in "
                "the run's log; they were scored with the out-of-vocabulary row",
                file=sys.stderr,
            )
    about = {
        "run": str(args.folder),
        "file": str(args.file),
        "rows": done.rows,
        "histories": done.histories,
        "arm": saved.arm,
        "seed": saved.seed,
        "unknown_targets": done.target.unknown,
        "unknown_history_ids": done.history.unknown,
        "out": str(args.out),
    }
    write_json(beside, about)
    if args.json:
        print(json.dumps(about))
    else:
        print(f"{args.out}: {done.rows:,} rows scored by {saved.arm}, seed {saved.seed}; histories: {done.histories}")
        print(f"{beside}: what was scored, and ids that are unknown")
    return 0
