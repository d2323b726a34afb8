"""`python -m benchmarks`: the operator against plain PyTorch on this machine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from benchmarks.lookup import run_cell
from benchmarks.machine import machine
from benchmarks.report import table
from resemb_ext.train.files import write_text


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="A Res-embedding's lookup, forward and forward + backward with sparse gradients, and "
        "its whole Adam step, against their plain PyTorch forms and a plain embedding. Needs about 12 GiB.",
        epilog="example: python -m benchmarks --rounds 15 --out benchmarks/results/cpu.json",
    )
    parser.add_argument("--items", type=int, nargs="+", default=[63_000, 1_000_000], help="H")
    parser.add_argument("--dim", type=int, default=64, help="D")
    parser.add_argument("--neighbors", type=int, default=20, help="K, entries of a graph row")
    parser.add_argument("--positions", type=int, default=200_000, help="P, ids in a batch")
    parser.add_argument("--zipf", type=float, default=1.05, help="exponent of ids and neighbours")
    parser.add_argument("--batches", type=int, default=8, help="rotating batches")
    parser.add_argument("--rounds", type=int, default=11, help="timed rounds")
    parser.add_argument("--warmup", type=int, default=3, help="rounds not timed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/out/cpu.json"), help="JSON file"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = {
        "dim": args.dim,
        "neighbors": args.neighbors,
        "positions": args.positions,
        "exponent": args.zipf,
        "batches": args.batches,
        "rounds": args.rounds,
        "warmup": args.warmup,
        "seed": args.seed,
    }
    cells = [run_cell(num_items=items, **settings) for items in args.items]
    result = {"machine": machine(), "cells": cells}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.out, json.dumps(result, indent=1) + "\n")
    print(table(result))
    print(f"\nwritten to {args.out}")


if __name__ == "__main__":
    main()
