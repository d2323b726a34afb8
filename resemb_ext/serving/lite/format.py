"""The file of a table: all rows of its base.

It begins as ``framing`` says. Its sections are the rows, uint8 [H, row_bytes] without padding between them, and the raw
ids of its items, where it has them. All numbers are little-endian.

Nothing here replaces a file: ``write_table`` fills the one that it is given. Write to a file beside it, and
rename that (``resemb_ext.runtime.files.write_atomic``).
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .errors import TableError
from .framing import Fields, bytes_of, mapped, named, pack, read_ahead, unpack
from .idmap import MAX_ROWS, Items, ItemsHeader
from .rows import DTYPES, MAX_DIM, row_bytes

__all__ = ["TableHeader", "check_rows", "map_rows", "open_table", "packed", "read_header", "row_bytes", "write_table"]

VERSION = 1
MAX_SEQUENCE = 99_999_999
_TABLE = b"RXTABLE\x01"
UNKNOWN = "0" * 64
_BLOCK = 1 << 24  # bytes that are hashed at once
_WRITE = 1 << 24  # bytes that are written at once: Linux then caches them on one huge page


@dataclass(frozen=True)
class TableHeader:
    """What a table's file says of itself.

    Attributes:
        id: 32 hexadecimal digits, new for every base.
        dtype: "float32", "float16", "int8" or "int4".
        rows, dim: H and D.
        oov: row of every id that the table lacks, or None.
        padding: number whose vector is zero, or None.
        sequence: of the version that it is; 0 for the first.
        parent: sequence of the version that it follows, or None for the first.
        digest: hex sha256 of the rows.
        meta: JSON, such as the run that it came from.
        items: of its raw ids, or None.
        fingerprint: hex sha256 of the header itself; not a field of it.
        body: bytes before the rows; not a field of the header.
    """

    id: str
    dtype: str
    rows: int
    dim: int
    oov: int | None = None
    padding: int | None = None
    sequence: int = 0
    parent: int | None = None
    digest: str = UNKNOWN
    meta: dict[str, Any] = field(default_factory=dict)
    items: ItemsHeader | None = None
    fingerprint: str = ""
    body: int = 0

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return row_bytes(self.dtype, self.dim)


def fields_of(header: Any) -> dict[str, Any]:
    """The JSON of a header of either kind of file."""
    held = {k: v for k, v in asdict(header).items() if k not in ("fingerprint", "body", "items")}
    items = None if header.items is None else header.items.fields()
    return {**held, "version": VERSION, "row_bytes": header.row_bytes, "items": items}


def common(take: Fields, name: str) -> dict[str, Any]:
    """Fields that tables and deltas share."""
    take.number("version", VERSION, VERSION)
    dtype, dim = take.text("dtype", DTYPES), take.number("dim", 1, MAX_DIM)
    size = row_bytes(dtype, dim)
    take.number("row_bytes", size, size)
    rows = take.number("rows", 1, MAX_ROWS)
    oov = take.number_or_none("oov", 0, rows - 1)
    raw = take.object_or_none("items")
    items = None if raw is None else ItemsHeader.of(raw, name)
    if items is not None and items.first + items.count != oov:
        raise TableError(f"{name}: its raw ids are numbered below {items.first + items.count}, and oov is {oov}")
    return {
        "dtype": dtype,
        "dim": dim,
        "rows": rows,
        "oov": oov,
        "padding": take.number_or_none("padding", 0, rows - 1),
        "digest": take.hex("digest", 64),
        "meta": take.object("meta"),
        "items": items,
    }


def _table(fields: Mapping[str, Any], name: str) -> TableHeader:
    take = Fields(fields, name)
    sequence = take.number("sequence", 0, MAX_SEQUENCE)
    parent = take.number_or_none("parent", 0, sequence - 1)
    return TableHeader(id=take.hex("id", 32), sequence=sequence, parent=parent, **common(take, name))


def _read_table(file: BinaryIO, name: str) -> TableHeader:
    fields, fingerprint, body, size = unpack(file, _TABLE, name)
    header = replace(_table(fields, name), fingerprint=fingerprint, body=body)
    check_size(name, size, body + header.rows * header.row_bytes, header.items)
    return header


def check_size(name: str, size: int, rows_end: int, items: ItemsHeader | None) -> None:
    """Refuses a file of another size than its header tells."""
    expected = rows_end + (0 if items is None else items.bytes)
    if size != expected:
        what = "cut off" if size < expected else "too long"
        raise TableError(f"{name}: is {what}: {size} bytes, expected {expected}")


def write_table(
    path: Path | str, fields: Mapping[str, Any], blocks: Iterable[np.ndarray], items: Items | None = None
) -> TableHeader:
    """Fills a file with a table; the file is no table until all is written.

    Args:
        path: of the file, which is there or not.
        fields: of ``TableHeader``: "dtype", "rows", "dim", and others as they are wanted; "id" is a new one by
            default. "digest", "items", "fingerprint" and "body" are found here.
        blocks: uint8 [b, row_bytes], the rows from the first to the last.
        items: raw ids of its items; their ``oov`` must be the field's.

    Returns:
        the header that was written.

    Raises:
        TableError: fields that no table can have, or blocks that do not fit them.
        OSError: the file cannot be written.
    """
    section = None if items is None else items.section()
    given = {
        "id": uuid.uuid4().hex,
        **fields,
        "items": None if items is None or section is None else items.header(section),
    }
    header = _table(fields_of(TableHeader(**given)), "fields")
    size, count, digest = header.row_bytes, 0, hashlib.sha256()
    with open(path, "wb", _WRITE) as file:
        file.write(packed(header))
        for block in blocks:
            check_block(block, size)
            count += len(block)
            if count > header.rows:
                break
            held = bytes_of(block)
            digest.update(held)
            file.write(held)
        if count != header.rows:
            raise TableError(f"blocks: hold {count} rows or more, expected {header.rows}")
        if section is not None:
            file.write(bytes_of(section))
        file.seek(0)
        file.write(packed(replace(header, digest=digest.hexdigest())))
    return read_header(path)


def packed(header: TableHeader) -> bytes:
    """What stands before the rows in the file of a table with this header; its fingerprint and body are found anew."""
    return pack(_TABLE, fields_of(header))


def check_block(block: np.ndarray, size: int) -> None:
    """Refuses what are no rows of ``size`` bytes."""
    if block.dtype != np.uint8 or block.ndim != 2 or block.shape[1] != size:
        raise TableError(f"blocks: found {block.dtype} of shape {block.shape}, expected uint8 [b, {size}]")


def read_header(path: Path | str) -> TableHeader:
    """The header of a table, checked against its sha256 and the file's size; reads a few kilobytes.

    Raises:
        FileNotFoundError: no such file.
        TableError: it is no table, or a damaged one.
    """
    with open(path, "rb") as file:
        return _read_table(file, named(path))


def open_table(path: Path | str) -> tuple[TableHeader, np.ndarray, np.ndarray]:
    """The header of a table, its rows uint8 [H, row_bytes] and the bytes of its raw ids, both mapped.

    All are of one file, also where another one takes its name meanwhile. They share memory with every process that has
    the file open; what is written into them stays in this process.

    Raises:
        FileNotFoundError, TableError: as ``read_header``.
    """
    with open(path, "rb") as file:
        header = _read_table(file, named(path))
        whole = mapped(file)
    rows = whole[header.body : header.body + header.rows * header.row_bytes]
    return header, rows.reshape(header.rows, header.row_bytes), whole[header.body + len(rows) :]


def map_rows(path: Path | str, header: TableHeader) -> np.ndarray:
    """The rows of a table, uint8 [H, row_bytes], mapped as by ``open_table``.

    Raises:
        FileNotFoundError: no such file.
        TableError: it is no longer the file whose header this is.
    """
    found, rows, _ = open_table(path)
    if found.fingerprint != header.fingerprint:
        raise TableError(f"{named(path)}: has another header than before; open it again")
    return rows


def check_rows(header: TableHeader, rows: np.ndarray, name: Path | str) -> None:
    """Compares all rows with their sha256; reads them all.

    Raises:
        TableError: they differ.
    """
    digest, step = hashlib.sha256(), max(1, _BLOCK // header.row_bytes)
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        read_ahead(block)
        digest.update(bytes_of(block))
    if digest.hexdigest() != header.digest:
        raise TableError(f"{named(name)}: is damaged: its rows do not match their sha256")
