"""New versions of a served table: only the rows that changed, as bytes, behind the version in force.

A version is written beside the table (``lite.versions`` says where), and put in force by replacing one small file. Until
that step readers see the version before, and a killed publisher leaves it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resemb_ext.data import IdMap
from resemb_ext.runtime.files import write_atomic

from .changes import Changes, changed_rows, moved
from .encoding import encode_rows
from .following import Next, check_all_new, following, grown_by, items_of, oov_row, row_numbers
from .lite.deltas import Delta, write_delta
from .lite.errors import TableError
from .lite.format import read_header, write_table
from .lite.idmap import Items
from .lite.rows import row_bytes
from .lite.snapshot import Snapshot, apply, read_snapshot
from .lite.versions import base_file, delta_file, read_head
from .vectors import Vectors, vectors_of
from .versions import check_kept, publishing, put_in_force, remove_old

_COPIED = 1 << 24  # bytes of a block of rows that is written anew
COMPACT = 0.25


@dataclass(frozen=True)
class Published:
    """What publishing has done.

    Attributes:
        kind: "base", "delta", or "nothing" where no row changed, and the version in force stays.
        sequence: of the version in force now.
        rows: H of it.
        changed: rows that were written.
        compared: rows that were compared with the version before.
        bytes: that were written.
        file: that was written; the table's own where none was, or where a new base took its place.
    """

    kind: str
    sequence: int
    rows: int
    changed: int
    compared: int
    bytes: int
    file: Path


@dataclass(frozen=True)
class _How:
    """Options of a publication."""

    tolerance: float
    compact: float
    keep: int | None
    meta: dict[str, Any]

    def __post_init__(self) -> None:
        for name, value in (("tolerance", self.tolerance), ("compact", self.compact)):
            if not isinstance(value, (int, float, np.number)):
                raise ValueError(f"{name}: found {type(value).__name__}, expected a number from 0")
        if not 0 <= self.tolerance < float("inf"):
            raise ValueError(f"tolerance: found {self.tolerance}, expected a number from 0")
        if not self.compact >= 0:
            raise ValueError(f"compact: found {self.compact}, expected a share from 0")
        if self.keep is not None:
            check_kept(self.keep)


def publish(
    source: Any,
    to: Path | str,
    *,
    rows: Any = None,
    items: IdMap | Items | None = None,
    dtype: str | None = None,
    oov: int | None = None,
    tolerance: float = 0.0,
    full: bool = False,
    compact: float = COMPACT,
    keep: int | None = None,
    meta: dict[str, Any] | None = None,
) -> Published:
    """Publishes the vectors of an embedding as the next version of a table; makes the table where there is none.

    Args:
        source: ``ResEmbedding``, ``nn.Embedding``, their bags, or a floating matrix [H, D].
        to: the table's file.
        rows: numbers of the rows that may have changed, integers [n] in any order; rows beyond those of the version in
            force are added to them. None compares all rows, which computes them all.
        items: id map of the rows; the table's own must be its beginning. Needed where the table has one and grows.
        dtype: "float32", "float16", "int8" or "int4", of a table that is made; None is int8. Later versions have the
            table's.
        oov: row of ids that the table lacks; ``items.oov`` with ``items``, and by default that of the version in force.
            Where the table has raw ids it follows from them.
        tolerance: a row is written where its quantised vector moved by more than this share of its length (both as
            readers see it, in the Euclidean norm). 0 writes each row of which a byte changed.
        full: write a new base. It may differ from the version in force in everything but its ``meta``, which is kept.
        compact: a new base is written in place of a delta where the deltas since the last one would hold more than this
            share of the table's rows.
        keep: how many of the newest versions stay; those that none of them needs are removed. None keeps all.
        meta: JSON that the version's header keeps, over what the table's keeps.

    Returns:
        what was done.

    Raises:
        TypeError: another source, or ids of another type than integers or text.
        ValueError: an option that is none; rows that are none of the source.
        TableError: the source does not follow the version in force, numbers that are not finite, a damaged table, or
            another process publishes to it. Nothing was changed.
        OSError: a file cannot be written.
    """
    path, how = Path(to), _How(tolerance, compact, keep, meta or {})
    vectors = vectors_of(source)
    candidates = None if rows is None else np.unique(row_numbers(rows, vectors.rows, "rows"))
    given, oov = items_of(items), oov_row(oov)
    if given is not None:
        if oov not in (None, given.oov):
            raise ValueError(f"oov: found {oov}, and items have {given.oov}; give one of them")
        oov = given.oov
    if path.exists() or read_head(path) is not None:
        read_header(path)
    with publishing(path):
        if not path.exists() and read_head(path) is None:
            return _first(path, vectors, given, dtype or "int8", oov, how)
        now = read_snapshot(path)
        if full:
            return _new_base(path, vectors, given, dtype or now.dtype, oov, how, now)
        upcoming = following(now, vectors, given, dtype, oov)
        return _write(path, now, upcoming, changed_rows(now, vectors, upcoming, candidates, how.tolerance), how)


def publish_rows(
    to: Path | str,
    numbers: Any,
    vectors: Any,
    *,
    new_ids: Items | np.ndarray | Sequence[Any] | None = None,
    tolerance: float = 0.0,
    compact: float = COMPACT,
    keep: int | None = None,
    meta: dict[str, Any] | None = None,
) -> Published:
    """Publishes single rows as the next version of a table that is there.

    Args:
        to: the table's file.
        numbers: of the rows, integers [n], each once.
        vectors: floating [n, D].
        new_ids: raw ids of new items, where the table has raw ids. They take the numbers from ``oov`` on, and all of
            these must be among ``numbers``; the out-of-vocabulary row moves behind them, with its vector where
            ``numbers`` does not have it.
        tolerance, compact, keep, meta: as for ``publish``.

    Returns:
        what was done.

    Raises:
        FileNotFoundError: no such file.
        ValueError: numbers that are no rows, vectors of another shape, or one for padding that is not zero.
        TableError: as for ``publish``. Nothing was changed.
        OSError: a file cannot be written.
    """
    path, how = Path(to), _How(tolerance, compact, keep, meta or {})
    read_header(path)
    with publishing(path):
        now = read_snapshot(path)
        upcoming = grown_by(now, new_ids)
        wanted = row_numbers(numbers, upcoming.rows, "numbers")
        order = np.argsort(wanted, kind="stable")
        wanted = wanted[order]
        twice = np.flatnonzero(wanted[1:] == wanted[:-1])
        if len(twice):
            raise ValueError(f"numbers: row {wanted[twice[0]]} is there twice")
        held = torch.as_tensor(vectors).detach().to("cpu", torch.float32)
        if held.shape != (len(wanted), now.dim):
            raise ValueError(f"vectors: shape {tuple(held.shape)}; expected {(len(wanted), now.dim)}")
        if now.padding is not None and bool(held[torch.from_numpy(order)][wanted == now.padding].any()):
            raise ValueError(
                f"numbers: row {now.padding} is padding, which reads zeros; found a vector that is not zero"
            )
        encoded = encode_rows(held[torch.from_numpy(order)].contiguous(), now.dtype, first=wanted)
        if upcoming.oov is not None and upcoming.oov != now.oov and upcoming.oov not in wanted:
            wanted = np.append(wanted, upcoming.oov)
            encoded = np.concatenate([encoded, now.gather([now.oov])])
        check_all_new(now, upcoming, wanted)
        changed = moved(now, wanted, encoded, how.tolerance)
        part = (len(wanted), wanted[changed], encoded[changed])
        return _write(path, now, upcoming, Changes(iter([part])), how)


def _first(path: Path, vectors: Vectors, items: Items | None, dtype: str, oov: int | None, how: _How) -> Published:
    fields = _base_fields(vectors.rows, vectors.dim, dtype, oov, vectors.padding, how.meta)
    write_atomic(path, lambda file: write_table(file, fields, vectors.encoded(dtype), items))
    return Published("base", 0, vectors.rows, vectors.rows, 0, path.stat().st_size, path)


def _base_fields(
    rows: int, dim: int, dtype: str, oov: int | None, padding: int | None, meta: dict[str, Any]
) -> dict[str, Any]:
    row_bytes(dtype, dim)
    if oov is not None and not 0 <= oov < rows:
        raise TableError(f"oov: found {oov}, expected one of the source's rows, 0 to {rows - 1}")
    return {"dtype": dtype, "rows": rows, "dim": dim, "oov": oov, "padding": padding, "meta": meta}


def _new_base(
    path: Path, vectors: Vectors, items: Items | None, dtype: str, oov: int | None, how: _How, now: Snapshot
) -> Published:
    oov = now.oov if oov is None and vectors.rows == now.rows else oov
    fields = _base_fields(vectors.rows, vectors.dim, dtype, oov, vectors.padding, {**now.meta, **how.meta})
    return _put_base(path, now, fields, vectors.encoded(dtype), items, Changes(iter(()), 0, vectors.rows), how)


def _put_base(
    path: Path,
    now: Snapshot,
    fields: dict[str, Any],
    blocks: Iterator[np.ndarray],
    items: Items | None,
    changes: Changes,
    how: _How,
) -> Published:
    sequence = _next_sequence(path, now)
    file = base_file(path, sequence)
    fields = {**fields, "sequence": sequence, "parent": now.sequence}
    write_atomic(file, lambda target: write_table(target, fields, blocks, items))
    header, size = read_header(file), file.stat().st_size
    put_in_force(path, header.id, sequence, header.fingerprint)
    if how.keep is not None:
        remove_old(path, how.keep)
    place = file if file.exists() else path
    return Published("base", sequence, header.rows, changes.changed, changes.compared, size, place)


def _next_sequence(path: Path, now: Snapshot) -> int:
    """A number that no version ever had; what a killed publisher left under it goes."""
    head = read_head(path)
    sequence = 1 + (now.sequence if head is None else head.last)
    for file in (delta_file(path, sequence), base_file(path, sequence)):
        file.unlink(missing_ok=True)
    return sequence


def _write(path: Path, now: Snapshot, upcoming: Next, changes: Changes, how: _How) -> Published:
    """Writes the next version, as a delta or as a base, and puts it in force."""
    parts = [(np.empty(0, np.int64), np.empty((0, now.header.row_bytes), np.uint8))]
    most, coming = how.compact * upcoming.rows - now.written, iter(changes)
    for part in coming:
        parts.append(part)
        if changes.changed and changes.changed > most:  # so no more than a share of the table is ever in memory
            break
    numbers, rows = (np.concatenate(held) for held in zip(*parts, strict=True))
    if not len(numbers) and (upcoming.rows, upcoming.oov) == (now.rows, now.oov):
        if how.keep is not None:
            remove_old(path, how.keep)
        return Published("nothing", now.sequence, now.rows, 0, changes.compared, 0, path)
    if len(numbers) > most:
        return _compacted(path, now, upcoming, chain([(numbers, rows)], coming), changes, how)
    sequence = _next_sequence(path, now)
    fields = {
        "table": now.header.id,
        "sequence": sequence,
        "parent": now.sequence,
        "parent_fingerprint": now.fingerprint,
        "dtype": now.dtype,
        "dim": now.dim,
        "rows": upcoming.rows,
        "oov": upcoming.oov,
        "padding": now.padding,
        "meta": how.meta,
    }
    file = delta_file(path, sequence)
    headers = []

    def write(target: Path) -> None:
        header = write_delta(target, fields, numbers, rows, upcoming.new_items)
        # Readers would refuse what this refuses, and the version before would be out of their reach.
        apply(now, [Delta(header, numbers, rows, upcoming.new_items)], [str(file)])
        headers.append(header)

    write_atomic(file, write)
    put_in_force(path, now.header.id, sequence, headers[0].fingerprint)
    if how.keep is not None:
        remove_old(path, how.keep)
    return Published("delta", sequence, upcoming.rows, len(numbers), changes.compared, file.stat().st_size, file)


def _compacted(
    path: Path,
    now: Snapshot,
    upcoming: Next,
    parts: Iterator[tuple[np.ndarray, np.ndarray]],
    changes: Changes,
    how: _How,
) -> Published:
    """Writes a new base: the rows in force, and over them those of ``parts``, which count in ``changes``."""
    items = now.items
    if items is not None and upcoming.new_items is not None:
        items = items.extended(upcoming.new_items)
    meta = {**now.meta, **how.meta}
    fields = _base_fields(upcoming.rows, now.dim, now.dtype, upcoming.oov, now.padding, meta)

    def blocks() -> Iterator[np.ndarray]:
        step, part = max(1, _COPIED // now.header.row_bytes), next(parts, None)
        for start in range(0, upcoming.rows, step):
            stop = min(start + step, upcoming.rows)
            block = np.zeros((stop - start, now.header.row_bytes), np.uint8)
            if start < now.rows:
                block[: now.rows - start] = now.block(start, min(stop, now.rows))
            while part is not None:
                numbers, rows = part
                low, high = np.searchsorted(numbers, [start, stop])
                block[numbers[low:high] - start] = rows[low:high]
                if high < len(numbers):
                    break
                part = next(parts, None)
            yield block

    return _put_base(path, now, fields, blocks(), items, changes, how)
