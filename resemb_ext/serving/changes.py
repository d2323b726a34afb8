"""Which rows of an embedding differ from those that a table has in force."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from .encoding import encode_rows
from .following import Next, first_new
from .lite.rows import decode
from .lite.snapshot import Snapshot
from .vectors import Vectors

_READ = 1 << 22  # numbers of a block that is computed at once
_COMPARED = 1 << 18  # numbers of a block that is compared, which stays in cache


def changed_rows(
    now: Snapshot, vectors: Vectors, upcoming: Next, candidates: np.ndarray | None, tolerance: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows of an embedding that are to be written.

    Args:
        candidates: int64 [n], ascending, rows that may have changed; None for all. New rows are added.
        tolerance: see ``moved``.

    Returns:
        Their numbers, int64 [n] ascending; their bytes, uint8 [n, row_bytes]; how many rows were compared.

    Raises:
        TableError: numbers that are not finite.
    """
    numbers, rows, compared = [np.empty(0, np.int64)], [np.empty((0, now.header.row_bytes), np.uint8)], 0
    for ids, block in _read(vectors, candidates, first_new(now, upcoming)):
        encoded = encode_rows(block, now.dtype, first=ids)
        changed = moved(now, ids, encoded, tolerance)
        numbers.append(ids[changed])
        rows.append(encoded[changed])
        compared += len(ids)
    return np.concatenate(numbers), np.concatenate(rows), compared


def _read(vectors: Vectors, candidates: np.ndarray | None, new: int) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Row numbers, ascending, and their vectors, in blocks that stay in cache."""
    if candidates is not None:
        candidates = np.union1d(candidates, np.arange(new, vectors.rows))
    total = vectors.rows if candidates is None else len(candidates)
    step, small = max(1, _READ // vectors.dim), max(1, _COMPARED // vectors.dim)
    for start in range(0, total, step):
        stop = min(start + step, total)
        if candidates is None:
            ids, block = np.arange(start, stop), vectors.block(start, stop)
        else:
            ids = candidates[start:stop]
            block = vectors.at(torch.from_numpy(ids))
        for first in range(0, len(ids), small):
            yield ids[first : first + small], block[first : first + small]


def moved(now: Snapshot, ids: np.ndarray, encoded: np.ndarray, tolerance: float) -> np.ndarray:
    """Which rows differ from those in force; rows that are not there yet do, and padding does not.

    Args:
        now: the version in force.
        ids: int64 [n], ascending.
        encoded: uint8 [n, row_bytes], what these rows shall be.
        tolerance: a row differs where its vector, as readers see it, moved by more than this share of its length.

    Returns:
        bool [n].
    """
    known = ids[: np.searchsorted(ids, now.rows)]
    whole = len(known) > 0 and known[-1] - known[0] == len(known) - 1
    before = now.block(int(known[0]), int(known[-1]) + 1) if whole else now.gather(known)
    changed = np.ones(len(ids), bool)
    changed[: len(known)] = (encoded[: len(known)] != before).any(1)
    if now.padding is not None:
        changed[ids == now.padding] = False  # it reads zeros, whatever its bytes
    if tolerance > 0:
        some = np.flatnonzero(changed[: len(known)])
        old, new = (decode(x[some], now.dtype, now.dim).astype(np.float64) for x in (before, encoded))
        distance, length = np.linalg.norm(new - old, axis=1), np.linalg.norm(old, axis=1)
        changed[some[distance <= tolerance * length]] = False
    return changed
