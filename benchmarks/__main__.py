"""``python -m benchmarks``: the operator against plain PyTorch on this machine."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.cells import DISTRIBUTIONS, Cell, add_cell_options, suite
from benchmarks.lookup import run_cell
from benchmarks.machine import machine
from benchmarks.report import table
from benchmarks.spread import run_spread
from benchmarks.suite_report import suite_table
from resemb_ext.runtime.files import check_out, write_json

SLOW = 12.0  # a variant over this many times our time is timed in few rounds
SPREAD = Cell(name="spread, D=16", dim=16)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="A Res-embedding's lookup, forward and forward + backward with sparse gradients, and "
        "its whole Adam step, against their plain PyTorch forms and a plain embedding. Needs about 12 GiB.",
        epilog="example: python -m benchmarks --full --log events.parquet --out suite.json",
    )
    add_cell_options(parser)
    parser.add_argument("--distribution", choices=DISTRIBUTIONS, default="zipf", help="distribution of the neighbours")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--few-baselines", action="store_true", help="leave out torch.compile of the forms, and FBGEMM")
    parser.add_argument("--rounds", type=int, help="timed rounds (default: 11, or 7 with --full)")
    parser.add_argument("--warmup", type=int, help="rounds not timed (default: 3, or 2 with --full)")
    parser.add_argument("--log", type=Path, help="log file of the cell with real ids and graph")
    parser.add_argument("--full", action="store_true", help="the suite instead of one cell per --items")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="with --full: these cells")
    parser.add_argument("--resume", action="store_true", help="keep the cells that --out holds")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/out/cpu.json"), help="JSON file, rewritten after each cell"
    )
    return parser


def _cells(args: argparse.Namespace) -> list[Cell]:
    if args.full:
        cells = [*suite(), SPREAD]
        unknown = set(args.only or ()) - {cell.name for cell in cells}
        if unknown:
            names = ", ".join(repr(cell.name) for cell in cells)
            raise SystemExit(f"--only: no cell {sorted(unknown)[0]!r}; expected one of {names}")
        return [cell for cell in cells if not args.only or cell.name in args.only]
    factors = {
        name: getattr(args, name)
        for name in ("dim", "neighbors", "positions", "zipf", "distribution", "dtype", "batches", "seed")
    }
    return [
        Cell(name=f"H={items:,}", items=items, every_baseline=not args.few_baselines, **factors) for items in args.items
    ]


def _apart(work: Callable[[], dict[str, Any]], threads: int) -> dict[str, Any]:
    """``work`` in a process of its own: what one cell leaves in memory does not meet the next."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        return pool.submit(work).result()


def main() -> None:
    args = _parser().parse_args()
    check_out(args.out, [args.log] if args.log else [])
    torch.set_num_threads(args.threads)
    rounds = args.rounds or (7 if args.full else 11)
    warmup = args.warmup if args.warmup is not None else (2 if args.full else 3)
    result: dict[str, Any] = {"machine": machine(), "cells": [], "not_run": {}}
    if args.resume and args.out.exists():
        result = json.loads(args.out.read_text())
    args.out.parent.mkdir(parents=True, exist_ok=True)
    measured = {done["name"] for done in [*result["cells"], *filter(None, [result.get("spread")])]}
    cells = [cell for cell in _cells(args) if cell.name not in measured]
    result["not_run"] = {cell.name: "the run was stopped before it" for cell in cells}
    for cell in cells:
        start = time.perf_counter()
        if cell.distribution == "real" and args.log is None:
            result["not_run"][cell.name] = "no log: pass --log FILE"
            continue
        spread = cell == SPREAD
        work: Callable[[], dict[str, Any]] = (
            partial(run_spread, cell, rounds=rounds, warmup=warmup)
            if spread
            else partial(run_cell, cell, rounds=rounds, warmup=warmup, log=args.log, slow=SLOW)
        )
        try:
            done = _apart(work, args.threads) if args.full else work()
        except BrokenProcessPool:
            result["not_run"][cell.name] = "its process was killed, out of memory most likely"
            write_json(args.out, result)
            continue
        if spread:
            result["spread"] = done
        else:
            result["cells"].append({**done, "seconds": round(time.perf_counter() - start, 1)})
        del result["not_run"][cell.name]
        write_json(args.out, result)
        if args.full:
            print(f"{cell.name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    print(suite_table(result) if args.full else table(result))
    print(f"\nwritten to {args.out}")


if __name__ == "__main__":
    main()
