"""`python -m benchmarks.graph`: the graph builder against scipy.sparse, polars and duckdb.

Every method reads the same Parquet file of simulated events and makes the rows of the symmetric graph
(window 5, top_k 20, counts, ties by id), in a process of its own; outputs are compared by hash. Needs the
`bench` extra.
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
from pathlib import Path
from typing import Any

import numpy as np

ITEMS, DOMAINS, WINDOW, TOP_K, EVENTS_PER_USER, STAY = 1_000_000, 1_000, 5, 20, 100, 10
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]  # row, neighbour, count; ascending


def mixed(values: np.ndarray) -> np.ndarray:
    """uint64 noise of integers (SplitMix64)."""
    x = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def simulate(path: Path, events: int, block: int = 4_000_000) -> None:
    """A Parquet log in time order: an interest kept for about 10 events, items of it by a Zipf law."""
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
            stay = (stamp + (mixed(user) % np.uint64(STAY * users)).astype(np.int64)) // (
                STAY * users
            )
            domain = mixed(user * np.uint64(1 << 20) + stay.astype(np.uint64)) % np.uint64(DOMAINS)
            uniform = mixed(stamp + (1 << 50)) / 2.0**64
            rank = np.exp(uniform * np.log(per_domain + 1)).astype(np.int64) - 1
            item = domain.astype(np.int64) * per_domain + np.minimum(rank, per_domain - 1)
            columns = [user.astype(np.int64), item, stamp]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=1_000_000)
    os.replace(beside, path)


def ours(path: Path) -> Rows:
    from resemb_ext.graph import InterestGraph

    graph = InterestGraph.from_parquet(
        path, num_items=ITEMS, window=WINDOW, top_k=TOP_K, self_weight=0, threads=2
    )
    row = np.repeat(np.arange(ITEMS), np.diff(graph.indptr))
    other = graph.neighbors != row
    return row[other], graph.neighbors[other], graph.weights[other]


def scipy(path: Path) -> Rows:
    import pyarrow.parquet as pq
    from scipy.sparse import coo_array, csr_array

    table = pq.read_table(path)
    user, item, stamp = (table[name].to_numpy() for name in ("user_id", "item_id", "timestamp"))
    order = np.lexsort((stamp, user))
    user, item = user[order], item[order].astype(np.int32)
    counts = csr_array((ITEMS, ITEMS), dtype=np.int32)
    for gap in range(1, WINDOW + 1):
        near = (user[gap:] == user[:-gap]) & (item[gap:] != item[:-gap])
        pair = (item[gap:][near], item[:-gap][near])
        ones = np.ones(len(pair[0]), np.int32)
        counts = counts + coo_array((ones, pair), shape=(ITEMS, ITEMS)).tocsr()
    counts = (counts + counts.T).tocsr()
    # One sort of packed (row, -count, id): 20, 24 and 20 bits.
    row = np.repeat(np.arange(ITEMS, dtype=np.uint64), np.diff(counts.indptr))
    inverse = np.uint64((1 << 24) - 1) - counts.data.astype(np.uint64)
    packed = row << np.uint64(44) | inverse << np.uint64(20) | counts.indices.astype(np.uint64)
    packed.sort()
    rank = np.arange(len(packed)) - counts.indptr[:-1][row]  # rows keep their places
    packed = packed[rank < TOP_K]
    low, middle = np.uint64((1 << 20) - 1), np.uint64((1 << 24) - 1)
    weight = (1 << 24) - 1 - (packed >> np.uint64(20) & middle).astype(np.int64)
    return (packed >> np.uint64(44)).astype(np.int64), (packed & low).astype(np.int64), weight


def polars(path: Path) -> Rows:
    import polars as pl

    events = (
        pl.scan_parquet(path)
        .sort("user_id", "timestamp")
        .select("user_id", pl.col("item_id").cast(pl.Int32).alias("i"))
    )
    parts = []
    for gap in range(1, WINDOW + 1):
        near = events.with_columns(
            pl.col("i").shift(gap).alias("j"), pl.col("user_id").shift(gap).alias("before")
        ).filter((pl.col("user_id") == pl.col("before")) & (pl.col("i") != pl.col("j")))
        parts += [
            near.select("i", "j"),
            near.select(pl.col("j").alias("i"), pl.col("i").alias("j")),
        ]
    packed = pl.col("n").cast(pl.Int64) * (1 << 20) + ((1 << 20) - 1 - pl.col("j").cast(pl.Int64))
    rows = (
        pl.concat(parts)
        .group_by("i", "j")
        .agg(pl.len().alias("n"))
        .select("i", packed.alias("packed"))
        .group_by("i")
        .agg(pl.col("packed").top_k(TOP_K))
        .explode("packed")
        .collect()
    )
    return unpacked(rows["i"].to_numpy(), rows["packed"].to_numpy())


def duckdb(path: Path) -> Rows:
    import duckdb as db

    leads = ", ".join(f"lead(item_id, {gap}) over users as j{gap}" for gap in range(1, WINDOW + 1))
    pairs = " union all ".join(
        f"select item_id as i, j{gap} as j from near where j{gap} <> item_id union all "
        f"select j{gap} as i, item_id as j from near where j{gap} <> item_id"
        for gap in range(1, WINDOW + 1)
    )
    connection = db.connect(config={"threads": 2})
    found = connection.execute(
        f"""with near as (
            select item_id::integer as item_id, {leads} from
            (select user_id, timestamp, item_id::integer as item_id from read_parquet('{path}'))
            window users as (partition by user_id order by timestamp)),
        counts as (select i, j, count(*) as n from ({pairs}) group by i, j)
        select i, unnest(max(n * 1048576 + (1048575 - j), {TOP_K})) as packed
        from counts group by i"""
    ).fetchnumpy()
    return unpacked(np.asarray(found["i"]), np.asarray(found["packed"]))


def unpacked(row: np.ndarray, packed: np.ndarray) -> Rows:
    neighbor, weight = (1 << 20) - 1 - (packed & ((1 << 20) - 1)), packed >> 20
    order = np.lexsort((neighbor, row))
    return row[order], neighbor[order], weight[order]


METHODS: dict[str, Callable[[Path], Rows]] = {
    "resemb_ext": ours,
    "scipy.sparse": scipy,
    "polars": polars,
    "duckdb": duckdb,
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
    rows = METHODS[method](path)
    took, worked = time.perf_counter() - began, time.process_time() - worked
    # CPU seconds of all threads: they hold where other programs share the machine.
    figures = {"seconds": took, "cpu_seconds": worked, "peak_mib": peak_mib()}
    print(json.dumps({**figures, "edges": len(rows[0]), "digest": digest(rows)}))


def measure(method: str, path: Path, limit: float) -> dict[str, Any]:
    """The figures of a method in a fresh process; "failed" says why there are none."""
    command = [sys.executable, "-m", "benchmarks.graph", "--child", method, "--file", str(path)]
    environment = {**os.environ, "POLARS_MAX_THREADS": "2", "OMP_NUM_THREADS": "2"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"more than {limit:.0f} s"}
    if done.returncode:
        return {
            "failed": (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:200]
        }
    return json.loads(done.stdout.strip().splitlines()[-1])


def plot(cells: list[dict[str, Any]], path: Path) -> None:
    """Seconds and peak memory over the number of events."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axis, field, label in zip(
        figure.subplots(1, 2), ("seconds", "peak_mib"), ("seconds", "peak memory, MiB"), strict=True
    ):
        for method in METHODS:
            points = [
                (cell["events"], cell["methods"][method][field])
                for cell in cells
                if field in cell["methods"].get(method, {})
            ]
            if points:
                axis.loglog(*zip(*points, strict=True), marker="o", label=method)
        axis.set(xlabel="events", ylabel=label)
        axis.grid(True, alpha=0.3)
    figure.axes[0].legend()
    figure.suptitle(
        f"Graph of {ITEMS:,} items, window {WINDOW}, top_k {TOP_K}, from Parquet, 2 threads"
    )
    figure.savefig(path, dpi=120)


def run_cell(
    events: int, methods: list[str], folder: Path, rounds: int, limit: float
) -> dict[str, Any]:
    """All methods on one simulated log: the median of `rounds` runs, and whether outputs agree."""
    path = folder / f"events-{events}.parquet"
    if not path.exists():
        simulate(path, events)
    runs: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
    for turn in range(rounds):
        for method in methods if turn % 2 == 0 else methods[::-1]:
            runs[method].append(measure(method, path, limit))
            print(f"{events:>11,} {method:<13} {runs[method][-1]}", flush=True)
    found: dict[str, Any] = {}
    for method, results in runs.items():
        good = sorted((r for r in results if "failed" not in r), key=lambda r: r["seconds"])
        found[method] = good[(len(good) - 1) // 2] if good else results[0]
    digests = {cell["digest"] for cell in found.values() if "digest" in cell}
    return {"events": events, "same_output": len(digests) == 1, "methods": found}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.graph",
        description=__doc__,
        epilog="example: python -m benchmarks.graph --events 100000 1000000 --out out/graph.json",
    )
    parser.add_argument("--events", type=int, nargs="+", default=[10**5, 10**6, 10**7, 10**8])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument(
        "--peers-up-to", type=int, default=10**7, help="largest log for the other methods"
    )
    parser.add_argument("--rounds", type=int, default=1, help="runs of which the median counts")
    parser.add_argument("--limit", type=float, default=600, help="seconds a run may take")
    parser.add_argument("--folder", type=Path, help="for simulated logs (default: beside --out)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/graph.json"))
    parser.add_argument("--child", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.child, args.file)
    from benchmarks.machine import machine
    from resemb_ext.train.files import write_text

    folder = args.folder or args.out.parent
    folder.mkdir(parents=True, exist_ok=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    cells = []
    for events in args.events:
        methods = [m for m in args.methods if m == "resemb_ext" or events <= args.peers_up_to]
        cells.append(run_cell(events, methods, folder, args.rounds, args.limit))
        settings = {"items": ITEMS, "window": WINDOW, "top_k": TOP_K, "rounds": args.rounds}
        result = {"machine": machine(), "settings": settings, "cells": cells}
        write_text(args.out, json.dumps(result, indent=1) + "\n")
        plot(cells, args.out.with_suffix(".png"))
    if not all(cell["same_output"] for cell in cells):
        raise SystemExit("the methods disagree; see the digests in the JSON file")


if __name__ == "__main__":
    main()
