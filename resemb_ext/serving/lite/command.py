"""Scores rows of raw ids with a bundle, on the command line: ``python BUNDLE/score.py rows.jsonl``.

A row is a line of JSON with the raw ids that the model was trained on, oldest event first:

    {"target": "item-3", "history": ["item-7", "item-1"]}

Printed is the same line with its logit and probability. Ids that the table does not have share one vector; how many
there were is said at the end, on standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .bundle import BATCH, MODELS, Bundle, BundleError

#: ``score.py`` of a bundle, which finds this module beside itself.
SCRIPT = '''"""Scores rows with the model of this folder; needs numpy and onnxruntime: see --help."""

import sys
from pathlib import Path

from {library}.command import main

sys.exit(main(Path(__file__).resolve().parent))
'''


def main(folder: Path, arguments: Sequence[str] | None = None) -> int:
    """Runs ``score.py``.

    Args:
        folder: of the bundle.
        arguments: default ``sys.argv[1:]``.

    Returns:
        0, or 2 for bad input, of which one line is said.
    """
    parser = argparse.ArgumentParser(
        prog="score.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path, nargs="?", metavar="ROWS.jsonl", help="file to score")
    parser.add_argument("--runtime", choices=tuple(MODELS), default="onnx", help="what computes (default: onnx)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of onnxruntime (default: all cores)")
    parser.add_argument("--verify", action="store_true", help="first compare all files with their sha256")
    args = parser.parse_args(arguments)
    if args.rows is None and not args.verify:
        parser.error("name a file to score, or --verify")
    try:
        bundle = Bundle.open(folder, runtime=args.runtime, threads=args.threads)
        if args.verify:
            bundle.verify()
            print(f"{folder}: every file has the sha256 that was written", file=sys.stderr)
        if args.rows is not None:
            _score(bundle, args.rows)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"score.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _score(bundle: Bundle, rows: Path) -> None:
    ids = unseen = 0
    with open(rows, encoding="utf-8") as file:
        for batch in _batches(read_rows(file)):
            histories = [row.get("history") or [] for row in batch]
            found = bundle.score([row["target"] for row in batch], histories)
            ids += len(batch) + sum(min(len(one), bundle.max_history) for one in histories)
            unseen += found.unseen
            for row, logit, probability in zip(batch, found.logit.tolist(), found.probability.tolist(), strict=True):
                print(json.dumps({**row, "logit": logit, "probability": probability}))
    if unseen:
        print(f"{unseen} of {ids} ids are not in the table", file=sys.stderr)


def read_rows(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The objects of lines; blank lines are left out.

    Raises:
        BundleError: a line that is no object with a target and a list of ids as history; a text as history would be
            taken for a list of letters.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise BundleError(f"rows: line {number} is not JSON") from None
        if not isinstance(row, dict) or "target" not in row or not isinstance(row.get("history") or [], list):
            raise BundleError(
                f"rows: line {number}: expected an object with a target and a list of ids as history, found "
                f"{line.strip():.60}"
            )
        yield row


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    held: list[dict[str, Any]] = []
    for row in rows:
        held.append(row)
        if len(held) == BATCH:
            yield held
            held = []
    if held:
        yield held
