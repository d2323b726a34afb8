"""``python -m benchmarks.graph``: the graph builder against scipy.sparse, polars and duckdb.

Every method reads the same Parquet file of simulated events and makes the rows of the symmetric graph
(window 5, top_k 20, counts, ties by id), in a process of its own, in the form that is natural for it.
The neighbours are compared by hash afterwards. Neither imports nor that comparison are timed. Needs the ``bench``
extra. ``--keep FILE`` adds runs to those in the file, so that long measurements can be made in parts.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import graph_baselines
from benchmarks.graph_baselines import ITEMS, TOP_K, WINDOW

DOMAINS, EVENTS_PER_USER, STAY = 1_000, 100, 10
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]  # row, neighbour, count; ascending


def mixed(values: np.ndarray) -> np.ndarray:
    """uint64 noise of integers (SplitMix64)."""
    x = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def simulate(path: Path, events: int, block: int = 4_000_000) -> None:
    """A Parquet log in time order: an interest kept for about 10 events, items of it by a Zipf distribution."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    users = max(events // EVENTS_PER_USER, 1)
    per_domain = ITEMS // DOMAINS
    beside = path.with_suffix(".tmp")
    schema = pa.schema([(name, pa.int64()) for name in ("user_id", "item_id", "timestamp")])
    with pq.ParquetWriter(beside, schema, compression="snappy") as writer:
        for begin in range(0, events, block):
            stamp = np.arange(begin, min(events, begin + block))
            user = mixed(stamp) % np.uint64(users)
            stay = (stamp + (mixed(user) % np.uint64(STAY * users)).astype(np.int64)) // (STAY * users)
            domain = mixed(user * np.uint64(1 << 20) + stay.astype(np.uint64)) % np.uint64(DOMAINS)
            uniform = mixed(stamp + (1 << 50)) / 2.0**64
            rank = np.exp(uniform * np.log(per_domain + 1)).astype(np.int64) - 1
            item = domain.astype(np.int64) * per_domain + np.minimum(rank, per_domain - 1)
            columns = [user.astype(np.int64), item, stamp]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=1_000_000)
    os.replace(beside, path)


def ours(path: Path) -> Any:
    from resemb_ext.graph import InterestGraph

    return InterestGraph.from_parquet(path, num_items=ITEMS, window=WINDOW, top_k=TOP_K, self_weight=0, threads=2)


def rows_of(method: str, found: Any) -> Rows:
    """Row, neighbour and count of every kept entry, of what a method returns."""
    if method == "resemb_ext":
        row = np.repeat(np.arange(ITEMS), np.diff(found.indptr))
        other = found.neighbors != row
        return row[other], found.neighbors[other], found.weights[other]
    if not isinstance(found, graph_baselines.Packed):
        found = graph_baselines.Packed(np.asarray(found["row"]), np.asarray(found["key"]))
    return graph_baselines.rows_of(found)


METHODS: dict[str, Callable[[Path], Any]] = {
    "resemb_ext": ours,
    "scipy.sparse": graph_baselines.scipy,
    "polars": graph_baselines.polars,
    "duckdb": graph_baselines.duckdb,
}


def digest(rows: Rows) -> str:
    """Of the rows ascending by (row, neighbour)."""
    row, neighbor, weight = (np.asarray(part).astype(np.int64) for part in rows)
    order = np.argsort(row * ITEMS + neighbor)
    total = hashlib.sha256()
    for part in (row, neighbor, weight):
        total.update(part[order].tobytes())
    return total.hexdigest()


def peak_mib() -> int:
    """Peak resident memory of this process so far."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) >> 10


def child(method: str, path: Path) -> None:
    """Runs one method and prints what it took."""
    import pyarrow.parquet  # noqa: F401  (imports are not what is timed)

    needed = {"resemb_ext": "resemb_ext.graph", "scipy.sparse": "scipy.sparse"}.get(method, method)
    importlib.import_module(needed)
    began, worked = time.perf_counter(), time.process_time()
    found = METHODS[method](path)
    took, worked = time.perf_counter() - began, time.process_time() - worked
    # CPU seconds of all threads: they hold where other programs share the machine.
    figures = {"seconds": round(took, 3), "cpu_seconds": round(worked, 3), "peak_mib": peak_mib()}
    rows = rows_of(method, found)
    print(json.dumps({**figures, "edges": len(rows[0]), "digest": digest(rows)}))


def measure(method: str, path: Path, limit: float) -> dict[str, Any]:
    """The figures of a method in a fresh process; "failed" says why there are none."""
    command = [sys.executable, "-m", "benchmarks.graph", "--child", method, "--file", str(path)]
    environment = {**os.environ, "POLARS_MAX_THREADS": "2", "OMP_NUM_THREADS": "2"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"failed": f"more than {limit:.0f} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:200]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_cell(cell: dict[str, Any], methods: list[str], folder: Path, rounds: int, limit: float) -> None:
    """Adds ``rounds`` runs of every method to a cell, interleaved, with the order turned each round."""
    path = folder / f"events-{cell['events']}.parquet"
    if not path.exists():
        simulate(path, cell["events"])
    for turn in range(rounds):
        for method in methods if turn % 2 == 0 else methods[::-1]:
            run = measure(method, path, limit)
            print(f"{cell['events']:>11,} {method:<13} {run}", flush=True)
            cell["runs"].setdefault(method, []).append(run)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.graph",
        description="The graph builder against scipy.sparse, polars and duckdb. Every method reads the same Parquet file of "
        "simulated events and makes the same graph (window 5, top_k 20, counts). Needs the extra bench.",
        epilog="example: python -m benchmarks.graph --events 100000 1000000 --out out/graph.json",
    )
    parser.add_argument("--events", type=int, nargs="+", default=[10**5, 10**6, 10**7, 10**8])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--baselines-up-to", type=int, default=10**7, help="largest log for the other methods")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved runs of every method")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="result to add the runs to")
    parser.add_argument("--limit", type=float, default=600, help="seconds a run may take")
    parser.add_argument("--folder", type=Path, help="for simulated logs (default: beside --out)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/graph.json"))
    parser.add_argument("--child", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.child, args.file)
    from benchmarks.machine import machine
    from resemb_ext.runtime.files import write_text

    folder = args.folder or args.out.parent
    folder.mkdir(parents=True, exist_ok=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    settings = {"items": ITEMS, "window": WINDOW, "top_k": TOP_K, "threads": 2}
    cells = json.loads(args.keep.read_text())["cells"] if args.keep else []
    for events in args.events:
        methods = [m for m in args.methods if m == "resemb_ext" or events <= args.baselines_up_to]
        cell = next((c for c in cells if c["events"] == events), None)
        if cell is None:
            cells.append(cell := {"events": events, "runs": {}})
        run_cell(cell, methods, folder, args.rounds, args.limit)
        cells.sort(key=lambda cell: cell["events"])
        versions = {name: version(name) for name in ("scipy", "polars", "duckdb", "pyarrow")}
        result = {"machine": machine() | versions, "settings": settings, "cells": cells}
        write_text(args.out, json.dumps(result, indent=1) + "\n")
    for cell in cells:
        if len({run["digest"] for runs in cell["runs"].values() for run in runs if "digest" in run}) > 1:
            raise SystemExit(f"{cell['events']:,} events: the methods disagree, see {args.out}")


if __name__ == "__main__":
    main()
