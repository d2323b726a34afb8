"""Blocks of consecutive rows put together from the ranks that hold them, and dealt to them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .deal import Deal
from .wire import Wire

BLOCK_BYTES = 16 << 20
_DONE = -1


@dataclass(frozen=True)
class Dealt:
    """A tensor by row, of which this rank holds some.

    Attributes:
        part: [rows of this rank, ...].
        deal: which rows those are.
    """

    part: Tensor
    deal: Deal

    @property
    def shape(self) -> torch.Size:
        """Of the whole tensor."""
        return torch.Size((self.deal.items, *self.part.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        return self.part.dtype

    @property
    def row_bytes(self) -> int:
        return self.part[:1].numel() * self.dtype.itemsize if len(self.part) else _bytes_of(self.shape[1:], self.dtype)

    def bounds(self) -> list[tuple[int, int]]:
        """First and past-the-last row of each block; the same for any number of ranks."""
        height = max(1, BLOCK_BYTES // max(1, self.row_bytes))
        return [(start, min(start + height, self.deal.items)) for start in range(0, self.deal.items, height)]

    def within(self, start: int, past: int, rank: int | None = None) -> slice:
        """Where a rank, by default this one, holds its rows among [start, past)."""
        rank = self.deal.rank if rank is None else rank
        first, end = (max(0, -(-(row - rank) // self.deal.ranks)) for row in (start, past))
        return slice(first, end)


def _bytes_of(shape: torch.Size, dtype: torch.dtype) -> int:
    return shape.numel() * dtype.itemsize


@dataclass(frozen=True)
class Block:
    """Rows [start, past) of a tensor."""

    name: str
    start: int
    past: int


class Blocks:
    """Dealt tensors, read and written block by block.

    Every rank takes its turns until all are done: in each, it asks for a block or gives one, or only serves the others.

    Args:
        wire: between the ranks; None for a process that holds all rows.
        tensors: by name, the same on all ranks.
        bounds: of the blocks of each, as of ``Dealt.bounds``, which gives those that are not named.

    Attributes:
        blocks: all of them; turns name one by its number.
        numbers: those of each tensor's blocks, by its name.
    """

    def __init__(
        self, wire: Wire | None, tensors: Mapping[str, Dealt], bounds: Mapping[str, list[tuple[int, int]]] | None = None
    ) -> None:
        self._wire, self._tensors = wire, dict(tensors)
        self.blocks: list[Block] = []
        self.numbers: dict[str, range] = {}
        self._all_done = False
        for name, tensor in tensors.items():
            first = len(self.blocks)
            self.blocks += [Block(name, *pair) for pair in (bounds or {}).get(name) or tensor.bounds()]
            self.numbers[name] = range(first, len(self.blocks))

    def read(self, name: str) -> Iterator[Tensor]:
        """The rows of a tensor, on the CPU, block by block: a turn each."""
        for number in self.numbers[name]:
            found = self.fetch(number)
            assert found is not None
            yield found

    def fetch(self, number: int) -> Tensor | None:
        """A block put together on this rank, on the CPU; a turn. None for the number -1."""
        asked = self._agree(number)
        if asked is None:
            if number == _DONE:
                return None
            block = self.blocks[number]
            return self._tensors[block.name].part.detach()[block.start : block.past].cpu()
        parts = [self._own_rows(asking) for asking in asked]
        sizes = [0 if number == _DONE else self._size(number, rank) for rank in range(len(asked))]
        assert self._wire is not None
        found = self._wire.to_all("checkpoints", torch.cat(parts), [len(part) for part in parts], sizes)
        return None if number == _DONE else self._together(number, found.split(sizes))

    def give(self, number: int, values: Tensor | None = None) -> None:
        """Deals a block to the ranks that hold its rows; a turn.

        Args:
            number: of the block, or -1 for none.
            values: its rows, of the tensor's dtype.
        """
        ranks = 1 if self._wire is None else self._wire.ranks
        # Before the others rely on it.
        parts = [self._rows_for(rank, number, values) for rank in range(ranks)] if ranks > 1 else []
        given = self._agree(number)
        if given is None:
            if number != _DONE:
                assert values is not None
                block = self.blocks[number]
                self._put(block, values)
            return
        assert self._wire is not None
        sizes = [0 if n == _DONE else self._size(n, self._wire.rank) for n in given]
        found = self._wire.to_all("checkpoints", torch.cat(parts), [len(part) for part in parts], sizes)
        for block_number, rows in zip(given, found.split(sizes), strict=True):
            if block_number != _DONE and len(rows):
                block = self.blocks[block_number]
                tensor = self._tensors[block.name]
                self._put(block, _typed(rows, tensor))

    def serve(self) -> None:
        """Takes part in the turns of ``fetch`` of the others until they are done."""
        self._until_done(reading=True)

    def take(self) -> None:
        """Takes part in the turns of ``give`` of the others until they are done."""
        self._until_done(reading=False)

    def _until_done(self, reading: bool) -> None:
        self._all_done = self._wire is None or self._wire.ranks == 1  # there is nobody to serve
        while not self._all_done:
            if reading:
                self.fetch(_DONE)
            else:
                self.give(_DONE)

    def _agree(self, number: int) -> list[int] | None:
        """What each rank asks or gives in this turn; None where there is one rank."""
        wire = self._wire
        if wire is None or wire.ranks == 1:
            return None
        own = torch.full((wire.ranks, 1), number, dtype=torch.int64, device=wire.device)
        ones = [1] * wire.ranks
        found: list[int] = wire.to_all("counts", own, ones, ones)[:, 0].tolist()
        self._all_done = all(n == _DONE for n in found)
        return found

    def _size(self, number: int, rank: int) -> int:
        """Bytes of a block's rows that a rank holds."""
        block = self.blocks[number]
        tensor = self._tensors[block.name]
        held = tensor.within(block.start, block.past, rank)
        return (held.stop - held.start) * tensor.row_bytes

    def _own_rows(self, number: int) -> Tensor:
        """uint8: this rank's rows of a block that another asks for."""
        assert self._wire is not None
        if number == _DONE:
            return torch.empty(0, dtype=torch.uint8, device=self._wire.device)
        block = self.blocks[number]
        tensor = self._tensors[block.name]
        return _as_bytes(tensor.part.detach()[tensor.within(block.start, block.past)], self._wire.device)

    def _rows_for(self, rank: int, number: int, values: Tensor | None) -> Tensor:
        """uint8: the rows of a block that a rank holds."""
        assert self._wire is not None
        if number == _DONE:
            return torch.empty(0, dtype=torch.uint8, device=self._wire.device)
        assert values is not None
        ranks = self._wire.ranks
        return _as_bytes(values[(rank - self.blocks[number].start) % ranks :: ranks], self._wire.device)

    def _together(self, number: int, parts: tuple[Tensor, ...]) -> Tensor:
        block = self.blocks[number]
        tensor, ranks = self._tensors[block.name], len(parts)
        whole = torch.empty((block.past - block.start, *tensor.shape[1:]), dtype=tensor.dtype)
        for rank, part in enumerate(parts):
            rows = _typed(part, tensor)
            whole[(rank - block.start) % ranks :: ranks] = rows.cpu()
        return whole

    @torch.no_grad()
    def _put(self, block: Block, rows: Tensor) -> None:
        tensor = self._tensors[block.name]
        tensor.part[tensor.within(block.start, block.past)] = rows.to(tensor.part.device)


def _as_bytes(rows: Tensor, device: torch.device) -> Tensor:
    # A single row of a strided view counts as contiguous and keeps its stride, which views as bytes do not take.
    return torch.empty(rows.numel(), dtype=rows.dtype, device=device).copy_(rows.reshape(-1)).view(torch.uint8)


def _typed(data: Tensor, like: Dealt) -> Tensor:
    """Rows of a tensor from their bytes."""
    # A copy: bytes of another rank's rows may begin anywhere, and views of wider types may not.
    return data.clone().view(like.dtype).reshape(-1, *like.shape[1:])


def in_blocks(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor in parts along its first dimension, each on the CPU and contiguous."""
    if tensor.dim() == 0 or tensor.numel() == 0:
        yield tensor.detach().cpu().contiguous()
        return
    height = max(1, BLOCK_BYTES // max(1, tensor[:1].nbytes))
    for start in itertools.count(0, height):
        if start >= len(tensor):
            return
        yield tensor.detach()[start : start + height].cpu().contiguous()
