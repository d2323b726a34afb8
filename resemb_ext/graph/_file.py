"""The graph's file: an uncompressed npz with a JSON header; read without pickle, checked whole."""

import hashlib
import io
import json
import os
import secrets
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = "resemb-interest-graph"
VERSION = 1
ARRAYS = ("indptr", "neighbors", "weights", "degree")
DTYPES = {
    "indptr": ("<i8",),
    "neighbors": ("<i4", "<i8"),
    "weights": ("<f4",),
    "degree": ("<f8",),
}
# What zipfile and NumPy raise on damaged bytes.
DAMAGE = (
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


def content_hash(arrays: dict[str, np.ndarray], link: str) -> str:
    """Hex sha256 over the link's name and the arrays in little-endian bytes."""
    digest = hashlib.sha256(f"{FORMAT}:{link}".encode())
    for name in ARRAYS:
        array = arrays[name]
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        digest.update(f":{name}:{little.dtype.str}:{len(little)}:".encode())
        digest.update(little.data)
    return digest.hexdigest()


def write(
    path: str | os.PathLike[str], arrays: dict[str, np.ndarray], header: dict[str, Any]
) -> None:
    """Writes beside `path` and moves the whole file into place."""
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path: folder {target.parent} does not exist")
    text = json.dumps({"format": FORMAT, "version": VERSION, **header}, allow_nan=False).encode()
    beside = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        with beside.open("xb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for member, array in {"header": np.frombuffer(text, np.uint8), **arrays}.items():
                    # A ZipInfo without a date: equal graphs give equal files.
                    info = zipfile.ZipInfo(f"{member}.npy")
                    with archive.open(info, "w", force_zip64=True) as stream:
                        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
                        np.lib.format.write_array(stream, little, (1, 0), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and header of a file; ValueError naming the path where that is no graph file."""
    target = Path(path)
    if target.is_dir():
        raise ValueError(f"{target} is a folder, expected a graph file")
    with target.open("rb") as file:
        try:
            return _read(file)
        except DAMAGE as error:
            # Names inside a damaged file may hold anything, line ends among them.
            why = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(error))
            raise ValueError(
                f"{target} is not a readable interest graph ({why or type(error).__name__});"
                " expected a whole file written by InterestGraph.save"
            ) from error


def _read(file: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if sorted(names) != sorted(f"{n}.npy" for n in ("header", *ARRAYS)):
            raise ValueError(f"it holds {', '.join(names[:6]) or 'nothing'}")
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > size:
                raise ValueError(f"{info.filename} is compressed or longer than the file")
        header = json.loads(_array(archive, "header", ("|u1",)).tobytes())
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise ValueError("its header is foreign")
        if header.get("version") != VERSION:
            raise ValueError(
                f"its format version is {header.get('version')!r}, this release reads {VERSION}"
            )
        arrays = {name: _array(archive, name, DTYPES[name]) for name in ARRAYS}
    if not isinstance(header.get("meta"), dict) or not isinstance(header.get("link"), str):
        raise ValueError("its header lacks meta or link")
    if header.get("hash") != content_hash(arrays, header["link"]):
        raise ValueError("its arrays do not match its hash")
    return arrays, header


def _array(archive: zipfile.ZipFile, name: str, dtypes: tuple[str, ...]) -> np.ndarray:
    """One member as a read-only vector over its bytes; zipfile verifies the CRC while reading."""
    data = archive.read(f"{name}.npy")
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"{name} has npy version {version}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if len(shape) != 1 or dtype.str not in dtypes:
        raise ValueError(f"{name} is {dtype.str} of shape {shape}, expected {' or '.join(dtypes)}")
    begin = stream.tell()
    if shape[0] < 0 or len(data) - begin != shape[0] * dtype.itemsize:
        raise ValueError(f"{name} has {len(data) - begin} bytes for shape {shape}")
    array = np.frombuffer(data, dtype, offset=begin)
    return array.astype(dtype.newbyteorder("="), copy=False)
