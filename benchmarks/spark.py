"""``python -m benchmarks.spark``: graphs counted by an embedded Spark against the package's own builder.

Both read the same Parquet file, in a process of their own, and must give the same graph, which its hash tells. Spark
starts before the clock; what the start takes is given apart. It writes rows, which are then read into a graph: the
second time includes that. Memory is that of the process and of its Java. Needs the extra ``spark``. ``--keep FILE`` adds
logs to those in the file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.graph import peak_mib, simulate
from benchmarks.graph_baselines import ITEMS, TOP_K, WINDOW

THREADS, HEAP_GIB = 2, 4
METHODS = ("resemb_ext", "spark")


def _java() -> list[Path]:
    """``/proc`` of the Java processes that this one started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        except OSError:
            continue
        if lines["Name"].strip() == "java" and int(lines["PPid"]) == os.getpid():
            found.append(status.parent)
    return found


def java_figures() -> tuple[float, int]:
    """CPU seconds and peak resident MiB of Java so far."""
    seconds, mib = 0.0, 0
    for process in _java():
        fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
        seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        text = (process / "status").read_text()
        mib += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM")) >> 10
    return seconds, mib


def own(path: Path, options: dict[str, Any]) -> dict[str, Any]:
    from resemb_ext.graph import InterestGraph

    began, worked = time.perf_counter(), time.process_time()
    graph = InterestGraph.from_parquet(path, threads=THREADS, **options)
    took, worked = time.perf_counter() - began, time.process_time() - worked
    return {
        "seconds": took,
        "cpu_seconds": worked,
        "peak_mib": peak_mib(),
        "hash": graph.hash,
        "edges": graph.num_edges,
    }


def with_spark(path: Path, options: dict[str, Any]) -> dict[str, Any]:
    from resemb_ext.graph import InterestGraph
    from resemb_ext.integrations import spark

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        started = time.perf_counter()
        with spark.session(f"local[{THREADS}]", HEAP_GIB << 30, {"spark.local.dir": folder}) as running:
            began, before = time.perf_counter(), java_figures()[0]
            rows = spark.interest_graph(path, Path(folder) / "rows", spark=running, **options)
            counted = time.perf_counter()
            java, java_mib = java_figures()
        graph = InterestGraph.from_rows(rows)
        whole = time.perf_counter()
        written = sum(file.stat().st_size for file in Path(folder, "rows").rglob("*.parquet"))
    return {
        "seconds": counted - began,
        "with_reading": whole - began,
        "start_seconds": began - started,
        "cpu_seconds": java - before,
        "peak_mib": java_mib + peak_mib(),
        "written_mib": written >> 20,
        "hash": graph.hash,
        "edges": graph.num_edges,
    }


def child(method: str, path: Path, options: dict[str, Any]) -> None:
    import pyarrow.parquet  # noqa: F401  (imports are not what is timed)

    print(json.dumps((own if method == "resemb_ext" else with_spark)(path, options)))


def measure(method: str, path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The figures of a method in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.spark", "--child", method, "--file", str(path)]
    done = subprocess.run([*command, "--options", json.dumps(options)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{method}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return {k: round(v, 2) if isinstance(v, float) else v for k, v in json.loads(done.stdout.splitlines()[-1]).items()}


def table(result: dict[str, Any]) -> str:
    """Markdown: what both took for every log."""
    m, s = result["machine"], result["settings"]
    lines = [
        f"{s['threads']} threads, a heap of {s['heap_gib']} GiB for Spark; {m['cpu']}, {m['cores']} cores; "
        f"pyspark {m['pyspark']}.",
        "",
        "| log | options | by | seconds | with reading the rows | CPU seconds | peak memory, MiB |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for cell in result["cells"]:
        shown = ", ".join(f"{name} {value}" for name, value in cell["options"].items() if name != "num_items")
        for method in METHODS:
            run = cell["runs"][method]
            reading = f"{run['with_reading']:.1f}" if "with_reading" in run else ""
            lines.append(
                f"| {cell['log']} | {shown} | {method} | {run['seconds']:.2f} | {reading} | {run['cpu_seconds']:.1f} "
                f"| {run['peak_mib']:,} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.spark",
        description="Graphs counted by an embedded Spark against the package's own builder. Needs the extra spark.",
        epilog="example: python -m benchmarks.spark --events 1000000 --out out/spark.json",
    )
    parser.add_argument("--events", type=int, nargs="*", default=[10**6], help="sizes of simulated logs")
    parser.add_argument("--log", type=Path, help="a Parquet log of your own beside them: user_id, item_id, timestamp")
    parser.add_argument("--weighting", default="count", help="of all graphs (default: %(default)s)")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="result to add the logs to")
    parser.add_argument("--folder", type=Path, help="for simulated logs and rows (default: beside --out)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/spark.json"))
    parser.add_argument("--child", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--options", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.child, args.file, args.options)
    from benchmarks.machine import machine
    from resemb_ext.runtime.files import write_text

    folder = (args.folder or args.out.parent).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    options = {"window": WINDOW, "top_k": TOP_K} | ({} if args.weighting == "count" else {"weighting": args.weighting})
    logs = []
    for events in args.events:
        path = folder / f"events-{events}.parquet"
        if not path.exists():
            simulate(path, events)
        logs.append((f"simulated, {events:,} events", path, {"num_items": ITEMS, **options}))
    if args.log:
        path = folder / args.log.name  # Spark writes beside it
        if not path.exists():
            path.symlink_to(args.log.absolute())
        logs.append((args.log.stem, path, options))
    cells = json.loads(args.keep.read_text())["cells"] if args.keep else []
    for name, path, chosen in logs:
        runs = {method: measure(method, path, chosen) for method in METHODS}
        print(name, json.dumps(runs), flush=True)
        if len({run["hash"] for run in runs.values()}) > 1:
            raise SystemExit(f"{name}: the graphs differ")
        cells.append({"log": name, "options": chosen, "runs": runs})
        settings = {"threads": THREADS, "heap_gib": HEAP_GIB}
        result = {"machine": machine() | {"pyspark": version("pyspark")}, "settings": settings, "cells": cells}
        write_text(args.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
