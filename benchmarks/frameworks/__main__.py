"""``python -m benchmarks.frameworks``: training DIN here and in FuxiCTR, DeepCTR-Torch and RecBole."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import resemb_ext as rx
from benchmarks.frameworks.report import frameworks_table
from benchmarks.frameworks.samples import draw, simulated, write
from benchmarks.frameworks.settings import ATTENTION, DIM, HIDDEN, MODULES, OWN, SIDES
from benchmarks.machine import machine
from resemb_ext.runtime.files import check_out, write_json

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ("cpu_s", "wall_s", "data_cpu_s", "peak_mib", "prepare_s")


def run_side(side: str, python: str, folder: Path, batch_size: int, threads: int) -> dict[str, Any]:
    """A side's measurement, in a process of its own.

    Raises:
        RuntimeError: the process failed; with the end of what it wrote.
    """
    # Threads that wait spin otherwise, and their CPU time would be the library's.
    limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [python, "-m", "benchmarks.frameworks.child", side, str(folder), str(batch_size), str(threads)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **limits}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{SIDES[side]}: {python} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def missing(side: str, python: str) -> str | None:
    """Why a side cannot run: its library is not installed for that Python."""
    if side not in MODULES:
        return None
    found = f"import importlib.util as u, sys; sys.exit(u.find_spec({MODULES[side]!r}) is None)"
    if subprocess.run([python, "-c", found], cwd=ROOT).returncode:
        return f"{MODULES[side]} is not installed for {python}"
    return None


def compare(
    log: rx.data.Log,
    sides: dict[str, str],
    *,
    samples: int,
    batch_size: int,
    threads: int,
    rounds: int,
    run: Callable[..., dict[str, Any]] = run_side,
) -> dict[str, Any]:
    """All sides on samples of one log, in an order drawn anew each round.

    Args:
        sides: the Python of each side.
        run: as ``run_side``.

    Returns:
        JSON-able: sizes of the samples, and ``summary`` of each side.
    """
    chosen, graph = draw(log, samples)
    with tempfile.TemporaryDirectory() as scratch:
        about = write(Path(scratch), chosen, graph)
        found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        order = np.random.default_rng(0)
        for _ in tqdm(range(rounds), desc=log.name, disable=None):
            for side in order.permutation(list(sides)):
                found[side].append(run(side, sides[side], Path(scratch), batch_size, threads))
    about |= {"log": log.name, "batch_size": batch_size, "threads": threads, "rounds": rounds}
    return {**about, "sides": {side: summary(rows, found[OWN], about["samples"]) for side, rows in found.items()}}


def summary(rows: list[dict[str, Any]], own: list[dict[str, Any]], samples: int) -> dict[str, Any]:
    """Medians of a side's rounds: microseconds a sample, MiB, and quartiles of its ratios to ``own`` by round."""
    median = {name: float(np.median([row[name] for row in rows])) for name in MEASURED}
    result: dict[str, Any] = {
        "version": rows[0]["version"],
        "torch": rows[0]["torch"],
        "batches": rows[0]["batches"],
        "cpu_us": round(1e6 * median["cpu_s"] / samples, 2),
        "wall_us": round(1e6 * median["wall_s"] / samples, 2),
        "data_share": round(float(np.median([row["data_cpu_s"] / row["cpu_s"] for row in rows])), 3),
        "peak_mib": round(median["peak_mib"]),
        "prepare_s": round(median["prepare_s"], 2),
        "loss": round(float(np.median([row["loss"] for row in rows])), 4),
    }
    for name in ("cpu", "wall"):
        ratios = [row[f"{name}_s"] / base[f"{name}_s"] for row, base in zip(rows, own, strict=True)]
        result[f"{name}_ratio"] = [round(float(q), 2) for q in np.percentile(ratios, [25, 50, 75])]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.frameworks",
        description="Training DIN on the same samples, with the same sizes and batches: CPU and wall time a sample and "
        "peak memory, here and in other libraries, each in a process of its own.",
        epilog="example: python -m benchmarks.frameworks --data amazon-beauty.parquet --items 1000000 "
        "--fuxictr ENV/bin/python",
    )
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="log files")
    parser.add_argument("--items", type=int, nargs="*", default=[], help="simulated logs with this many items")
    for side in MODULES:
        parser.add_argument(
            f"--{side}", metavar="PYTHON", default=sys.executable, help=f"Python that has {SIDES[side]}"
        )
    parser.add_argument("--samples", type=int, default=102_400, help="of a log file (default: %(default)s)")
    parser.add_argument(
        "--simulated-samples", type=int, default=20_480, help="of a simulated log (default: %(default)s)"
    )
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/frameworks.json"), help="JSON file")
    args = parser.parse_args()
    if not args.data and not args.items:
        parser.error("name log files with --data, sizes of simulated logs with --items, or both")
    check_out(args.out, args.data)
    torch.set_num_threads(args.threads)
    sides = {side: getattr(args, side, sys.executable) for side in SIDES}
    skipped = {side: why for side, python in sides.items() if (why := missing(side, python))}
    for side, why in skipped.items():
        print(f"{SIDES[side]} is left out: {why}")
    sides = {side: python for side, python in sides.items() if side not in skipped}
    result: dict[str, Any] = {
        "machine": machine(),
        "dim": DIM,
        "hidden": [HIDDEN],
        "attention": [ATTENTION],
        "left_out": sorted(skipped),
        "logs": [],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    options = {"batch_size": args.batch_size, "threads": args.threads, "rounds": args.rounds}
    cells: list[tuple[Callable[[], rx.data.Log], int]] = []
    for path in args.data:
        cells.append((lambda path=path: rx.data.read_log(path, label=False), args.samples))  # type: ignore[misc]
    for items in args.items:
        made = lambda items=items: simulated(items, args.simulated_samples)  # type: ignore[misc]  # noqa: E731
        cells.append((made, args.simulated_samples))
    for log, samples in cells:
        result["logs"].append(compare(log(), sides, samples=samples, **options))
        write_json(args.out, result)
    print(frameworks_table(result))
    print(f"\nwritten to {args.out}")


if __name__ == "__main__":
    main()
