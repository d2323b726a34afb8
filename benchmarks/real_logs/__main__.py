"""`python -m benchmarks.real_logs`: both embeddings on real logs, and the page about them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.publish import ROOT
from resemb_ext.runtime.files import write_text

from .cells import MODELS, PROTOCOLS, Cell, all_cells, longest_first
from .report import render
from .running import Task, run_tasks, say
from .store import is_done, load, read

RESULTS = ROOT / "benchmarks" / "results" / "real_logs.json"
PAGE = ROOT / "docs" / "results.md"
EXAMPLES = """examples:
  python -m benchmarks.real_logs --data-dir ../shared/data --workers 2
  python -m benchmarks.real_logs --data-dir ../shared/data --logs amazon-beauty --models dnn
  python -m benchmarks.real_logs --report

Cells that the output already holds are skipped, so an interrupted run goes on where it was. Two
processes may write one output.
"""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = argparse.ArgumentParser(
        prog="python -m benchmarks.real_logs",
        description="Train a plain embedding and Res-embedding on real logs with one untuned set "
        "of options, a cell (log, split, model, category) at a time, into one JSON file.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    splits = sorted({split for protocol in PROTOCOLS.values() for split in protocol.splits})
    files = " and ".join(f"{log}.parquet" for log in PROTOCOLS)
    result.add_argument("--data-dir", type=Path, help=f"folder with {files}")
    result.add_argument("--out", type=Path, default=RESULTS, help="JSON file")
    result.add_argument("--logs", nargs="+", choices=list(PROTOCOLS), default=list(PROTOCOLS))
    result.add_argument("--splits", nargs="+", choices=splits, default=splits)
    result.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    result.add_argument("--category", choices=("both", "with", "without"), default="both")
    result.add_argument("--seeds", type=int, nargs="+", help="instead of the protocol's")
    result.add_argument("--epochs", type=int, help="instead of the protocol's, for a trial")
    result.add_argument("--workers", type=int, default=1, help="cells side by side")
    result.add_argument("--threads", type=int, default=1, help="CPU threads of a worker")
    result.add_argument("--runs", type=Path, help="keep the run folders here")
    result.add_argument("--redo", action="store_true", help="run cells that the output holds, too")
    result.add_argument("--list", action="store_true", help="only say which cells would run")
    result.add_argument("--report", action="store_true", help="only write the page from --out")
    result.add_argument("--page", type=Path, default=PAGE, help="the page that --report writes")
    return result


def chosen(args: argparse.Namespace) -> list[Cell]:
    """The cells that the options name."""
    wanted = {"both": (False, True), "with": (True,), "without": (False,)}[args.category]
    return [
        cell
        for cell in all_cells()
        if cell.log in args.logs and cell.split in args.splits and cell.model in args.models and cell.category in wanted
    ]


def page_text(results: Path) -> str:
    """The page from the JSON of the untuned runs.

    Raises:
        FileNotFoundError: the file is not there.
    """
    return render(read(results))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0, 1 when a cell failed, 2 (by argparse) for bad input."""
    options = parser()
    args = options.parse_args(argv)
    try:
        if args.report:
            page = page_text(args.out)
            args.page.parent.mkdir(parents=True, exist_ok=True)
            write_text(args.page, page)
            say(f"written to {args.page}")
            return 0
        overrides = {} if args.epochs is None else {"epochs": args.epochs}
        seeds = None if args.seeds is None else tuple(args.seeds)
        content = load(args.out)
        cells = [
            cell for cell in chosen(args) if args.redo or not is_done(content, cell, seeds=seeds, overrides=overrides)
        ]
        if args.list:
            print("\n".join(cell.name for cell in cells))
            return 0
        if args.data_dir is None:
            options.error("--data-dir is needed to train")
        if min(args.workers, args.threads) < 1:
            options.error("--workers and --threads must be at least 1")
        for cell in cells:
            if not (args.data_dir / cell.file).is_file():
                options.error(f"--data-dir: no {cell.file} in {args.data_dir}")
    except (OSError, ValueError, TypeError) as error:
        options.error(str(error))
    if not cells:
        say("nothing to do: the output holds these cells; --redo runs them again")
        return 0
    tasks = [
        Task(cell, args.data_dir, seeds, overrides, args.threads, args.workers, args.runs, show=args.workers == 1)
        for cell in longest_first(cells)
    ]
    failed = run_tasks(tasks, args.out)
    say(f"results in {args.out}" + (f"; {failed} cells failed" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
