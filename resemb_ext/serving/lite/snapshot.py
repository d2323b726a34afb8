"""A version of a table in memory: the rows of its base, mapped, and over them the rows that deltas changed."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .deltas import Delta, read_delta
from .errors import TableError
from .format import TableHeader, check_rows, open_table
from .framing import named, read_ahead
from .idmap import Items
from .versions import Head, base_files, delta_file, read_head


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One version of a table. It never changes; its base stays mapped while it is used.

    Row i is row ``before[i >> 6]`` + (set bits of ``bits[i >> 6]`` below bit i & 63) of ``overlay`` where bit i & 63 of
    ``bits[i >> 6]`` is set, else row i of ``base``. Without deltas ``bits`` and ``before`` are empty.

    Attributes:
        header: of the base.
        path: of the base, for messages.
        base: uint8 [H0, row_bytes], mapped.
        bits: uint64 [ceil(H / 64)].
        before: int32 [ceil(H / 64)], set bits before each word.
        overlay: uint8 [n, row_bytes], by row number, ascending.
        rows: H of this version; rows from H0 on lie in the overlay.
        oov: row of every id below 0 or from H on; None refuses them.
        sequence: of this version.
        fingerprint: hex sha256 of the header of the file that made this version.
        numbers: int64 [n], the rows of the overlay.
        written: rows that its deltas hold, one by one.
        meta: what the base's header and those of the deltas say, the later ones over the earlier.
    """

    header: TableHeader
    path: str
    base: np.ndarray
    bits: np.ndarray
    before: np.ndarray
    overlay: np.ndarray
    rows: int
    oov: int | None
    sequence: int
    fingerprint: str
    numbers: np.ndarray
    written: int
    meta: dict[str, Any]
    _section: np.ndarray = field(repr=False)
    _new_items: tuple[Items, ...] = field(default=(), repr=False)

    @property
    def dtype(self) -> str:
        """ "float32", "float16", "int8" or "int4"."""
        return self.header.dtype

    @property
    def dim(self) -> int:
        """D."""
        return self.header.dim

    @property
    def padding(self) -> int | None:
        """Number whose vector is zero, or None."""
        return self.header.padding

    @cached_property
    def items(self) -> Items | None:
        """Raw ids of its items, or None where the table has none; read and compared with their sha256 when asked for.

        Raises:
            TableError: they are damaged.
        """
        if self.header.items is None:
            return None
        items = Items.of(self.header.items, self._section, self.path)
        for new in self._new_items:
            items = items.extended(new)
        return items

    def resolve(self, ids: Any) -> np.ndarray:
        """Ids as rows: those below 0 or from H on become ``oov``.

        Args:
            ids: integers of any shape.

        Returns:
            int64, of the same shape.

        Raises:
            IndexError: there is no ``oov`` row; the first bad id and its position are named.
            TypeError: other ids than integers.
        """
        given = np.asarray(ids)
        if given.dtype.kind not in "iu" and given.size:
            raise TypeError(f"ids: found {given.dtype}, expected integers")
        bad = (given < 0) | (given >= self.rows)
        if not bad.any():
            return given.astype(np.int64)
        if self.oov is None:
            at = int(np.argmax(bad))
            raise IndexError(
                f"ids: found {given.reshape(-1)[at]} at position {at}, expected 0 to {self.rows - 1}; the table has no "
                "out-of-vocabulary row"
            )
        return np.where(bad, 0, given).astype(np.int64) + np.where(bad, self.oov, 0)

    def gather(self, ids: Any) -> np.ndarray:
        """Rows of ids, as bytes.

        Args:
            ids: integers [n]; see ``resolve`` for those that are no rows. ``padding`` gives zeros.

        Returns:
            uint8 [n, row_bytes].

        Raises:
            IndexError, TypeError: as ``resolve``.
        """
        rows = self.resolve(ids).reshape(-1)
        if not len(self.bits):
            out = self.base[rows]
        else:
            word, bit = rows >> 6, (rows & 63).astype(np.uint64)
            held = self.bits[word]
            changed = (held >> bit & np.uint64(1)).astype(bool)
            out = np.empty((len(rows), self.header.row_bytes), np.uint8)
            out[~changed] = self.base[rows[~changed]]
            below = _ones(held[changed] & ((np.uint64(1) << bit[changed]) - np.uint64(1)))
            out[changed] = self.overlay[self.before[word[changed]] + below]
        if self.padding is not None:
            out[rows == self.padding] = 0
        return out

    def block(self, start: int, stop: int) -> np.ndarray:
        """Rows from start up to stop, as bytes: for readers of all rows, one block after another.

        Returns:
            uint8 [stop - start, row_bytes], to be read alone: the mapped rows themselves, where no delta changed one.
        """
        inside = self.base[start:stop]
        read_ahead(inside)
        low, high = np.searchsorted(self.numbers, [start, stop])
        padded = self.padding is not None and start <= self.padding < stop
        if low == high and not padded and len(inside) == stop - start:
            return inside
        out = np.zeros((stop - start, self.header.row_bytes), np.uint8)
        out[: len(inside)] = inside
        out[self.numbers[low:high] - start] = self.overlay[low:high]
        if self.padding is not None and padded:
            out[self.padding - start] = 0
        return out

    def verify(self) -> None:
        """Compares all rows and raw ids of the base with their sha256; deltas were compared when they were read.

        Raises:
            TableError: they differ.
        """
        check_rows(self.header, self.base, self.path)
        _ = self.items


def read_snapshot(path: Path | str, known: Snapshot | None = None) -> Snapshot:
    """The version of a table that is in force, whole, also while another process publishes.

    Args:
        path: of the table.
        known: a version that was read before. It is given back where it is still in force; where the new one follows
            it, only the deltas between are read.

    Raises:
        FileNotFoundError: no such file.
        TableError: it is no table, or its versions are damaged, incomplete or of another one.
    """
    while True:
        head = read_head(path)
        try:
            return _alone(path, known) if head is None else read_version(path, head, known)
        except (TableError, FileNotFoundError):
            if read_head(path) == head:
                raise  # else: another version took its place, and files of this one may be gone


def _alone(path: Path | str, known: Snapshot | None) -> Snapshot:
    found = open_base(path)
    return known if known is not None and known.fingerprint == found.fingerprint else found


def read_version(path: Path | str, head: Head, known: Snapshot | None = None) -> Snapshot:
    """The version of a table that a head names, whether it is in force or not.

    Raises:
        FileNotFoundError, TableError: as ``read_snapshot``.
    """
    deltas: list[Delta] = []
    names: list[str] = []
    sequence, fingerprint = head.sequence, head.fingerprint
    while True:
        if known is not None and (known.sequence, known.fingerprint) == (sequence, fingerprint):
            return apply(known, deltas[::-1], names[::-1])
        file = delta_file(path, sequence)
        try:
            delta = read_delta(file)
        except FileNotFoundError:
            base = _base_of(path, sequence, fingerprint)
            return apply(base, deltas[::-1], names[::-1])
        if (delta.header.sequence, delta.header.fingerprint) != (sequence, fingerprint):
            raise TableError(f"{file}: is not the delta of version {sequence} that was published")
        deltas.append(delta)
        names.append(named(file))
        sequence, fingerprint = delta.header.parent, delta.header.parent_fingerprint


def _base_of(path: Path | str, sequence: int, fingerprint: str) -> Snapshot:
    for file in base_files(path, sequence):
        try:
            found = open_base(file)
        except FileNotFoundError:
            continue
        if (found.sequence, found.fingerprint) == (sequence, fingerprint):
            return found
    if not Path(path).exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), named(path))
    raise TableError(
        f"{named(path)}: version {sequence} is missing: {delta_file(path, sequence)} is not there, and "
        "no base has its number and sha256"
    )


def open_base(path: Path | str) -> Snapshot:
    """A table's file as a version, without deltas.

    Raises:
        FileNotFoundError: no such file.
        TableError: it is no table, or a damaged one.
    """
    header, rows, section = open_table(path)
    return Snapshot(
        header=header,
        path=named(path),
        base=rows,
        bits=np.empty(0, np.uint64),
        before=np.empty(0, np.int32),
        overlay=np.empty((0, header.row_bytes), np.uint8),
        rows=header.rows,
        oov=header.oov,
        sequence=header.sequence,
        fingerprint=header.fingerprint,
        numbers=np.empty(0, np.int64),
        written=0,
        meta=header.meta,
        _section=section,
    )


def apply(snapshot: Snapshot, deltas: Sequence[Delta], names: Sequence[str]) -> Snapshot:
    """A new version: another one with deltas over it.

    Args:
        snapshot: the version that the first delta follows; it stays as it is.
        deltas: each follows the one before.
        names: of their files, for messages.

    Raises:
        TableError: a delta of another table, out of order, or that does not fit.
    """
    at = snapshot
    for delta, name in zip(deltas, names, strict=True):
        _check_follows(at, delta, name)
        at = replace(
            at,
            rows=delta.header.rows,
            oov=delta.header.oov,
            sequence=delta.header.sequence,
            fingerprint=delta.header.fingerprint,
            written=at.written + delta.header.count,
            meta={**at.meta, **delta.header.meta},
            _new_items=at._new_items if delta.items is None else (*at._new_items, delta.items),
        )
    if at is snapshot:
        return snapshot
    numbers, overlay = _newest(
        [snapshot.numbers, *(d.numbers for d in deltas)], [snapshot.overlay, *(d.rows for d in deltas)]
    )
    bits, before = _bitmap(numbers, at.rows)
    made = replace(at, numbers=numbers, overlay=overlay, bits=bits, before=before)
    items = vars(snapshot).get("items")
    if items is not None:  # those that were read already
        for delta in deltas:
            items = items if delta.items is None else items.extended(delta.items)
        vars(made)["items"] = items
    return made


def _check_follows(at: Snapshot, delta: Delta, name: str) -> None:
    found, header = delta.header, at.header
    if found.table != header.id:
        raise TableError(f"{name}: is a delta of another table, {found.table}; this one is {header.id}")
    if (found.dtype, found.dim) != (header.dtype, header.dim):
        raise TableError(
            f"{name}: has rows of {found.dtype}, D = {found.dim}; the table's are {header.dtype}, D = {header.dim}"
        )
    if found.parent != at.sequence or found.parent_fingerprint != at.fingerprint:
        raise TableError(f"{name}: follows another version {found.parent} than the one in force, {at.sequence}")
    if found.padding != header.padding or (found.oov is None) != (at.oov is None) or found.rows < at.rows:
        raise TableError(
            f"{name}: makes a table of {found.rows} rows, padding {found.padding}, oov {found.oov}, from one of "
            f"{at.rows}, {header.padding}, {at.oov}"
        )
    if found.rows > at.rows and len(delta.numbers) - np.searchsorted(delta.numbers, at.rows) != found.rows - at.rows:
        raise TableError(f"{name}: lacks some of the rows {at.rows} to {found.rows - 1}, which it adds")
    if header.items is None:
        if delta.items is not None:
            raise TableError(f"{name}: has raw ids, and the table has none")
    elif (0 if delta.items is None else len(delta.items)) != (found.oov or 0) - (at.oov or 0):
        raise TableError(f"{name}: moves the out-of-vocabulary row from {at.oov} to {found.oov} without as many ids")
    elif delta.items is not None and (delta.items.kind == "text") != (header.items.kind == "text"):
        raise TableError(f"{name}: has {delta.items.kind} ids, and the table's are {header.items.kind}")


def _newest(numbers: list[np.ndarray], rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers, ascending, each once, and of each the row of the last list that has it."""
    if not len(numbers[0]) and len(numbers) == 2:
        return numbers[1], rows[1]
    together = np.concatenate(numbers)
    order = np.argsort(together, kind="stable")
    ascending = together[order]
    last = np.ones(len(order), bool)
    last[:-1] = ascending[1:] != ascending[:-1]
    return ascending[last], np.concatenate(rows)[order[last]]


def _bitmap(numbers: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """``bits`` and ``before`` of ascending row numbers."""
    bits = np.zeros(-(-rows // 64), np.uint64)
    count = np.zeros(len(bits), np.int32)
    if len(numbers):
        word = numbers >> 6
        start = np.flatnonzero(np.r_[True, word[1:] != word[:-1]])
        bits[word[start]] = np.bitwise_or.reduceat(np.uint64(1) << (numbers & 63).astype(np.uint64), start)
        count[word[start]] = np.diff(np.r_[start, len(numbers)])
    before = np.cumsum(count, dtype=np.int32) - count
    return bits, before


def _ones(words: np.ndarray) -> np.ndarray:
    """Set bits of each uint64, int64."""
    half, quarter, eighth = (np.uint64(x) for x in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F))
    words = words - (words >> np.uint64(1) & half)
    words = (words & quarter) + (words >> np.uint64(2) & quarter)
    words = (words + (words >> np.uint64(4))) & eighth
    return (words * np.uint64(0x0101010101010101) >> np.uint64(56)).astype(np.int64)
