"""The numbers of a computed table in memory: what is written into them goes to the module that computes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .tracing import without_numbers

_BLOCK_ROWS = 1 << 16


class TableModule(Protocol):
    """What the tensor classes of ``weight`` need of a module."""

    num_embeddings: int
    padding_idx: int | None

    @property
    def _zero_row(self) -> int | None:
        """The row whose vector is zero, whatever is written."""

    def materialize(self) -> Tensor:
        """The whole table E."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """What learns."""

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """For all of its parameters."""

    def _look_up(self, ids: Tensor, sparse: bool | None = None) -> Tensor:
        """Rows of E, with gradients."""

    def _pool(self, ids: Tensor, *options: Any) -> Tensor:
        """Pooled rows of E, with gradients."""

    def _read_rows(self, start: int, stop: int) -> Tensor:
        """Some rows of E, without gradients."""

    def _write_rows(self, rows: Tensor, vectors: Tensor) -> None:
        """Lets E be these vectors at some rows."""

    def _set_table(self, value: Any) -> None:
        """The same of ``weight.data = value``, checked."""

    def _write_table(self, table: Tensor, warn: bool) -> None:
        """Lets E be a table, but for the padding row; warns where that is lost."""


class Numbers:
    """A table of a module in memory.

    Before something is written, the rows concerned are computed anew; after it, those whose numbers have changed go
    to the module. So a view that was taken long ago overwrites only what it writes.

    Attributes:
        module: computes the table, and takes what is written.
        memory: [H, D], contiguous.
    """

    def __init__(self, module: TableModule, memory: Tensor) -> None:
        self.module = module
        self.memory = memory

    def shares(self, tensor: Any) -> bool:
        """Whether a tensor lies in this memory."""
        if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
            return False
        return tensor.untyped_storage()._cdata == self.memory.untyped_storage()._cdata

    def is_whole(self, view: Tensor) -> bool:
        """Whether a view holds every number of the table."""
        spread = all(stride or size == 1 for size, stride in zip(view.shape, view.stride(), strict=True))
        return spread and view.numel() == self.memory.numel()

    @contextmanager
    def written(self, view: Tensor, place: Tensor, sets_all: str | None) -> Iterator[None]:
        """Around an operation that writes into a view.

        Args:
            place: the part of the view that it may write.
            sets_all: "draw" or "copy", see ``writes.sets_all``.

        Raises:
            TypeError: the view has left this memory, so that what is written would be lost.
            ValueError: the padding row would not be zero.
        """
        rows = self._rows(place)
        whole = sets_all is not None and self.is_whole(place)
        if not whole:
            self._refresh(rows)
        try:
            yield
            if not self.shares(view):
                raise TypeError(f"{self._name()} has no memory of its own to replace; write to weight.data")
            self._store(rows, whole, warn=sets_all != "draw")
        finally:
            self._refresh(rows)

    def check_unwritten(self, view: Tensor, version: int, name: str) -> None:
        """
        Raises:
            TypeError: the memory, or the view's place in it, has been changed since that version.
        """
        if self.memory._version != version or not self.shares(view):
            self._refresh(range(self.module.num_embeddings))
            raise TypeError(
                f"{self._name()} is computed from .central and .residual and cannot be written by {name}; use methods "
                "of weight.data, such as copy_"
            )

    def _name(self) -> str:
        return f"{type(self.module).__name__}.weight"

    def _rows(self, view: Tensor) -> range:
        """The rows from the first to the last that a view lies in."""
        if view.numel() == 0:
            return range(0)
        row = self.memory.shape[1] * self.memory.element_size()
        first = view.storage_offset() * view.element_size()
        steps = sum((size - 1) * stride for size, stride in zip(view.shape, view.stride(), strict=True))
        return range(first // row, (first + (steps + 1) * view.element_size() - 1) // row + 1)

    @torch.no_grad()
    def _refresh(self, rows: range) -> None:
        for start, stop in _blocks(rows):
            self.memory[start:stop] = self.module._read_rows(start, stop)

    @torch.no_grad()
    def _store(self, rows: range, whole: bool, warn: bool) -> None:
        if without_numbers(self.memory):
            return
        if not whole:
            changed = self._changed(rows)
            padding = self.module._zero_row
            everything = self.module.num_embeddings - (padding is not None)
            whole = changed.numel() - (padding is not None and bool((changed == padding).any())) == everything
        if whole:
            self.module._write_table(self.memory, warn)
        elif changed.numel():
            if padding is not None and bool((changed == padding).any()):
                raise ValueError(
                    f"{self._name()}: row {padding} is padding, which is always a zero vector, and would not be zero; "
                    "leave it zero, or build the module with keep_padding=True, where it is kept, as torch does"
                )
            self.module._write_rows(changed, self.memory[changed])

    def _changed(self, rows: range) -> Tensor:
        """Those of the rows that differ from the module's: int64, ascending."""
        changed = [torch.zeros(0, dtype=torch.int64, device=self.memory.device)]
        for start, stop in _blocks(rows):
            old, new = self.module._read_rows(start, stop).to(self.memory.device), self.memory[start:stop]
            differs = (old != new) & ~(old.isnan() & new.isnan())
            changed.append(differs.any(1).nonzero().squeeze(1) + start)
        return torch.cat(changed)


def _blocks(rows: range) -> Iterator[tuple[int, int]]:
    for start in range(rows.start, rows.stop, _BLOCK_ROWS):
        yield start, min(start + _BLOCK_ROWS, rows.stop)
