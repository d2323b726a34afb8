"""The graph's file: an uncompressed npz with a JSON header; read without pickle, checked whole."""

import hashlib
import json
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resemb_ext.runtime.files import write_atomic

from .data import ARRAYS

FORMAT = "resemb-interest-graph"
# Version 1 has no kept counts; version 3 is of weights in float16 alone.
_READS = (1, 2, 3)
DTYPES = {"indptr": ("<i8",), "neighbors": ("<i4", "<i8"), "weights": ("<f4", "<f2"), "degree": ("<f8",)}
_CHUNK = 1 << 20  # bytes
_ALIGNED = 64  # bytes, of npy headers and so of arrays in the file
_LOCAL_HEADER, _ZIP64_EXTRA = 30, 20  # bytes before a member's name, and of the field that zipfile puts in itself
# Members "counts.NAME": either all that are not optional, or none.
KEPT_DTYPES = {
    "indptr": ("<i8",),
    "neighbors": ("<i4",),
    "masses": ("<i8",),
    "occurrences": ("<i8",),
    "tail_user": ("<i8",),
    "tail_item": ("<i8",),
    "tail_time": ("<i8", "<f8"),
    "category": ("<i8",),
}
_KEPT_OPTIONAL = {"tail_time", "category"}
# What zipfile and NumPy raise on damaged bytes.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ValueError,
    KeyError,
    IndexError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    OSError,
    SyntaxError,
    tokenize.TokenError,
    TypeError,
    MemoryError,
)


@dataclass(frozen=True)
class Parts:
    """An array that is hashed part by part, as it is made."""

    dtype: np.dtype
    size: int
    parts: Iterator[np.ndarray]


def content_hash(arrays: dict[str, Any], link: str) -> str:
    """Hex sha256 over the link's name and the arrays, some of them perhaps ``Parts``, in little-endian bytes."""
    return _hash_of({name: arrays[name] for name in ARRAYS}, f"{FORMAT}:{link}")


def _hash_of(arrays: dict[str, Any], what: str) -> str:
    digest = hashlib.sha256(what.encode())
    for name, found in arrays.items():
        array = found if isinstance(found, Parts) else Parts(found.dtype, len(found), iter([found]))
        dtype = array.dtype.newbyteorder("<")
        digest.update(f":{name}:{dtype.str}:{array.size}:".encode())
        for part in array.parts:
            digest.update(np.ascontiguousarray(part, dtype=dtype).data)
    return digest.hexdigest()


def write(
    path: str | os.PathLike[str],
    arrays: dict[str, np.ndarray],
    header: dict[str, Any],
    kept: dict[str, np.ndarray] | None = None,
) -> None:
    """Writes the whole file or nothing, see ``write_atomic``."""
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path: folder {target.parent} does not exist")
    members = dict(arrays)
    if kept is not None:
        header = {**header, "counts_hash": _hash_of(kept, f"{FORMAT}:counts")}
        members |= {f"counts.{name}": array for name, array in kept.items()}
    version = 3 if arrays["weights"].dtype == np.float16 else 2  # releases that do not read it say so
    text = json.dumps({"format": FORMAT, "version": version, **header}, allow_nan=False).encode()

    def write_members(beside: Path) -> None:
        with zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as archive:
            for member, array in {"header": np.frombuffer(text, np.uint8), **members}.items():
                # A ZipInfo without a date: equal graphs give equal files.
                info = zipfile.ZipInfo(f"{member}.npy")
                info.extra = _padding(archive.start_dir, info.filename)
                with archive.open(info, "w", force_zip64=True) as stream:
                    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
                    np.lib.format.write_array(stream, little, (1, 0), allow_pickle=False)

    write_atomic(target, write_members)


Read = tuple[dict[str, np.ndarray], dict[str, Any], dict[str, np.ndarray]]


def _padding(at: int, name: str) -> bytes:
    """An extra field of a member that begins at some byte of an archive, so that its array can be mapped.

    An npy header takes a multiple of ``_ALIGNED`` bytes. The field is that of Android's zipalign.
    """
    before = at + _LOCAL_HEADER + len(name) + _ZIP64_EXTRA + 4
    blank = -before % _ALIGNED
    return struct.pack("<HH", 0xD935, blank) + bytes(blank)


def read(path: str | os.PathLike[str], mapped: bool = False) -> Read:
    """Arrays, header and kept counts of a file; ValueError naming the path where that is no graph file.

    Args:
        path: of the file.
        mapped: arrays lie in the file's own memory.
    """
    target = Path(path)
    if target.is_dir():
        raise ValueError(f"{target} is a folder, expected a graph file")
    with target.open("rb") as file:
        try:
            return _read(file, target if mapped else None)
        except _DAMAGE as error:
            # Names inside a damaged file may hold anything, line ends among them.
            why = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(error))
            raise ValueError(
                f"{target} is not a readable interest graph ({why or type(error).__name__});"
                " expected a whole file written by InterestGraph.save"
            ) from error


def _read(file: Any, mapped: Path | None) -> Read:
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        kept_names = {name for name in KEPT_DTYPES if f"counts.{name}.npy" in names}
        expected = ["header", *ARRAYS, *(f"counts.{name}" for name in kept_names)]
        if sorted(names) != sorted(f"{n}.npy" for n in expected):
            raise ValueError(f"it holds {', '.join(names[:6]) or 'nothing'}")
        if kept_names and not kept_names | _KEPT_OPTIONAL >= set(KEPT_DTYPES):
            raise ValueError("some of its kept counts are missing")
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > size:
                raise ValueError(f"{info.filename} is compressed or longer than the file")
        header = json.loads(_array(archive, "header", ("|u1",)).tobytes())
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise ValueError("its header is foreign")
        version = header.get("version")
        if version not in _READS or isinstance(version, bool):
            raise ValueError(f"its format version is {version!r}, this release reads {_READS[0]} to {_READS[-1]}")
        if mapped is None:
            arrays = {name: _array(archive, name, DTYPES[name]) for name in ARRAYS}
        else:
            arrays = {name: _mapped(archive, file, mapped, name, DTYPES[name]) for name in ARRAYS}
        kept = {
            name: _array(archive, f"counts.{name}", dtypes)
            for name, dtypes in KEPT_DTYPES.items()
            if name in kept_names
        }
    if not isinstance(header.get("meta"), dict) or not isinstance(header.get("link"), str):
        raise ValueError("its header lacks meta or link")
    if header.get("hash") != content_hash(arrays, header["link"]):
        raise ValueError("its arrays do not match its hash")
    if kept and header.get("counts_hash") != _hash_of(kept, f"{FORMAT}:counts"):
        raise ValueError("its kept counts do not match their hash")
    return arrays, header, kept


def _mapped(archive: zipfile.ZipFile, file: Any, path: Path, name: str, dtypes: tuple[str, ...]) -> np.ndarray:
    """One member as a vector in the file's memory, which processes share; nothing of it is read here."""
    info = archive.getinfo(f"{name}.npy")
    file.seek(info.header_offset + 26)
    file.seek(info.header_offset + _LOCAL_HEADER + sum(struct.unpack("<HH", file.read(4))))
    size, dtype = _npy_header(file, name, dtypes, info.file_size)
    offset = file.tell()
    if not dtype.isnative:
        raise ValueError("its arrays are little-endian, which this machine cannot map")
    if offset % _ALIGNED:
        raise ValueError(
            f"{name} begins at byte {offset}, expected a multiple of {_ALIGNED}: files of earlier releases cannot be mapped; "
            "load and save it again"
        )
    return np.memmap(path, dtype, "r", offset, (size,)).view(np.ndarray) if size else np.empty(0, dtype)


def _npy_header(stream: Any, name: str, dtypes: tuple[str, ...], file_size: int) -> tuple[int, np.dtype]:
    """Length and dtype of a vector, whose numbers the stream is then at."""
    begin = stream.tell()
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"{name} has npy version {version}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if len(shape) != 1 or dtype.str not in dtypes:
        raise ValueError(f"{name} is {dtype.str} of shape {shape}, expected {' or '.join(dtypes)}")
    left = file_size - (stream.tell() - begin)
    if shape[0] < 0 or left != shape[0] * dtype.itemsize:
        raise ValueError(f"{name} has {left} bytes for shape {shape}")
    return shape[0], dtype


def _array(archive: zipfile.ZipFile, name: str, dtypes: tuple[str, ...]) -> np.ndarray:
    """One member as a vector; zipfile verifies the CRC while reading."""
    with archive.open(f"{name}.npy") as stream:
        size, dtype = _npy_header(stream, name, dtypes, archive.getinfo(f"{name}.npy").file_size)
        left = size * dtype.itemsize
        # NumPy's own memory lies on huge pages; the stream alone would hand out bytes to copy.
        array = np.empty(size, dtype)
        place = array.view(np.uint8).data
        for begin in range(0, left, _CHUNK):
            part = stream.read(min(_CHUNK, left - begin))
            place[begin : begin + len(part)] = part
        stream.read()  # its end, where the CRC is compared
    return array.astype(dtype.newbyteorder("="), copy=False)
