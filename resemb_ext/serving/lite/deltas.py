"""The file of a delta: the rows in which a version differs from the one that it follows.

It begins as ``framing`` says. Its sections are int64 numbers of rows, ascending, [n]; those rows, uint8 [n, row_bytes];
and the raw ids of new items, where there are some. All numbers are little-endian.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .errors import TableError
from .format import MAX_SEQUENCE, UNKNOWN, check_block, check_size, common, fields_of
from .framing import Fields, bytes_of, named, pack, sha256_of, unpack
from .idmap import Items, ItemsHeader
from .rows import row_bytes

_DELTA = b"RXDELTA\x01"


@dataclass(frozen=True)
class DeltaHeader:
    """What a delta's file says of itself.

    Attributes:
        table: ``id`` of the base that it belongs to.
        sequence: of the version that it makes.
        parent: sequence of the version that it follows.
        parent_fingerprint: of the file that made that version.
        dtype, dim, padding: as the table's.
        rows, oov: those of the version that it makes.
        count: rows that it holds.
        digest: hex sha256 of their numbers and then of themselves.
        meta, items, fingerprint, body: as in ``TableHeader``; ``items`` are the new ones alone.
    """

    table: str
    sequence: int
    parent: int
    parent_fingerprint: str
    dtype: str
    dim: int
    rows: int
    count: int
    oov: int | None = None
    padding: int | None = None
    digest: str = UNKNOWN
    meta: dict[str, Any] = field(default_factory=dict)
    items: ItemsHeader | None = None
    fingerprint: str = ""
    body: int = 0

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return row_bytes(self.dtype, self.dim)


@dataclass(frozen=True, eq=False)
class Delta:
    """A delta that was read and matches its digests.

    Attributes:
        header: of its file.
        numbers: int64 [n], rows that change, ascending.
        rows: uint8 [n, row_bytes].
        items: the new raw ids, or None.
    """

    header: DeltaHeader
    numbers: np.ndarray
    rows: np.ndarray
    items: Items | None = None


def _delta(fields: Mapping[str, Any], name: str) -> DeltaHeader:
    take = Fields(fields, name)
    sequence, shared = take.number("sequence", 1, MAX_SEQUENCE), common(take, name)
    return DeltaHeader(
        table=take.hex("table", 32),
        sequence=sequence,
        parent=take.number("parent", 0, sequence - 1),
        parent_fingerprint=take.hex("parent_fingerprint", 64),
        count=take.number("count", 0, shared["rows"]),
        **shared,
    )


def _read_delta(file: BinaryIO, name: str) -> DeltaHeader:
    fields, fingerprint, body, size = unpack(file, _DELTA, name)
    header = replace(_delta(fields, name), fingerprint=fingerprint, body=body)
    check_size(name, size, body + header.count * (8 + header.row_bytes), header.items)
    return header


def write_delta(
    path: Path | str, fields: Mapping[str, Any], numbers: np.ndarray, rows: np.ndarray, items: Items | None = None
) -> DeltaHeader:
    """Fills a file with a delta.

    Args:
        path: of the file, which is there or not.
        fields: of ``DeltaHeader``; "count", "digest", "items", "fingerprint" and "body" are found here.
        numbers: int64 [n], ascending.
        rows: uint8 [n, row_bytes].
        items: raw ids of new items.

    Returns:
        the header that was written.

    Raises:
        TableError: fields or arrays that no delta can have.
        OSError: the file cannot be written.
    """
    section = None if items is None else items.section()
    numbers = np.ascontiguousarray(numbers, "<i8")
    found = {
        "count": len(numbers),
        "digest": sha256_of(numbers, rows),
        "items": None if items is None or section is None else items.header(section),
    }
    header = _delta(fields_of(DeltaHeader(**{**fields, **found})), "fields")
    check_block(rows, header.row_bytes)
    _check_numbers(numbers, rows, header.rows, "numbers")
    with open(path, "wb") as file:
        file.write(pack(_DELTA, fields_of(header)))
        file.write(bytes_of(numbers))
        file.write(bytes_of(rows))
        if section is not None:
            file.write(bytes_of(section))
    return read_delta_header(path)


def _check_numbers(numbers: np.ndarray, rows: np.ndarray, total: int, name: str) -> None:
    if len(numbers) != len(rows):
        raise TableError(f"{name}: {len(numbers)} numbers of {len(rows)} rows")
    if len(numbers) and (numbers[0] < 0 or numbers[-1] >= total or (np.diff(numbers) <= 0).any()):
        raise TableError(f"{name}: must be numbers of rows from 0 to {total - 1}, ascending, each once")


def read_delta_header(path: Path | str) -> DeltaHeader:
    """The header of a delta, checked against its sha256 and the file's size.

    Raises:
        FileNotFoundError: no such file.
        TableError: it is no delta, or a damaged one.
    """
    with open(path, "rb") as file:
        return _read_delta(file, named(path))


def read_delta(path: Path | str) -> Delta:
    """A delta, all of it, compared with its digests.

    Raises:
        FileNotFoundError: no such file.
        TableError: it is no delta, or a damaged one.
    """
    name = named(path)
    with open(path, "rb") as file:
        header = _read_delta(file, name)
        file.seek(header.body)
        body = np.fromfile(file, np.uint8)
    split = 8 * header.count
    end = split + header.count * header.row_bytes
    if len(body) != end + (0 if header.items is None else header.items.bytes):
        raise TableError(f"{name}: is cut off while it is read")
    if sha256_of(body[:end]) != header.digest:
        raise TableError(f"{name}: is damaged: its rows do not match their sha256")
    numbers = body[:split].view("<i8").astype(np.int64, copy=False)
    rows = body[split:end].reshape(header.count, header.row_bytes)
    _check_numbers(numbers, rows, header.rows, f"{name}: row numbers")
    items = None if header.items is None else Items.of(header.items, body[end:], name)
    return Delta(header, numbers, rows, items)
