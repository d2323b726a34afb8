"""Which rows of an embedding differ from those that a table has in force."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from .encoding import encode_rows
from .following import Next, first_new
from .lite.rows import decode
from .lite.snapshot import Snapshot
from .vectors import Vectors

_READ = 1 << 22  # numbers of a block that is computed at once
_COMPARED = 1 << 18  # numbers of a block that is compared, which stays in cache


@dataclass
class Changes:
    """Rows that are to be written, part by part, so that no more of them are in memory than who reads them keeps.

    Attributes:
        parts: rows that were compared, numbers int64 [n] of those that changed, and their bytes, uint8 [n, row_bytes].
            Numbers ascend from part to part. Each part is read once.
        compared, changed: rows of the parts that were read so far.
    """

    parts: Iterator[tuple[int, np.ndarray, np.ndarray]]
    compared: int = 0
    changed: int = 0

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for compared, numbers, rows in self.parts:
            self.compared += compared
            self.changed += len(numbers)
            yield numbers, rows


def changed_rows(
    now: Snapshot, vectors: Vectors, upcoming: Next, candidates: np.ndarray | None, tolerance: float
) -> Changes:
    """Rows of an embedding that are to be written; computed as they are read, which raises TableError where a number is
    not finite.

    Args:
        candidates: int64 [n], ascending, rows that may have changed; None for all. New rows are added.
        tolerance: see ``moved``.
    """

    def parts() -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        for ids, block in _read(vectors, candidates, first_new(now, upcoming)):
            encoded = encode_rows(block, now.dtype, first=ids)
            changed = moved(now, ids, encoded, tolerance)
            yield len(ids), ids[changed], encoded[changed]

    return Changes(parts())


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
