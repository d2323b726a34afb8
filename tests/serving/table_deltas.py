"""Versions of tables, published by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from resemb_ext.serving import lite


def publish(
    path: Path, numbers: list[int], vectors: np.ndarray, rows: int | None = None, oov: int | None = None
) -> None:
    """Puts the next version of a table in force: some of its rows become other vectors.

    Args:
        rows, oov: of the new version; by default those of the one in force.
    """
    now = lite.read_snapshot(path)
    folder = lite.folder_of(path)
    folder.mkdir(exist_ok=True)
    sequence = now.sequence + 1
    fields = {
        "table": now.header.id,
        "sequence": sequence,
        "parent": now.sequence,
        "parent_fingerprint": now.fingerprint,
        "dtype": now.dtype,
        "dim": now.dim,
        "padding": now.padding,
        "rows": now.rows if rows is None else rows,
        "oov": now.oov if oov is None else oov,
    }
    encoded = lite.encode(np.asarray(vectors, np.float32), now.dtype)
    header = lite.write_delta(folder / f"{sequence:08}.delta", fields, np.array(numbers, np.int64), encoded)
    head = lite.Head(now.header.id, sequence, header.fingerprint, sequence)
    beside = folder / "HEAD.new"
    beside.write_text(head.text())
    beside.replace(folder / "HEAD")
