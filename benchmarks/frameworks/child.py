"""One side of the comparison in this process: ``python -m benchmarks.frameworks.child SIDE FOLDER BATCH THREADS``.

Prints a line of JSON. FOLDER holds what ``samples.write`` wrote.
"""

from __future__ import annotations

import gc
import importlib
import json
import resource
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmarks.frameworks.settings import MODULES, WARMUP

PACKAGES = {"fuxictr": "fuxictr", "deepctr": "deepctr-torch", "recbole": "recbole"}


class Side(Protocol):
    """Samples loaded and a model made."""

    def warm(self, steps: int) -> None:
        """Trains some batches."""

    def read(self) -> int:
        """One pass over the training batches, as they are loaded for training; their number."""

    def train(self) -> float:
        """One epoch, the library's own loop; the mean loss."""


def cpu_seconds() -> float:
    """User and system time of this process and of its children that have ended."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        spent = resource.getrusage(who)
        total += spent.ru_utime + spent.ru_stime
    return total


def timed(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """What ``run`` returns, its CPU seconds and its wall seconds. The workers of a loader end with its iterator."""
    gc.collect()
    cpu, wall = cpu_seconds(), time.perf_counter()
    result = run()
    return result, cpu_seconds() - cpu, time.perf_counter() - wall


def peak_mib() -> float:
    """Peak resident set of this process in MiB; workers share most of their memory with it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def make(side: str, folder: Path, batch_size: int) -> Side:
    module = importlib.import_module(f"benchmarks.frameworks.{side if side in MODULES else 'own'}_side")
    return module.make(side, folder, batch_size)


def measure(side: str, folder: Path, batch_size: int, threads: int) -> dict[str, Any]:
    """CPU and wall seconds of an epoch and of loading its batches alone, peak memory, loss, and the version."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    made, _, prepare_s = timed(lambda: make(side, folder, batch_size))
    made.warm(WARMUP)
    batches, data_cpu, data_wall = timed(made.read)
    loss, cpu, wall = timed(made.train)
    return {
        "batches": batches,
        "cpu_s": cpu,
        "wall_s": wall,
        "data_cpu_s": data_cpu,
        "data_wall_s": data_wall,
        "prepare_s": prepare_s,
        "peak_mib": peak_mib(),
        "loss": float(loss),
        "version": metadata.version(PACKAGES[side]) if side in PACKAGES else None,
        "torch": torch.__version__,
    }


def main() -> None:
    side, folder, batch_size, threads = sys.argv[1:5]
    print(json.dumps(measure(side, Path(folder), int(batch_size), int(threads))))


if __name__ == "__main__":
    main()
