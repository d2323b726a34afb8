"""``python -m benchmarks.publishing``: what publishing 1 % of a table's rows costs beside a full export.

Bytes and time, where the changed rows are known and where they are not.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import resemb_ext as rx
from benchmarks.machine import available_bytes, machine
from resemb_ext.runtime.files import check_out, write_json
from resemb_ext.serving import lite
from resemb_ext.serving.publish import publish


def measure(
    items: int = 10_000_000,
    dim: int = 64,
    neighbors: int = 20,
    share: float = 0.01,
    repeats: int = 5,
    dtype: str = "int8",
    folder: Path | None = None,
    say: Callable[[str], Any] = lambda line: None,
) -> dict[str, Any]:
    """Times a full export, and publishing a share of changed rows where they are known and where they are not.

    The three alternate, each starts from the same version, and all end on the disk (fsync).

    Args:
        items: H of the table.
        dim: D.
        neighbors: edges of each item in the graph.
        share: of the rows that change.
        repeats: how often each is timed.
        dtype: of the table.
        folder: for the tables; None takes a temporary one.
        say: is told what goes on.

    Returns:
        Medians in seconds and bytes: "full", "known", "scanned", "refresh" (a reader that goes to the new version), and
        what each is of the full export.
    """
    draw = np.random.default_rng(0)
    emb = _embedding(items, dim, neighbors, draw)
    changed = np.sort(draw.choice(items, max(1, round(share * items)), replace=False))
    times: dict[str, list[float]] = {name: [] for name in ("full", "known", "scanned", "refresh")}
    size: dict[str, int] = {}
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "items.table"
        for turn in range(repeats):
            shutil.rmtree(lite.folder_of(path), ignore_errors=True)
            path.unlink(missing_ok=True)
            start = time.perf_counter()
            size["full"] = publish(emb, path, dtype=dtype).bytes
            times["full"].append(time.perf_counter() - start)
            reader = lite.read_snapshot(path)
            for name, rows in (("known", changed), ("scanned", None)):
                with torch.no_grad():
                    emb.residual[torch.from_numpy(changed)] += 1
                start = time.perf_counter()
                done = publish(emb, path, rows=rows)
                times[name].append(time.perf_counter() - start)
                assert done.changed == len(changed)
                size[name] = done.bytes
                start = time.perf_counter()
                reader = lite.read_snapshot(path, reader)
                times["refresh"].append(time.perf_counter() - start)
            say(f"turn {turn + 1} of {repeats}: " + ", ".join(f"{k} {v[-1]:.3f} s" for k, v in times.items()))
    medians = {name: float(np.median(seconds)) for name, seconds in times.items()}
    return {
        "items": items,
        "dim": dim,
        "neighbors": neighbors,
        "dtype": dtype,
        "share": share,
        "repeats": repeats,
        "seconds": medians,
        "bytes": size,
        "of_full": {
            name: {"seconds": medians[name] / medians["full"], "bytes": size[name] / size["full"]}
            for name in ("known", "scanned")
        },
    }


def _embedding(items: int, dim: int, neighbors: int, draw: np.random.Generator) -> rx.ResEmbedding:
    """A Res-embedding over random neighbours."""
    indptr = np.arange(items + 1, dtype=np.int64) * neighbors
    start = draw.integers(0, items, (items, 1), dtype=np.int32)
    ids = np.sort((start + np.arange(neighbors, dtype=np.int32) * (items // neighbors)) % items, axis=1)
    graph = rx.InterestGraph.from_csr(indptr, ids.reshape(-1))
    return rx.ResEmbedding(graph, dim).requires_grad_(False).eval()


def section(part: Mapping[str, Any]) -> str:
    """Markdown: a table of what ``measure`` found; nothing where it found nothing yet."""
    if not part:
        return ""
    seconds, size, of_full = part["seconds"], part["bytes"], part["of_full"]
    lines = [
        f"**Publishing {part['share']:.0%} changed rows, H = {part['items']:,}, D = {part['dim']}, {part['dtype']}**",
        "",
        "| | seconds | of the full export | MB | of the full export |",
        "|---|---:|---:|---:|---:|",
        f"| full export | {seconds['full']:.2f} | | {size['full'] / 1e6:.1f} | |",
    ]
    for name, what in (("known", "rows are named"), ("scanned", "all rows are compared")):
        share = of_full[name]
        lines.append(
            f"| {what} | {seconds[name]:.2f} | {share['seconds']:.1%} | {size[name] / 1e6:.1f} | {share['bytes']:.1%} |"
        )
    m = part["machine"]
    lines += [
        "",
        f"A reader goes to the new version in {seconds['refresh'] * 1000:.0f} ms. {part['neighbors']} neighbours; {m['cpu']}, "
        f"{m['threads']} threads, torch {m['torch']}, {m['isa']} kernels; medians of {part['repeats']} in turns, with fsync.",
    ]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.publishing",
        description="Publishing changed rows of a table against a full export, in turns. At H = 10,000,000 and D = 64 it "
        "needs about 10 GiB of free memory and 2 GB of disk.",
        epilog="example: python -m benchmarks.publishing --items 1000000 --out publishing.json",
    )
    parser.add_argument("--items", type=int, default=10_000_000, help="H")
    parser.add_argument("--dim", type=int, default=64, help="D")
    parser.add_argument("--neighbors", type=int, default=20, help="K")
    parser.add_argument("--share", type=float, default=0.01, help="of the rows that change")
    parser.add_argument("--dtype", default="int8", choices=lite.DTYPES, help="of the table")
    parser.add_argument("--repeats", type=int, default=5, help="how often each is timed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="for the tables (default: a temporary one)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/publishing.json"), help="JSON file")
    return parser


def main() -> None:
    args = _parser().parse_args()
    check_out(args.out, [])
    need = args.items * (args.dim * 12 + args.neighbors * 16) + 2**30
    if need > available_bytes():
        raise SystemExit(f"--items: needs {need / 2**30:.1f} GiB, found {available_bytes() / 2**30:.1f} GiB free")
    torch.set_num_threads(args.threads)
    sizes = (args.items, args.dim, args.neighbors, args.share, args.repeats, args.dtype)
    found = {**measure(*sizes, folder=args.folder, say=print), "machine": machine()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, found)
    print(f"\n{section(found)}\n\nwritten to {args.out}")


if __name__ == "__main__":
    main()
