"""Checkpoints: safetensors files with a digest, written whole or not at all, read without pickle."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from resemb_ext.distributed.deal import Deal
from resemb_ext.distributed.gather import DTYPES, stored_blocks, write_gathered
from resemb_ext.distributed.rows import Dealt, in_blocks
from resemb_ext.distributed.shards import Shards, write_shards
from resemb_ext.distributed.wire import Wire
from resemb_ext.runtime.files import write_atomic

FORMAT = "resemb-checkpoint"
VERSION = 2
BEST, LAST = "best.safetensors", "last.safetensors"
LAST_SHARDS = "last.dcp"  # of several ranks, under way: folders by number

# JSON has no tensors, tuples, keys other than text, or numbers that are not finite.
_TENSOR, _TUPLE, _ITEMS, _FLOAT = "$tensor", "$tuple", "$items", "$float"


def save_checkpoint(path: Path, state: dict[str, Any], wire: Wire | None = None) -> None:
    """Writes ``state`` to ``path`` atomically; equal states give equal bytes, for any number of ranks.

    The file is a safetensors file: every tensor of ``state`` under its path of keys, and in the
    metadata the rest as JSON, with a sha256 over all of it.

    Args:
        path: the file; its folder exists.
        state: dicts, lists, tuples, tensors, numbers, text, bool and None, nested at will. Tensors by row whose rows
            lie with several ranks are ``Dealt``.
        wire: between the ranks, all of which call this; rank 0 writes what is not dealt.

    Raises:
        TypeError: a value of another type.
        OSError: the file cannot be written; on every rank.
    """
    tensors: dict[str, Any] = {}
    content = json.dumps(_pack(state, "", tensors), allow_nan=False)
    metadata = {"format": FORMAT, "version": str(VERSION), "state": content}
    if wire is not None:
        # The digest follows what is written; until then its place is held.
        write_gathered(path, tensors, {**metadata, "sha256": "0" * 64}, wire, lambda target: _seal(target, content))
        return
    metadata["sha256"] = _digest(content, tensors)

    def write(target: Path) -> None:
        try:
            save_file(tensors, target, metadata)
        except SafetensorError as error:  # its failures to write are no OSError
            raise OSError(f"cannot write {path}: {error}") from error
        _sort_metadata(target)

    write_atomic(path, write)


def _seal(path: Path, content: str) -> None:
    """Puts the digest of a file's content into its metadata."""
    with safe_open(path, framework="pt", device="cpu") as file:
        names = list(file.keys())
    _sort_metadata(path, sha256=_digest(content, {name: Stored(path, name) for name in names}))


def _sort_metadata(path: Path, **others: str) -> None:
    """Sorts a file's metadata, which the library writes in the order of a hash table: another one each time.

    Args:
        path: of the file.
        **others: values to put in place of ones of the same length.
    """
    with open(path, "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted({**header["__metadata__"], **others}.items()))
        content = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(content) <= size:  # else the library writes JSON otherwise than Python, and its order stays
            file.seek(8)
            file.write(content.ljust(size))


@dataclass(frozen=True)
class Stored:
    """A tensor in a checkpoint, to be read by those who need it, or some rows of it."""

    path: Path
    name: str

    def whole(self) -> Tensor:
        """All of it, on the CPU."""
        with safe_open(self.path, framework="pt", device="cpu") as file:
            return file.get_tensor(self.name).clone()

    def blocks(self) -> Iterator[Tensor]:
        """Its rows, some at a time."""
        return (block for _, block in stored_blocks(self.path, self.name))

    def own(self, deal: Deal) -> Tensor:
        """The rows of this rank.

        Raises:
            ValueError: it has not as many rows as the deal.
        """
        shape, found = self.shape, []
        if not shape or shape[0] != deal.items:
            raise ValueError(f"{self.name} has shape {list(shape)}; expected {deal.items} rows")
        for start, block in stored_blocks(self.path, self.name):
            found.append(block[(deal.rank - start) % deal.ranks :: deal.ranks].clone())
        return torch.cat(found)

    @property
    def shape(self) -> torch.Size:
        with safe_open(self.path, framework="pt", device="cpu") as file:
            return torch.Size(file.get_slice(self.name).get_shape())

    @property
    def dtype(self) -> torch.dtype:
        with safe_open(self.path, framework="pt", device="cpu") as file:
            return DTYPES[file.get_slice(self.name).get_dtype()]


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU.

    Returns:
        what training saved. ``best``: ``model`` (state dict), ``epoch`` (1-based), ``step``,
        ``metrics``, ``config``, ``seed``. ``last``: what continuing needs, see ``saving``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, damaged, no checkpoint of this package, or of another
            version.
    """
    path = Path(path)
    metadata, names = _opened(path)
    with _readable(path), safe_open(path, framework="pt", device="cpu") as file:
        # Clones: the file is mapped, and what is loaded must outlive a new one in its place.
        tensors = {name: file.get_tensor(name).clone() for name in names}
    return _checked(path, metadata, tensors, True)


def open_checkpoint(path: Path | str, check: bool) -> dict[str, Any]:
    """As ``load_checkpoint``, with ``Stored`` in place of tensors.

    Args:
        path: of the file.
        check: compare the content with its digest; one rank of several is enough.
    """
    path = Path(path)
    metadata, names = _opened(path)
    return _checked(path, metadata, {name: Stored(path, name) for name in names}, check)


def save_shards(folder: Path, state: dict[str, Any], wire: Wire | None) -> None:
    """Writes ``state`` as files of all ranks; see ``resemb_ext.distributed.shards``.

    Args:
        folder: new or empty.
        state, wire: as of ``save_checkpoint``.

    Raises:
        TypeError, OSError: as ``save_checkpoint``.
    """
    tensors: dict[str, Any] = {}
    content = _pack(state, "", tensors)
    write_shards(folder, tensors, {"format": FORMAT, "version": VERSION, "state": content}, wire)


@dataclass(frozen=True)
class StoredShards:
    """A tensor in files of several ranks; all ranks that opened them read it together."""

    shards: Shards
    name: str

    @property
    def shape(self) -> torch.Size:
        return self.shards.entries_of_all[self.name][0]

    @property
    def dtype(self) -> torch.dtype:
        return self.shards.entries_of_all[self.name][1]

    def whole(self) -> Tensor:
        """All of it, on the CPU."""
        made = torch.empty(self.shape, dtype=self.dtype)
        self.shards.load({self.name: made})
        return made

    def own(self, deal: Deal) -> Tensor:
        """The rows of this rank.

        Raises:
            ValueError: it has not as many rows as the deal.
        """
        made = torch.empty((deal.count, *self.shape[1:]), dtype=self.dtype)
        self.shards.load({self.name: Dealt(made, deal)})
        return made


def open_shards(folder: Path, wire: Wire | None) -> dict[str, Any]:
    """What ``save_shards`` wrote, with ``StoredShards`` in place of tensors; every rank of the wire calls this.

    Raises:
        FileNotFoundError: a file is missing; it is named, on every rank.
        ValueError: damaged files, no checkpoint of this package, or of another version; on every rank.
    """
    shards = Shards(folder, wire)
    text = shards.text
    if not isinstance(text, Mapping) or text.get("format") != FORMAT:
        raise ValueError(f"{folder} is no checkpoint of resemb_ext")
    if text.get("version") != VERSION:
        raise ValueError(f"{folder} has checkpoint version {text.get('version')}, this package reads {VERSION}")
    state: dict[str, Any] = _unpack(text["state"], {name: StoredShards(shards, name) for name in shards.entries})
    return state


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError, ValueError, RuntimeError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is no readable checkpoint: {reason}") from error


def _opened(path: Path) -> tuple[dict[str, str], list[str]]:
    """The file's metadata and the names of its tensors."""
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}")
    with _readable(path), safe_open(path, framework="pt", device="cpu") as file:
        metadata, names = file.metadata() or {}, list(file.keys())
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is no checkpoint of resemb_ext")
    if metadata.get("version") != str(VERSION):
        raise ValueError(f"{path} has checkpoint version {metadata.get('version')}, this package reads {VERSION}")
    return metadata, names


def _checked(path: Path, metadata: Mapping[str, str], tensors: Mapping[str, Any], check: bool) -> dict[str, Any]:
    content = metadata.get("state", "")
    with _readable(path):
        right = not check or metadata.get("sha256") == _digest(content, tensors)
    if not right:
        raise ValueError(f"{path} is damaged: its content does not match its digest")
    try:
        state = _unpack(json.loads(content), tensors)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is no readable checkpoint: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} is no readable checkpoint: it holds no dict")
    return state


def _pack(value: Any, place: str, tensors: dict[str, Any]) -> Any:
    """``value`` as JSON; its tensors go into ``tensors`` under their place."""
    if isinstance(value, Dealt):
        tensors[place] = value
        return {_TENSOR: place}
    if isinstance(value, Tensor):
        tensors[place] = _own(value.detach(), tensors)
        return {_TENSOR: place}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {k: _pack(v, _join(place, k), tensors) for k, v in value.items()}
        if not all(isinstance(key, (str, int)) for key in value):
            raise TypeError(f"checkpoint: {place or 'state'} has keys that are not text or integers")
        pairs = [[k, _pack(v, _join(place, k), tensors)] for k, v in value.items()]
        return {_ITEMS: pairs}
    if isinstance(value, (list, tuple)):
        packed = [_pack(v, _join(place, i), tensors) for i, v in enumerate(value)]
        return packed if isinstance(value, list) else {_TUPLE: packed}
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: repr(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(
        f"checkpoint: {place or 'state'} is a {type(value).__name__}; expected tensors, numbers, "
        "text, bool, None, and dicts, lists or tuples of them"
    )


def _join(place: str, key: Any) -> str:
    return f"{place}.{key}" if place else str(key)


def _own(value: Tensor, tensors: Mapping[str, Any]) -> Tensor:
    """A contiguous CPU tensor that shares no storage with those there already."""
    value = value.cpu().contiguous()
    shared = any(
        value.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
        for other in tensors.values()
        if isinstance(other, Tensor) and other.numel()
    )
    return value.clone() if value.numel() and shared else value


def _unpack(value: Any, tensors: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_unpack(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((kind, inner),) = value.items()
        if kind == _TENSOR:
            return tensors[inner]
        if kind == _TUPLE:
            return tuple(_unpack(v, tensors) for v in inner)
        if kind == _ITEMS:
            return {k: _unpack(v, tensors) for k, v in inner}
        if kind == _FLOAT:
            return float(inner)
    return {k: _unpack(v, tensors) for k, v in value.items()}


def _digest(content: str, tensors: Mapping[str, Tensor | Stored]) -> str:
    digest = hashlib.sha256(content.encode())
    for name in sorted(tensors):
        value = tensors[name]
        shape, head = list(value.shape), True
        for block in in_blocks(value) if isinstance(value, Tensor) else value.blocks():
            if head:
                digest.update(f":{name}:{block.dtype}:{shape}:".encode())
                head = False
            if block.numel():
                digest.update(block.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
