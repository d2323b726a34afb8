"""``python -m benchmarks.waiting``: DIN steps by how OpenMP's waiting threads wait.

OpenMP reads how its threads wait once, when torch loads it. So each time is that of a process of its own; the ways
take turns, on the machine as it is and beside threads that keep every core busy.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from resemb_command import SPINS, WAITING

WAYS = {
    "default": {},  # of GNU OpenMP: spin for milliseconds
    "resemb": {"GOMP_SPINCOUNT": str(SPINS)},  # what the command sets
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},  # sleep at once
}


def steps(count: int, threads: int) -> list[float]:
    """Seconds of each of ``count`` training steps of DIN with Res-embedding on the simulated log, after three."""
    import torch

    from resemb_ext.train import RunConfig
    from resemb_ext.train.prepare import build_model, prepare, train_samples
    from resemb_ext.train.threads import training_step

    torch.set_num_threads(threads)
    config = RunConfig(model="din", embedding="res", dim=64, table_optimizer="lazy", threads=threads)
    prepared = prepare(config)
    model = build_model(config, prepared, "res", 0)
    step = training_step(model, train_samples(config, prepared.split, 0), config.fit_config())
    times = []
    for turn in range(count + 3):
        started = time.perf_counter()
        step()
        if turn >= 3:
            times.append(time.perf_counter() - started)
    return times


def in_process(way: str, count: int, threads: int) -> float:
    """Median seconds of a step in a process whose threads wait so."""
    clean = {name: value for name, value in os.environ.items() if name not in WAITING}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.waiting", "--steps", str(count), "--threads", str(threads), "--one"],
        env={**clean, **WAYS[way]},
        capture_output=True,
        text=True,
        check=True,
    )
    return median(json.loads(done.stdout))


def measure(count: int, threads: int, rounds: int, busy: int) -> dict[str, Any]:
    """Medians over ``rounds`` processes of each way, beside ``busy`` processes that never wait."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(rounds):
            for way, taken in times.items():
                taken.append(in_process(way, count, threads))
    finally:
        for other in others:
            other.kill()
            other.wait()
    return {
        "busy": busy,
        "ms": {way: round(1e3 * median(taken), 3) for way, taken in times.items()},
        "to_default": {
            way: [round(one / usual, 3) for one, usual in zip(taken, times["default"], strict=True)]
            for way, taken in times.items()
            if way != "default"
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.waiting", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--steps", type=int, default=48, help="timed steps of a process, an eighth of it beside busy ones"
    )
    parser.add_argument("--rounds", type=int, default=5, help="processes of each way")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/waiting.json"), help="JSON file")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(steps(args.steps, args.threads)))
        return
    from benchmarks.machine import machine
    from resemb_ext.runtime.files import write_json

    result: dict[str, Any] = {"machine": machine(), "threads": args.threads, "steps": args.steps, "cells": []}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for busy in (0, os.cpu_count() or 1):
        cell = measure(args.steps // 8 if busy else args.steps, args.threads, args.rounds, busy)
        result["cells"].append(cell)
        write_json(args.out, result)
        print(f"{busy} busy processes, ms a step: {cell['ms']}")
        for way, ratios in cell["to_default"].items():
            print(f"  {way}/default {median(ratios)} [{min(ratios)}, {max(ratios)}]", flush=True)


if __name__ == "__main__":
    main()
