"""Runs cells, one after another or side by side, and writes the output after each."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resemb_ext.train import TrainingDiverged, run

from .cells import Cell, config_of
from .store import compact, put


@dataclass(frozen=True)
class Task:
    """A cell to run, and how; it travels to a worker process."""

    cell: Cell
    data_dir: Path
    seeds: tuple[int, ...] | None
    overrides: dict[str, Any]
    threads: int
    workers: int
    keep: Path | None
    show: bool


def run_task(task: Task) -> tuple[Cell, dict[str, Any] | None, str]:
    """Runs a cell.

    Returns:
        the cell, its entry for the output, and "" - or None and why it failed.
    """
    with tempfile.TemporaryDirectory(prefix="real-logs-") as scratch:
        folder = (task.keep or Path(scratch)) / task.cell.name.replace(", ", "_")
        try:
            config = config_of(
                task.cell,
                task.data_dir,
                seeds=task.seeds,
                threads=task.threads,
                overrides={**task.overrides, "out": str(folder), "overwrite": True},
            )
            done = run(config, progress=None if task.show else False)
        except (OSError, ValueError, TrainingDiverged) as error:
            return task.cell, None, f"{type(error).__name__}: {error}"
        return task.cell, compact(task.cell, done, task.workers), ""


def run_tasks(tasks: Sequence[Task], out: Path) -> int:
    """Runs the tasks, writing ``out`` after each; the number that failed."""
    failed, workers = 0, tasks[0].workers
    started = time.perf_counter()

    def finish(cell: Cell, entry: dict[str, Any] | None, reason: str) -> None:
        nonlocal failed
        passed = time.perf_counter() - started
        if entry is None:
            failed += 1
            say(f"[{passed:5.0f} s] {cell.name}: FAILED, {reason}")
            return
        put(out, entry)
        gain = entry["summary"]["difference"]["test"]["gauc"]["mean"]
        say(f"[{passed:5.0f} s] {cell.name}: res - plain gAUC {gain:+.4f}, {entry['wall_s']:.0f} s")

    if workers == 1:
        for task in tasks:
            say(f"{task.cell.name} ...")
            finish(*run_task(task))
        return failed
    # NumPy's threads, which torch's setting does not cover, are read from here at import.
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(tasks[0].threads)
    threads = ThreadPoolExecutor(workers)
    try:
        for future in as_completed([threads.submit(in_process, task) for task in tasks]):
            finish(*future.result())
    finally:
        threads.shutdown(cancel_futures=True)  # after Ctrl-C, begin no more cells
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
    return failed


def in_process(task: Task) -> tuple[Cell, dict[str, Any] | None, str]:
    """:func:`run_task` in a process of its own.

    So a cell's peak memory is not charged with what an earlier one left, and a cell that is
    killed, say for want of memory, leaves the others.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        try:
            return process.submit(run_task, task).result()
        except BrokenProcessPool:
            return task.cell, None, "its process was killed"


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)
