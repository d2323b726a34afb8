"""Tensors of all ranks in a folder of torch.distributed.checkpoint, under names and shapes that know no ranks.

Rows are dealt to ranks in turn, and a chunk of a checkpoint is a range of rows. So blocks of rows are put together on
the way to the disk, and dealt on the way back, each rank writing and reading its share of the blocks. A checkpoint says
nothing of ranks then, and other programs read it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    LoadPlan,
    ReadItem,
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.futures import Future

from resemb_ext.runtime.digests import SUMS, read_digests, sha256_of, write_digests

from .rows import Blocks, Dealt
from .wire import Wire

METADATA = ".metadata"
_TEXT = "about"  # the tensor of a checkpoint's text

Values = Mapping[str, Tensor | Dealt]


def write_shards(folder: Path, values: Values, text: Any, wire: Wire | None) -> None:
    """Writes a checkpoint; every rank of the wire calls this.

    Args:
        folder: new or empty, on a disk that all ranks see. It is complete once it holds ``SHA256SUMS``.
        values: the same names, shapes and types on every rank; others than ``Dealt`` are rank 0's.
        text: JSON-able, rank 0's.
        wire: between the ranks; None for one process.

    Raises:
        OSError: a rank cannot write; it is named, on every rank.
        RankError: a rank is gone.
    """
    content = torch.frombuffer(bytearray(json.dumps(text, allow_nan=False).encode()), dtype=torch.uint8)
    planner = _SavePlanner({**values, _TEXT: content}, wire)
    writer = _Writer(folder)
    with _said("write", folder, wire):
        dcp.save(
            {},
            storage_writer=writer,
            planner=planner,
            process_group=None if wire is None else wire.group,
            no_dist=wire is None,
        )
    rank, ranks = (0, 1) if wire is None else (wire.rank, wire.ranks)
    own = {path.name: sha256_of(path) for path in folder.glob(f"__{rank}_*")}
    if rank == 0:
        own[METADATA] = sha256_of(folder / METADATA)
    digests = [own] if ranks == 1 or wire is None else wire.gather_objects(own)
    error = None
    if rank == 0:
        try:
            write_digests(folder, {name: digest for part in digests for name, digest in part.items()})
        except OSError as caught:
            error = caught
    told = [None] if wire is None else wire.gather_objects(None if error is None else str(error))
    if error is not None:
        raise error
    if told[0] is not None:
        raise OSError(f"rank 0: {told[0]}")


class Shards:
    """A checkpoint in a folder, to read tensors from; every rank of the wire makes it, and calls its methods in step.

    Raises:
        FileNotFoundError: a file is missing; it is named.
        ValueError: no checkpoint, or a file with other bytes than were written.
    """

    def __init__(self, folder: Path, wire: Wire | None) -> None:
        self.folder, self.wire = folder, wire
        self._together(self._check)

    def _check(self) -> None:
        if not (self.folder / METADATA).is_file():
            raise ValueError(f"{self.folder} is no checkpoint of torch.distributed.checkpoint: it has no {METADATA}")
        digests = read_digests(self.folder)
        for name in digests:
            if not (self.folder / name).is_file():
                raise FileNotFoundError(
                    f"{self.folder} lacks the file {name} of its checkpoint; put it back from a copy"
                )
        rank, ranks = (0, 1) if self.wire is None else (self.wire.rank, self.wire.ranks)
        for name in sorted(digests)[rank::ranks]:
            if sha256_of(self.folder / name) != digests[name]:
                raise ValueError(f"{self.folder / name} is damaged: its sha256 is not that in {SUMS}")

    def _together(self, work: Callable[[], None]) -> None:
        """``work`` on every rank; what one raises is raised on all."""
        if self.wire is None:
            work()
            return
        error: OSError | ValueError | None = None
        try:
            work()
        except (OSError, ValueError) as caught:
            error = caught
        told = self.wire.gather_objects(None if error is None else (isinstance(error, OSError), str(error)))
        if error is not None:
            raise error
        for rank, other in enumerate(told):
            if other is not None:
                raise (OSError if other[0] else ValueError)(f"rank {rank}: {other[1]}")

    @cached_property
    def metadata(self) -> Metadata:
        """Of torch.distributed.checkpoint."""
        return dcp.FileSystemReader(self.folder).read_metadata()

    @cached_property
    def text(self) -> Any:
        """What was given as ``text``."""
        content = torch.empty(self.entries_of_all[_TEXT][0], dtype=torch.uint8)
        self.load({_TEXT: content})
        return json.loads(bytes(content.numpy()))

    @cached_property
    def entries_of_all(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        found = self.metadata.state_dict_metadata
        return {n: (e.size, e.properties.dtype) for n, e in found.items() if isinstance(e, TensorStorageMetadata)}

    @property
    def entries(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """Shapes and types of the tensors, by name."""
        return {name: entry for name, entry in self.entries_of_all.items() if name != _TEXT}

    def load(self, targets: Values) -> None:
        """Reads tensors into others of the same shapes and types.

        Args:
            targets: the same on every rank; the own rows of ``Dealt`` are written.

        Raises:
            ValueError: the checkpoint lacks a tensor, or has one of another shape or type.
            OSError: a rank cannot read; it is named.
        """
        for name, target in targets.items():
            found, wanted = self.entries_of_all.get(name), (target.shape, target.dtype)
            if found != wanted:
                has = "none" if found is None else f"{list(found[0])} of {found[1]}"
                raise ValueError(f"{self.folder}: {name}: found {has}; expected {list(wanted[0])} of {wanted[1]}")
        planner = _LoadPlanner(targets, self.metadata, self.wire)
        with _said("read", self.folder, self.wire):
            dcp.load(
                {},
                storage_reader=_Reader(self.folder),
                planner=planner,
                process_group=None if self.wire is None else self.wire.group,
                no_dist=self.wire is None,
            )


@contextmanager
def _said(what: str, folder: Path, wire: Wire | None) -> Iterator[None]:
    """Turns what torch raises of all ranks into one line, and a rank that is gone into a ``RankError``."""
    try:
        if wire is None:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "torch.distributed is disabled")
                yield
        else:
            with wire.faults.named(f"a checkpoint ({what})"):
                yield
    except CheckpointException as error:
        rank = min(error.failures)
        cause = error.failures[rank][0]
        text = str(cause).strip().splitlines()
        where = "" if wire is None else f"rank {rank}: "
        line = f"{where}cannot {what} the checkpoint {folder}: {text[0] if text else type(cause).__name__}"
        raise OSError(line) from None


class _SavePlanner(DefaultSavePlanner):
    """Ranks take blocks in turn; rank 0 takes what is not dealt."""

    def __init__(self, values: Values, wire: Wire | None) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._values = values
        self._wire = wire
        self.blocks = Blocks(wire, {name: v for name, v in values.items() if isinstance(v, Dealt)})
        self._numbers: dict[MetadataIndex, int] = {}

    def create_local_plan(self) -> SavePlan:
        rank, ranks = (0, 1) if self._wire is None else (self._wire.rank, self._wire.ranks)
        items = []
        if rank == 0:
            for name, value in self._values.items():
                if isinstance(value, Tensor):
                    zeros = torch.Size([0] * value.dim())
                    items.append(_item(name, value, zeros, value.shape, WriteItemType.TENSOR))
        for number, block in enumerate(self.blocks.blocks):
            if number % ranks == rank:
                value = self._values[block.name]
                offsets = torch.Size((block.start, *(0 for _ in value.shape[1:])))
                sizes = torch.Size((block.past - block.start, *value.shape[1:]))
                item = _item(block.name, value, offsets, sizes, WriteItemType.SHARD)
                self._numbers[item.index] = number
                items.append(item)
        self.plan = SavePlan(items)
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        number = self._numbers.get(write_item.index)
        if number is None:
            value = self._values[write_item.index.fqn]
            assert isinstance(value, Tensor)
            return value.detach()
        found = self.blocks.fetch(number)
        assert found is not None
        return found


def _item(name: str, value: Tensor | Dealt, offsets: torch.Size, sizes: torch.Size, kind: WriteItemType) -> WriteItem:
    data = TensorWriteData(
        chunk=ChunkStorageMetadata(offsets=offsets, sizes=sizes),
        properties=TensorProperties(dtype=value.dtype),
        size=value.shape,
    )
    return WriteItem(index=MetadataIndex(name, offsets), type=kind, tensor_data=data)


class _Writer(dcp.FileSystemWriter):
    """Serves the other ranks until all have written, also where this one cannot."""

    def write_data(self, plan: SavePlan, planner: Any) -> Future[Any]:
        try:
            return super().write_data(plan, planner)
        finally:
            planner.blocks.serve()


class _LoadPlanner(DefaultLoadPlanner):
    """Ranks take chunks of dealt tensors in turn; of others each reads all."""

    def __init__(self, targets: Values, metadata: Metadata, wire: Wire | None) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._targets, self._wire = targets, wire
        self._chunks = {name: _chunks(metadata, name) for name in targets}
        dealt = {name: v for name, v in targets.items() if isinstance(v, Dealt)}
        bounds = {n: [(c.offsets[0], c.offsets[0] + c.sizes[0]) for c in self._chunks[n]] for n in dealt}
        for name, pairs in bounds.items():
            ends = [0, *(past for _, past in pairs)]
            if [start for start, _ in pairs] != ends[:-1] or ends[-1] != targets[name].shape[0]:
                raise ValueError(f"{name}: the checkpoint's chunks are not ranges of rows, one after another")
        self.blocks = Blocks(wire, dealt, bounds)
        self._numbers = {(block.name, block.start): n for n, block in enumerate(self.blocks.blocks)}

    def create_local_plan(self) -> LoadPlan:
        rank, ranks = (0, 1) if self._wire is None else (self._wire.rank, self._wire.ranks)
        items = []
        for name, chunks in self._chunks.items():
            dealt = isinstance(self._targets[name], Dealt)
            for chunk in chunks:
                if dealt and self._numbers[name, chunk.offsets[0]] % ranks != rank:
                    continue
                zeros = torch.Size([0] * len(chunk.sizes))
                index = MetadataIndex(name, chunk.offsets)
                items.append(ReadItem(LoadItemType.TENSOR, index, zeros, index, zeros, chunk.sizes))
        return LoadPlan(items)

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        name = read_item.dest_index.fqn
        target = self._targets[name]
        if isinstance(target, Dealt):
            return torch.empty(read_item.lengths, dtype=target.dtype)
        chunk = target.detach()
        for dim, (start, length) in enumerate(zip(_offsets(read_item), read_item.lengths, strict=True)):
            chunk = chunk.narrow(dim, start, length)
        return chunk

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        name = read_item.dest_index.fqn
        if isinstance(self._targets[name], Dealt):
            self.blocks.give(self._numbers[name, _offsets(read_item)[0]], tensor)


def _offsets(item: ReadItem) -> torch.Size:
    assert item.dest_index.offset is not None
    return item.dest_index.offset


def _chunks(metadata: Metadata, name: str) -> list[ChunkStorageMetadata]:
    entry = metadata.state_dict_metadata[name]
    assert isinstance(entry, TensorStorageMetadata)
    return sorted(entry.chunks, key=lambda chunk: tuple(chunk.offsets))


class _Reader(dcp.FileSystemReader):
    """Takes rows from the other ranks until all have read, also where this one cannot."""

    def read_data(self, plan: LoadPlan, planner: Any) -> Future[None]:
        try:
            return super().read_data(plan, planner)
        finally:
            planner.blocks.take()
