"""``python -m benchmarks.distributed_model``: what a step of dealt tables costs by the number of ranks.

Exchanges alone are timed over gloo processes, and fitted by latency and bandwidth. Rows that travel are counted in drawn
batches. Both together extend to more ranks and items than a machine has.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.machine import machine
from resemb_ext.runtime.files import check_out, write_json

MEBIBYTE = 1 << 20
SIZES = (1 << 10, 1 << 16, 1 << 20, 8 << 20, 32 << 20)  # bytes that a rank sends in an exchange
EXCHANGES = 5  # of a step: counts, rows wanted, rows, gradients of R and of C


def time_exchanges(rank: int, ranks: int, folder: str, rounds: int) -> None:
    """Median seconds of one all-to-all exchange, by the bytes that a rank sends to others; rank 0 saves them."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store{ranks}", rank=rank, world_size=ranks)
    found = []
    for size in SIZES:
        each = max(1, size // 4 // (ranks - 1))
        counts = [0 if other == rank else each for other in range(ranks)]
        out, back = torch.ones(sum(counts)), torch.empty(sum(counts))
        seconds = []
        for _ in range(rounds + 2):
            dist.barrier()
            start = time.perf_counter()
            dist.all_to_all_single(back, out, counts, counts)
            seconds.append(time.perf_counter() - start)
        found.append([4.0 * sum(counts), float(np.median(seconds[2:]))])
    if rank == 0:
        torch.save(found, f"{folder}/{ranks}.pt")
    dist.barrier()


def fitted(samples: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Seconds of latency, and bytes a second: least squares of relative errors."""
    sent, seconds = np.array(samples).T
    rows = np.stack([1 / seconds, sent / seconds], axis=1)
    latency, per_byte = np.linalg.lstsq(rows, np.ones(len(seconds)), rcond=None)[0]
    return float(max(latency, 0.0)), float(1 / per_byte)


def popular(draw: np.random.Generator, items: int, count: int, zipf: float) -> np.ndarray:
    """int64 [count] draws from [0, items): x^-zipf on [1, items + 1), rounded down; no array of ``items`` numbers."""
    power = 1 - zipf
    return (((1 + draw.random(count) * ((items + 1) ** power - 1)) ** (1 / power)).astype(np.int64) - 1).clip(
        0, items - 1
    )


def counted(items: int, positions: int, neighbors: int, zipf: float, ranks: int, seed: int) -> dict[str, float]:
    """Rows that a rank with ``positions`` ids wants of others, fetched one by one or pooled at their owners.

    Returns:
        "unique" and "neighbors", U and V of a batch; "fetched", rows of R and C that lie elsewhere; "pooled", rows of
        R that lie elsewhere and partial sums of neighbours, one an id and an owner elsewhere.
    """
    draw = np.random.default_rng(seed)
    ids = np.unique(popular(draw, items, positions, zipf))
    columns = popular(draw, items, len(ids) * neighbors, zipf).reshape(len(ids), neighbors)
    away = 1 - 1 / ranks
    distinct = np.unique(columns)
    owners = np.sort(columns % ranks, axis=1)
    sums = np.count_nonzero(np.diff(owners, axis=1)) + len(ids)
    return {
        "unique": len(ids),
        "neighbors": len(distinct),
        "fetched": away * (len(ids) + len(distinct)),
        "pooled": away * (len(ids) + sums),
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"machine": machine(), "dim": args.dim, "exchanges": EXCHANGES, "fits": [], "ranks": []}
    with tempfile.TemporaryDirectory() as folder:
        for ranks in range(2, args.processes + 1):
            mp.spawn(time_exchanges, args=(ranks, folder, args.rounds), nprocs=ranks)
            samples = torch.load(f"{folder}/{ranks}.pt")
            latency, bandwidth = fitted(samples)
            found["fits"].append({"ranks": ranks, "latency": latency, "bandwidth": bandwidth, "samples": samples})
    # Of two processes: more of them may share the cores.
    latency, bandwidth = (found["fits"][0][key] for key in ("latency", "bandwidth"))
    for items in args.items:
        for ranks in args.ranks:
            rows = counted(items, args.positions, args.neighbors, args.zipf, ranks, args.seed)
            for way in ("fetched", "pooled"):
                sent = rows[way] * (8 * args.dim + 4)
                # Latency as if exchanges with all others were begun one by one.
                rows[f"{way}_seconds"] = EXCHANGES * latency * (ranks - 1) + sent / bandwidth
            found["ranks"].append({"items": items, "ranks": ranks, "positions": args.positions, **rows})
    return found


def section(found: dict[str, Any]) -> str:
    """The tables of docs/distributed.md."""
    lines = ["| gloo processes | latency of an exchange, µs | bandwidth of a rank, GB/s |", "|---:|---:|---:|"]
    for fit in found["fits"]:
        lines.append(f"| {fit['ranks']} | {1e6 * fit['latency']:.0f} | {fit['bandwidth'] / 1e9:.2f} |")
    lines += [
        "",
        "| items | ranks | U | V | MB sent by a rank | if neighbours were pooled | ms in exchanges | pooled |",
    ]
    lines.append("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for row in found["ranks"]:
        sizes = [row[way] * (8 * found["dim"] + 4) / 1e6 for way in ("fetched", "pooled")]
        spent = [1e3 * row[f"{way}_seconds"] for way in ("fetched", "pooled")]
        lines.append(
            f"| {row['items']:,} | {row['ranks']:,} | {row['unique']:,} | {row['neighbors']:,} | {sizes[0]:.0f} "
            f"| {sizes[1]:.0f} | {spent[0]:.0f} | {spent[1]:.0f} |"
        )
    about = found["machine"]
    lines += ["", f"{about['cpu']}, {about['cores']} cores, torch {about['torch']}; processes of one thread."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.distributed_model",
        description="Fits latency and bandwidth of exchanges over gloo processes of this machine, counts the rows that "
        "travel in drawn batches, and extends both to more ranks and items.",
        epilog="example: python -m benchmarks.distributed_model --ranks 2 8 --items 1000000 --out model.json",
    )
    parser.add_argument("--processes", type=int, default=4, help="gloo processes at most, from 2 on")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8, 64, 1024], help="W to extend to")
    parser.add_argument("--items", type=int, nargs="+", default=[1_000_000, 1_000_000_000], help="H to extend to")
    parser.add_argument("--positions", type=int, default=100_000, help="ids of a rank in a step")
    parser.add_argument("--neighbors", type=int, default=20, help="K")
    parser.add_argument("--dim", type=int, default=64, help="D")
    parser.add_argument("--zipf", type=float, default=1.05, help="exponent of ids and neighbours, but 1")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/distributed_model.json"), help="JSON file")
    args = parser.parse_args()
    check_out(args.out, [])
    if args.zipf == 1:
        parser.error("--zipf: found 1; expected another exponent, such as 1.05")
    found = measure(args)
    write_json(args.out, found)
    print(section(found))
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
