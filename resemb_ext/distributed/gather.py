"""Dealt tables in one safetensors file, whole in no rank's memory on the way."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from resemb_ext.runtime.files import write_atomic

from .rows import BLOCK_BYTES, Blocks, Dealt, in_blocks
from .whole import whole_state, wire_of
from .wire import Wire

# In the order in which the library writes tensors: wide types first.
_CODES = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DTYPES = {code: dtype for dtype, code in _CODES.items()}
_ORDER = {dtype: place for place, dtype in enumerate(_CODES)}

Values = Mapping[str, Tensor | Dealt]
Read = Callable[[str], Iterator[Tensor]]


def gather(model: nn.Module, path: Path | str, metadata: Mapping[str, str] | None = None) -> None:
    """Writes the state_dict that a model has in one process as one safetensors file; call it on every rank.

    Rank 0 writes. The others send it their rows, a block of 16 MiB at a time: no rank needs room for a whole table.
    ``safetensors.torch.load_file`` and ``load_state_dict`` of the model in one process, or of a sharded one, read it.

    Args:
        model: what ``rx.distributed.shard`` gave, or a model of one process.
        path: of the file, which is written whole or not at all.
        metadata: text by name, kept in the file.

    Raises:
        OSError: rank 0 cannot write; on every rank.
        RankError: a rank is gone.
    """
    state = whole_state(model)
    write_gathered(Path(path), state, {"format": "pt", **(metadata or {})}, wire_of(model))


def write_gathered(
    path: Path,
    values: Values,
    metadata: Mapping[str, str],
    wire: Wire | None,
    seal: Callable[[Path], object] | None = None,
) -> None:
    """Writes tensors of all ranks as one safetensors file.

    Args:
        path: as of ``gather``.
        values: the same names, shapes and types on every rank; others than ``Dealt`` are rank 0's.
        metadata: rank 0's.
        wire: between the ranks; None for one process.
        seal: called on rank 0 with the file before it takes its place.

    Raises:
        OSError, ValueError: of rank 0, on every rank.
        RuntimeError: ranks have other tensors.
    """
    values = {name: value if isinstance(value, Dealt) else value.detach() for name, value in values.items()}
    _compare(values, wire)

    def work(read: Read) -> None:
        def write(target: Path) -> None:
            _write(target, values, metadata, read)
            if seal is not None:
                seal(target)

        write_atomic(path, write)

    on_first(wire, values, work)


def on_first(wire: Wire | None, values: Values, work: Callable[[Read], None]) -> None:
    """Calls ``work`` on rank 0 with what reads tensors of all ranks block by block; the others send their rows.

    Raises:
        OSError, ValueError: of ``work``, on every rank.
    """
    blocks = Blocks(wire, {name: value for name, value in values.items() if isinstance(value, Dealt)})

    def read(name: str) -> Iterator[Tensor]:
        value = values[name]
        return blocks.read(name) if isinstance(value, Dealt) else in_blocks(value)

    error: OSError | ValueError | None = None
    if wire is None or wire.rank == 0:
        try:
            work(read)
        except (OSError, ValueError) as caught:
            error = caught
    blocks.serve()
    if wire is None:
        if error is not None:
            raise error
        return
    told = wire.gather_objects(None if error is None else (isinstance(error, OSError), str(error)))
    if error is not None:
        raise error
    if told[0] is not None:
        raise (OSError if told[0][0] else ValueError)(f"rank 0: {told[0][1]}")


def _compare(values: Values, wire: Wire | None) -> None:
    if wire is None or wire.ranks == 1:
        return
    own = [(name, list(value.shape), str(value.dtype)) for name, value in values.items()]
    for rank, other in enumerate(wire.gather_objects(own)):
        odd = [entry for entry in (*own, *other) if entry not in own or entry not in other]
        if odd:
            raise RuntimeError(
                f"rank {rank}: has not the tensors of rank {wire.rank}: {odd[0][0]} is another one or is missing"
            )


def header_of(values: Values, metadata: Mapping[str, str]) -> tuple[bytes, list[str]]:
    """What a safetensors file begins with, and the order of its tensors: those of the library."""
    order = sorted(values, key=lambda name: (_ORDER[values[name].dtype], name))
    entries: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    at = 0
    for name in order:
        value = values[name]
        past = at + math.prod(value.shape) * value.dtype.itemsize
        entries[name] = {"dtype": _CODES[value.dtype], "shape": list(value.shape), "data_offsets": [at, past]}
        at = past
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, order


def _write(target: Path, values: Values, metadata: Mapping[str, str], read: Read) -> None:
    header, order = header_of(values, metadata)
    with open(target, "wb") as file:
        file.write(header)
        for name in order:
            for block in read(name):
                file.write(block.reshape(-1).view(torch.uint8).numpy().data if block.numel() else b"")


def stored_blocks(path: Path, name: str) -> Iterator[tuple[int, Tensor]]:
    """A tensor of a safetensors file, block by block: the first row of each, and its rows."""
    with safe_open(path, framework="pt", device="cpu") as file:
        part = file.get_slice(name)
        shape = part.get_shape()
        if not shape or 0 in shape:
            yield 0, file.get_tensor(name)
            return
        row = file.get_tensor(name)[:1].nbytes if shape[0] == 1 else part[:1].nbytes
        height = max(1, BLOCK_BYTES // max(1, row))
        for start in range(0, shape[0], height):
            yield start, part[start : start + height]
