"""The outer form that tables and deltas share.

======================  ==================================================================
bytes                   content
======================  ==================================================================
8                       magic, which says what the file is
8                       uint64, little-endian: length of the header
32                      sha256 of the 16 bytes before and of the header
as many                 the header: JSON in UTF-8, an object
up to 4096 k            zeros
the rest                sections, one after another; the header gives their sizes
======================  ==================================================================
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .errors import TableError

ALIGNMENT = 4096
MAX_HEADER = 1 << 20
_START = struct.Struct("<8sQ")
_FIXED = _START.size + 32
_MAP_NORESERVE = 0x4000  # on Linux; the module has it from Python 3.13 on
_HEX = re.compile(r"[0-9a-f]+")


def body_at(header_length: int) -> int:
    """Where the first section begins."""
    return -(-(_FIXED + header_length) // ALIGNMENT) * ALIGNMENT


def pack(magic: bytes, fields: Mapping[str, Any]) -> bytes:
    """The file up to its first section.

    Raises:
        TableError: fields that JSON cannot hold, or too many.
    """
    try:
        text = json.dumps(fields, allow_nan=False, sort_keys=True, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise TableError(f"meta: JSON cannot hold it: {error}") from None
    if len(text) > MAX_HEADER:
        raise TableError(f"meta: the header would take {len(text)} bytes, and may take {MAX_HEADER}")
    start = _START.pack(magic, len(text))
    head = start + hashlib.sha256(start + text).digest() + text
    return head.ljust(body_at(len(text)), b"\0")


def unpack(file: BinaryIO, magic: bytes, name: str) -> tuple[dict[str, Any], str, int, int]:
    """Reads what ``pack`` made.

    Args:
        file: open at its start.
        name: for messages.

    Returns:
        The header, its hex sha256, where the first section begins, and the size of the file.

    Raises:
        TableError: another kind of file, or a damaged one.
    """
    size = os.fstat(file.fileno()).st_size
    begin = file.read(_FIXED)
    if begin[: len(magic)] != magic:
        raise TableError(f"{name}: is no {magic[2:7].decode().lower()} of resemb, or one of another version")
    if len(begin) < _FIXED:
        raise TableError(f"{name}: is cut off: {size} bytes")
    (_, length), digest = _START.unpack(begin[: _START.size]), begin[_START.size :]
    if length > MAX_HEADER:
        raise TableError(f"{name}: is damaged: a header of {length} bytes")
    text = file.read(length)
    if len(text) < length or size < body_at(length):
        raise TableError(f"{name}: is cut off: {size} bytes")
    if hashlib.sha256(begin[: _START.size] + text).digest() != digest:
        raise TableError(f"{name}: is damaged: its header does not match its sha256")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise TableError(f"{name}: its header is no JSON object")
    return fields, digest.hex(), body_at(length), size


class Fields:
    """The fields of a header, each checked as it is taken.

    Args:
        fields: of the header.
        name: of the file, for messages.
    """

    def __init__(self, fields: Mapping[str, Any], name: str) -> None:
        self._fields, self._name = fields, name

    def number(self, key: str, low: int, high: int) -> int:
        """An integer from low to high."""
        value = self._fields.get(key)
        if type(value) is not int or not low <= value <= high:
            raise self.wrong(key, f"a whole number from {low} to {high}")
        return value

    def number_or_none(self, key: str, low: int, high: int) -> int | None:
        """The same, or null."""
        return None if self._fields.get(key) is None else self.number(key, low, high)

    def text(self, key: str, choices: Iterable[str]) -> str:
        """One of some words."""
        value = self._fields.get(key)
        if value not in tuple(choices):
            raise self.wrong(key, f"one of {', '.join(choices)}")
        return str(value)

    def hex(self, key: str, digits: int) -> str:
        """Hexadecimal digits, such as those of a sha256."""
        value = self._fields.get(key)
        if not isinstance(value, str) or len(value) != digits or not _HEX.fullmatch(value):
            raise self.wrong(key, f"{digits} hexadecimal digits")
        return value

    def object(self, key: str) -> dict[str, Any]:
        """A JSON object."""
        value = self._fields.get(key)
        if not isinstance(value, dict):
            raise self.wrong(key, "a JSON object")
        return value

    def object_or_none(self, key: str) -> dict[str, Any] | None:
        """The same, or null."""
        return None if self._fields.get(key) is None else self.object(key)

    def wrong(self, key: str, expected: str) -> TableError:
        """The error of a field."""
        return TableError(f"{self._name}: {key} is {str(self._fields.get(key))[:60]!r}, expected {expected}")


def mapped(file: BinaryIO) -> np.ndarray:
    """The bytes of an open file, uint8, mapped; the mapping outlives the file's name.

    The pages are those of all processes. They are private and writable, since torch takes no others: a write would
    stay in this process. Memory for such writes is not set aside, so that a table may be larger than memory.
    """
    flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", _MAP_NORESERVE)
    held = mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    held.madvise(mmap.MADV_RANDOM)  # a row is a page or two; Linux would read 128 KiB around each
    return np.frombuffer(held, np.uint8)


def read_ahead(part: np.ndarray) -> None:
    """Asks the system to read a part of what ``mapped`` gave, where it is about to be read from end to end."""
    whole = part
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    held = whole.base.obj if isinstance(whole.base, memoryview) else whole.base
    if isinstance(held, mmap.mmap) and part.nbytes:
        at = part.ctypes.data - whole.ctypes.data
        start = at - at % mmap.PAGESIZE
        held.madvise(mmap.MADV_WILLNEED, start, at + part.nbytes - start)


def bytes_of(array: np.ndarray) -> memoryview:
    """The bytes of an array, row after row."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def sha256_of(*parts: np.ndarray) -> str:
    """Hex sha256 of the bytes of arrays, one after another."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(bytes_of(part))
    return digest.hexdigest()


def named(path: Path | str) -> str:
    """A path for messages."""
    return os.fspath(path)
