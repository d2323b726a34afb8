"""``python -m benchmarks.graph_large``: a graph of a log that is larger than memory, by the builder alone.

Simulates 10^9 events of 10^7 items in ten Parquet files in time order, about 12 GB, and builds their graph
(window 5, top_k 20, counts) within ``--memory``, in a work folder. Time and peak memory are those of a process of its
own. A build that was stopped goes on, and its times add up. Nothing is simulated that lies there already.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.graph import mixed, peak_mib

WINDOW, TOP_K, FILES = 5, 20, 10
PER_DOMAIN, EVENTS_PER_USER, STAY = 1_000, 100, 10
BLOCK, ROW_GROUP = 1 << 16, 1 << 20


def _first(begin: int, end: int, users: int, domains: int) -> tuple[np.ndarray, np.ndarray]:
    """user and item of events [begin, end) of the first file: busy and rare users, an interest kept for a while."""
    stamp = np.arange(begin, end)
    noise = mixed(stamp)
    share = (noise >> np.uint64(32)).astype(np.float64) / 2.0**32
    user = (share * share * users).astype(np.int64)
    per_interest = STAY * users
    stay = (stamp + (user * 7_919) % per_interest) // per_interest
    domain = mixed(user * (1 << 20) + stay) % np.uint64(domains)
    uniform = (noise & np.uint64(0xFFFFFFFF)).astype(np.float64) / 2.0**32
    rank = np.minimum(np.exp(uniform * np.log(PER_DOMAIN + 1)).astype(np.int64) - 1, PER_DOMAIN - 1)
    return user, domain.astype(np.int64) * PER_DOMAIN + rank


def simulate(paths: list[Path], events: int, items: int) -> None:
    """Writes the log: in time order, every file of as many events, the later ones with other users' interests."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    users, domains, size = max(events // EVENTS_PER_USER, 1), items // PER_DOMAIN, events // len(paths)
    schema = pa.schema([("user_id", pa.int32()), ("item_id", pa.int32()), ("timestamp", pa.int64())])
    options: dict[str, Any] = {"use_dictionary": False, "column_encoding": {"timestamp": "DELTA_BINARY_PACKED"}}
    beside = [path.with_suffix(".tmp") for path in paths]
    with ExitStack() as files:
        writers = [files.enter_context(pq.ParquetWriter(b, schema, compression="none", **options)) for b in beside]
        for begin in range(0, size, ROW_GROUP):
            end = min(begin + ROW_GROUP, size)
            parts = [_first(b, min(b + BLOCK, end), users, domains) for b in range(begin, end, BLOCK)]
            user, item = (np.concatenate(column).astype(np.int32) for column in zip(*parts, strict=True))
            for part, writer in enumerate(writers):
                who = (user + np.int32(users // len(paths) * part)) % np.int32(users)
                what = (item + np.int32(domains * 3 // 7 * PER_DOMAIN // len(paths) * part)) % np.int32(items)
                stamp = np.arange(part * size + begin, part * size + end)
                writer.write_table(pa.table([who, what, stamp], schema=schema))
    for path, written in zip(paths, beside, strict=True):
        os.replace(written, path)


def log(folder: Path, events: int, items: int) -> list[Path]:
    """The log's files, made where they are not there."""
    paths = [folder / f"events-{events}-{items}-{part}.parquet" for part in range(FILES)]
    if not all(path.exists() for path in paths):
        simulate(paths, events, items)
    return paths


def child(paths: list[Path], items: int, memory: int, work: Path, out: Path) -> None:
    """Builds, or goes on, and adds what that took to a file beside ``work``, now and then, as it may be stopped."""
    import pyarrow.parquet  # noqa: F401  (imports are not what is timed)

    from resemb_ext.graph import InterestGraph

    notes = work.with_suffix(".json")
    before = json.loads(notes.read_text()) if notes.exists() else {"seconds": 0.0, "cpu_seconds": 0.0, "peak_mib": 0}
    began, worked, noted = time.perf_counter(), time.process_time(), 0.0

    def note(done: int, total: int, end: bool = False) -> None:
        nonlocal noted
        took = time.perf_counter() - began
        if not end and took - noted < 1:
            return
        noted = took
        figures = {
            "done": round(done / total, 3),
            "starts": before.get("starts", 0) + 1,
            "seconds": round(before["seconds"] + took, 2),
            "cpu_seconds": round(before["cpu_seconds"] + time.process_time() - worked, 2),
            "peak_mib": max(before["peak_mib"], peak_mib()),
        }
        notes.with_suffix(".tmp").write_text(json.dumps(figures))
        os.replace(notes.with_suffix(".tmp"), notes)

    graph = InterestGraph.from_parquet(
        paths,
        num_items=items,
        window=WINDOW,
        top_k=TOP_K,
        self_weight=0,
        threads=2,
        memory=memory,
        work_dir=work,
        save=out,
        progress=note,
    )
    note(1, 1, end=True)
    figures = json.loads(notes.read_text()) | {"edges": graph.num_edges, "hash": graph.hash}
    notes.write_text(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.graph_large",
        description="The graph builder on a simulated log of 10^9 events of 10^7 items in ten Parquet files, larger than"
        " the memory that it may use (window 5, top_k 20, counts). The same command goes on after a stop.",
        epilog="example: python -m benchmarks.graph_large --events 10000000 --items 100000 --memory 200 --folder out",
    )
    parser.add_argument("--events", type=int, default=10**9)
    parser.add_argument("--items", type=int, default=10**7)
    parser.add_argument("--memory", type=int, default=8 << 10, metavar="MIB", help="of the builder (default: 8192)")
    parser.add_argument("--folder", type=Path, required=True, help="for the log, the work and the graph")
    parser.add_argument("--log-only", action="store_true", help="simulate the log and stop")
    parser.add_argument("--limit", type=float, help="stop the build after so many seconds")
    parser.add_argument("--out", type=Path, help="result to write (default: in the folder)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.items < PER_DOMAIN or args.items % PER_DOMAIN or args.events < FILES or args.events % FILES:
        parser.error(f"expected a multiple of {PER_DOMAIN:,} items and one of {FILES} events")
    if args.items > 10**9:
        parser.error("expected at most 10^9 items, whose ids fit 32 bits")
    args.folder.mkdir(parents=True, exist_ok=True)
    work, out = args.folder / "work", args.folder / "graph.npz"
    paths = log(args.folder, args.events, args.items)
    if args.log_only:
        return
    if args.child:
        return child(paths, args.items, args.memory << 20, work, out)
    from benchmarks.machine import machine
    from resemb_ext.runtime.files import write_text

    notes = work.with_suffix(".json")
    if notes.exists() and not work.exists():
        notes.unlink()  # of a build that has ended
    command = [sys.executable, "-m", "benchmarks.graph_large", "--child", "--folder", str(args.folder)]
    command += ["--events", str(args.events), "--items", str(args.items), "--memory", str(args.memory)]
    try:
        done = subprocess.run(command, timeout=args.limit).returncode
    except subprocess.TimeoutExpired:
        done = -1
    figures = json.loads(notes.read_text())
    print(json.dumps(figures))
    if done:
        raise SystemExit("the build was stopped or failed; the same command goes on")
    settings = {
        "events": args.events,
        "items": args.items,
        "window": WINDOW,
        "top_k": TOP_K,
        "threads": 2,
        "memory_mib": args.memory,
        "log_mib": sum(path.stat().st_size for path in paths) >> 20,
    }
    result = {"machine": machine(), "settings": settings, "run": figures}
    write_text(args.out or args.folder / "graph_large.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
