"""``python -m benchmarks.serving``: tables of 8 bits against torch's operators, in time, and mapped files in memory."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import publishing
from benchmarks.machine import available_bytes, machine
from benchmarks.serving_report import serving_section
from benchmarks.timing import interleave, summary
from resemb_ext.runtime.files import check_out, write_json
from resemb_ext.runtime.peak_memory import PeakMemory
from resemb_ext.serving import Table
from resemb_ext.serving.lite.format import TableHeader, packed, write_table
from resemb_ext.serving.lite.rows import encode
from resemb_ext.testing.problems import zipf_ids

OWN = "resemb_ext"
BYTE = torch.ops.quantized.embedding_bag_byte_rowwise_offsets
PARTS = ("int8", "cached", "sparse", "publishing")
BAG = 20
_PAGE = os.sysconf("SC_PAGE_SIZE")
_BLOCK = 1 << 16  # rows that are drawn at once
Look = Callable[[Tensor], Tensor]


def random_table(path: Path, rows: int, dim: int, seed: int) -> None:
    """A table of random vectors, 8 bits a number, drawn block by block."""
    draw = np.random.default_rng(seed)

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, rows, _BLOCK):
            yield encode(draw.standard_normal((min(_BLOCK, rows - start), dim), np.float32), "int8")

    write_table(path, {"dtype": "int8", "rows": rows, "dim": dim, "oov": rows - 1}, blocks())


def sparse_table(path: Path, rows: int, dim: int) -> None:
    """A table of zeros whose file has holes in place of rows: it takes no room on the disk.

    Its digest is not that of its rows; opening does not read them.
    """
    header = TableHeader(id=uuid.uuid4().hex, dtype="int8", rows=rows, dim=dim, oov=rows - 1)
    with open(path, "wb") as file:
        file.truncate(file.write(packed(header)) + rows * header.row_bytes)


def batches_of(rows: int, positions: int, zipf: float, count: int, seed: int) -> list[Tensor]:
    """int64 [P] ids each; uniform where ``zipf`` is 0."""
    draws = zipf_ids(np.random.default_rng(seed), rows, positions * count, zipf).astype(np.int64)
    return [torch.from_numpy(row.copy()) for row in draws.reshape(count, -1)]


def timed(looks: Mapping[str, Look], batches: list[Tensor], args: argparse.Namespace, label: str) -> dict[str, Any]:
    """Every form on the same batches, interleaved; the ratio is to ours.

    In a round each has another batch: none finds in cache what the one before it has read.
    """

    def run(look: Look, place: int) -> Callable[[int], Tensor]:
        return lambda turn: look(batches[(turn + 3 * place) % len(batches)])

    runs = {name: run(look, place) for place, (name, look) in enumerate(looks.items())}
    with torch.inference_mode():
        return summary(interleave(runs, rounds=args.rounds, warmup=args.warmup, label=label), OWN)


def check_close(looks: Mapping[str, Look], ids: Tensor) -> None:
    """
    Raises:
        AssertionError: forms that differ, by name.
    """
    expected = looks[OWN](ids)
    for name, look in looks.items():
        torch.testing.assert_close(look(ids), expected, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def measure_int8(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Bags and single rows of a large int8 table: ours on the mapped file, torch's on rows of its own and on ours."""
    path = folder / "large.table"
    random_table(path, args.items, args.dim, args.seed)
    table = Table.open(path, preload=True)
    mapped = table.as_torch()
    own = mapped.clone()
    offsets = {width: torch.arange(0, args.positions, width) for width in (BAG, 1)}

    def of_torch(rows: Tensor, width: int) -> Look:
        return lambda ids: BYTE(rows, ids, offsets[width])

    found = {}
    for name, zipf in (("uniform", 0.0), (f"Zipf({args.zipf})", args.zipf)):
        batches = batches_of(args.items, args.positions, zipf, args.batches, args.seed)
        forms: dict[str, dict[str, Look]] = {
            f"bags of {BAG}": {
                OWN: lambda ids: table.bag(ids, offsets[BAG], "sum"),
                "embedding_bag_byte": of_torch(own, BAG),
                "embedding_bag_byte on the mapped rows": of_torch(mapped, BAG),
            },
            "single rows": {
                OWN: table,
                "embedding_bag_byte, bags of 1": of_torch(own, 1),
                "embedding_bag_byte, bags of 1, on the mapped rows": of_torch(mapped, 1),
            },
        }
        for form, looks in forms.items():
            check_close(looks, batches[0])
            found[f"{form}, {name} ids"] = timed(looks, batches, args, f"int8, {form}, {name}")
    return {"items": args.items, "dim": args.dim, "positions": args.positions, "rounds": args.rounds, "cells": found}


def measure_cached(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Lookups in tables in the page cache, against ``F.embedding`` in a float32 tensor."""
    weight = torch.randn(args.cached_items, args.dim, generator=torch.Generator().manual_seed(args.seed))
    tables: dict[str, Look] = {}
    for dtype in ("int8", "float32", "float16", "int4"):
        path = folder / f"{dtype}.table"
        Table.write(weight, path, dtype)
        tables[OWN if dtype == "int8" else f"{OWN}, {dtype}"] = Table.open(path, preload=True)
    decoded = tables[OWN](torch.arange(args.cached_items))
    plain: Look = lambda ids: F.embedding(ids, decoded)  # noqa: E731
    found = {}
    for positions in args.cached_positions:
        batches = batches_of(args.cached_items, positions, args.zipf, args.batches, args.seed)
        check_close({OWN: tables[OWN], "F.embedding": plain}, batches[0])
        looks = {"F.embedding, float32": plain, **tables}
        found[str(positions)] = timed(looks, batches, args, f"cached, {positions:,} ids")
    return {"items": args.cached_items, "dim": args.dim, "zipf": args.zipf, "rounds": args.rounds, "cells": found}


def measure_sparse(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """A file of many gigabytes: opening, bags of rows that no process has touched, and memory; each in a process."""
    found: dict[str, list[dict[str, Any]]] = {OWN: [], "embedding_bag_byte": []}
    for turn in range(args.sparse_rounds):
        for name in found if turn % 2 == 0 else reversed(list(found)):
            path = folder / f"sparse-{turn}-{len(name)}.table"
            sparse_table(path, args.sparse_items, args.dim)
            asked = {"name": name, "path": str(path), "threads": args.threads, "seed": args.seed + turn}
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.serving", "--one", json.dumps({**asked, "bags": args.bags})],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                cwd=Path(__file__).parents[1],
            )
            found[name].append(json.loads(done.stdout))
            size = path.stat().st_size
            path.unlink()
    middle = {
        name: {key: float(np.median([one[key] for one in runs])) for key in runs[0]} for name, runs in found.items()
    }
    return {
        "items": args.sparse_items,
        "dim": args.dim,
        "file_bytes": size,
        "bags": args.bags,
        "rounds": args.sparse_rounds,
        "processes": middle,
    }


def measure_publishing(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """A version of 1 % changed rows, beside a full export."""
    return publishing.measure(items=args.published_items, dim=args.dim, folder=folder)


def one_process(asked: Mapping[str, Any]) -> dict[str, float]:
    """Opens a table and answers bags, cold and again, in this process.

    Returns:
        milliseconds "open_ms", "cold_ms", "warm_ms"; "grown_bytes" of the resident set, at its peak; "touched_bytes" of
        the pages that hold the rows.
    """
    torch.set_num_threads(asked["threads"])
    start = time.perf_counter()
    table = Table.open(asked["path"])
    opened = time.perf_counter() - start
    ids = torch.randint(0, table.rows, (asked["bags"] * BAG,), generator=torch.Generator().manual_seed(asked["seed"]))
    offsets = torch.arange(0, len(ids), BAG)
    rows = table.as_torch()

    def look(ids: Tensor) -> Tensor:
        if asked["name"] == OWN:
            return table.bag(ids, offsets, "sum")
        return BYTE(rows, ids, offsets)

    look(torch.zeros(len(ids), dtype=torch.int64))  # threads and outputs are there
    times = []
    with PeakMemory() as memory:
        for _ in range(4):
            start = time.perf_counter()
            look(ids)
            times.append(time.perf_counter() - start)
    first = rows.data_ptr() + ids.numpy() * rows.shape[1]
    pages = np.unique(np.concatenate([first // _PAGE, (first + rows.shape[1] - 1) // _PAGE]))
    return {
        "open_ms": 1e3 * opened,
        "cold_ms": 1e3 * times[0],
        "warm_ms": 1e3 * float(np.median(times[1:])),
        "grown_bytes": 2**20 * (memory.peak_mb - memory.before_mb),
        "touched_bytes": len(pages) * _PAGE,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving",
        description="Tables of 8 bits: a large one against torch's embedding_bag_byte, one in the page cache against "
        "float32 F.embedding, a file of 7.2 GB with holes: opening, memory and time of 10,000 bags, and the cost of "
        "publishing 1 % changed rows. The large one needs about 3 GiB of free memory at H = 10,000,000, and 0.7 GB of disk.",
        epilog="example: python -m benchmarks.serving --items 1000000 --only int8 cached --out serving.json",
    )
    parser.add_argument("--items", type=int, default=10_000_000, help="H of the large table")
    parser.add_argument("--cached-items", type=int, default=63_000, help="H of the table in the page cache")
    parser.add_argument("--sparse-items", type=int, default=100_000_000, help="H of the file with holes")
    parser.add_argument(
        "--published-items", type=int, default=10_000_000, help="H of the table whose version is published"
    )
    parser.add_argument("--dim", type=int, default=64, help="D")
    parser.add_argument("--positions", type=int, default=200_000, help="ids of a call, a multiple of 20")
    parser.add_argument(
        "--cached-positions", type=int, nargs="+", default=[1_000, 20_000, 200_000], help="ids of a call there"
    )
    parser.add_argument("--bags", type=int, default=10_000, help="bags of 20 of the file with holes")
    parser.add_argument("--zipf", type=float, default=1.05, help="exponent of the ids that are not uniform")
    parser.add_argument("--batches", type=int, default=16, help="rotating batches")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=31, help="timed rounds")
    parser.add_argument("--warmup", type=int, default=3, help="rounds not timed")
    parser.add_argument("--sparse-rounds", type=int, default=5, help="processes of each form")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts")
    parser.add_argument("--folder", type=Path, help="for the tables (default: a temporary one)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("benchmarks/out/serving.json"),
        help="JSON file, rewritten after each part; parts that it has and that are not asked for stay",
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measures parts, and writes them as they are done.

    Raises:
        SystemExit: less memory is free than the large table needs.
    """
    result: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {}
    parts = {"int8": measure_int8, "cached": measure_cached, "sparse": measure_sparse, "publishing": measure_publishing}
    need = args.items * (args.dim + 8) * 2 + 2**30
    if "int8" in args.only and need > available_bytes():
        raise SystemExit(f"int8: needs {need / 2**30:.1f} GiB, found {available_bytes() / 2**30:.1f} GiB free")
    for part in args.only:
        with tempfile.TemporaryDirectory(prefix="serving-", dir=args.folder) as folder:
            result[part] = {**parts[part](args, Path(folder)), "machine": machine()}
        write_json(args.out, result)
    return result


def main() -> None:
    args = _parser().parse_args()
    if args.one:
        print(json.dumps(one_process(json.loads(args.one))))
        return
    if args.positions % BAG:
        raise SystemExit(f"--positions: found {args.positions}; expected a multiple of {BAG}")
    check_out(args.out, [])
    torch.set_num_threads(args.threads)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    print(serving_section(measure(args)))
    print(f"\nwritten to {args.out}")


if __name__ == "__main__":
    main()
