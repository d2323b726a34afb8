"""What publishing 1 % of a table's rows costs beside a full export: bytes and time.

``python -m benchmarks.serving`` calls ``measure``.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import resemb_ext as rx
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
        "dtype": dtype,
        "share": share,
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
    """Markdown: a table of what ``measure`` found, with its machine where that was added."""
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
    lines += ["", f"A reader goes to the new version in {seconds['refresh'] * 1000:.0f} ms."]
    return "\n".join(lines)
