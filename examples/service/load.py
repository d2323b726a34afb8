"""``python -m examples.service.load BUNDLE``: serves a copy of a bundle, and measures it while versions change.

A bounded client sends requests over a fixed number of connections on loopback, each the next one when it has its
answer. Meanwhile a process publishes new versions of the table, with random rows changed. Printed are requests and rows
a second, the median and the 99th percentile of the time of a request, and the versions that answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Seen:
    """What the client met.

    Attributes:
        seconds: of each answered request.
        statuses: how many answers had each.
        versions: of the table, and how many answers each gave.
        back: answers with an older version than the one before on the same connection.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    versions: Counter[int] = field(default_factory=Counter)
    back: int = 0


def bodies(ids: Sequence[Any], count: int, rows: int, history: int, seed: int) -> list[bytes]:
    """Requests of random rows.

    Args:
        ids: raw ids to draw from.
        count: how many requests.
        rows: of a request.
        history: events of a row.
        seed: of the draw.
    """
    draw = np.random.default_rng(seed)

    def some(n: int) -> list[Any]:
        return [ids[k] for k in draw.integers(0, len(ids), n)]

    return [
        json.dumps({"rows": [{"target": some(1)[0], "history": some(history)} for _ in range(rows)]}).encode()
        for _ in range(count)
    ]


async def client(port: int, requests: Sequence[bytes], connections: int, seconds: float) -> Seen:
    """Sends requests for some seconds, each connection one after another."""
    seen, end = Seen(), time.perf_counter() + seconds
    await asyncio.gather(*(_connection(port, requests, number, end, seen) for number in range(connections)))
    return seen


async def _connection(port: int, requests: Sequence[bytes], number: int, end: float, seen: Seen) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    newest = -1
    while (begin := time.perf_counter()) < end:
        body = requests[number % len(requests)]
        number += 1
        head = f"POST /score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        status, answer = await _answer(reader)
        seen.statuses[status] += 1
        if status == 200:
            seen.seconds.append(time.perf_counter() - begin)
            version = json.loads(answer)["version"]
            seen.versions[version] += 1
            seen.back += version < newest
            newest = version
        else:
            await asyncio.sleep(0.05)  # as a client that was told to try later
    writer.close()
    await writer.wait_closed()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    (length,) = (int(line.partition(":")[2]) for line in head if line.lower().startswith("content-length:"))
    return int(head[0].split()[1]), await reader.readexactly(length)


@contextmanager
def serving(bundle: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The service in a process of its own, on a free port; it is told to stop afterwards."""
    command = [sys.executable, "-m", "examples.service", str(bundle), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if "serving" not in line:
            raise RuntimeError("the service did not start; it says why above")
        yield process, int(line.rsplit(":", 1)[1])
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


@contextmanager
def publishing(table: Path, every_s: float, share: float) -> Iterator[None]:
    """A process that publishes versions of a table again and again; entered once it has begun."""
    command = [sys.executable, "-m", "examples.service.publisher", str(table), f"--every={every_s}", f"--share={share}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert process.stdout is not None
    try:
        if "publishing" not in process.stdout.readline():
            raise RuntimeError("the publisher did not start; it says why above")
        yield
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


def report(seen: Seen, seconds: float, rows: int) -> dict[str, Any]:
    """Figures of a run."""
    times = np.array(seen.seconds)
    return {
        "requests": len(times),
        "requests_per_s": len(times) / seconds,
        "rows_per_s": rows * len(times) / seconds,
        "p50_ms": float(np.percentile(times, 50) * 1e3) if len(times) else None,
        "p99_ms": float(np.percentile(times, 99) * 1e3) if len(times) else None,
        "max_ms": float(times.max() * 1e3) if len(times) else None,
        "statuses": {str(status): count for status, count in sorted(seen.statuses.items())},
        "versions": len(seen.versions),
        "newest_version": max(seen.versions, default=None),
        "answers_of_an_older_version_than_before": seen.back,
    }


def main() -> int:
    """Runs the load test."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.service.load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of resemb export --table; it is copied")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long requests are sent (default: 10)")
    parser.add_argument("--connections", type=int, default=16, help="requests at a time (default: 16)")
    parser.add_argument("--rows", type=int, default=4, help="rows of a request (default: 4)")
    parser.add_argument("--history", type=int, default=20, help="events of a row's history (default: 20)")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between versions, 0 for none (default: 1)")
    parser.add_argument("--share", type=float, default=0.01, help="of the rows that a version changes (default: 0.01)")
    parser.add_argument("--threads", type=int, default=1, help="of onnxruntime in the service (default: 1)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file for the figures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        shutil.copytree(args.bundle, bundle)
        sys.path.insert(0, str(bundle))
        from resemb_lite.snapshot import read_snapshot

        items = read_snapshot(bundle / "items.table").items
        assert items is not None
        requests = bodies(np.asarray(items.values).tolist(), 256, args.rows, args.history, seed=0)
        with serving(bundle, "--poll", "0.1", "--threads", str(args.threads)) as (_, port):
            asyncio.run(client(port, requests, args.connections, min(1.0, args.seconds)))  # not measured
            if args.every > 0:
                with publishing(bundle / "items.table", args.every, args.share):
                    seen = asyncio.run(client(port, requests, args.connections, args.seconds))
            else:
                seen = asyncio.run(client(port, requests, args.connections, args.seconds))
    found = report(seen, args.seconds, args.rows)
    for name, value in found.items():
        print(f"{name:<42} {value:.4g}" if isinstance(value, float) else f"{name:<42} {value}")
    if args.out is not None:
        options = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k not in ("out", "bundle")}
        args.out.write_text(json.dumps({"options": options, **found}, indent=2) + "\n")
    return 0 if found["requests"] else 1


if __name__ == "__main__":
    sys.exit(main())
