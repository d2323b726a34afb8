"""What keeps an embedding's table while ``folded_tables`` holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from resemb_ext._transforms import transformed


class _Foldable(Protocol):
    training: bool

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...

    def _before_read(self, ids: Tensor | None) -> None: ...

    def _compute(self) -> Tensor: ...

    def _rows(self, rows: Tensor) -> Tensor: ...


_ROWS = 1 << 16  # that are computed at a time


class Fold:
    """The table of one module, computed when it is first asked for, and anew after its parameters were written."""

    def __init__(self) -> None:
        self._table: Tensor | None = None
        self._made_of: list[tuple[Any, ...]] = []
        self._parameters: list[nn.Parameter] = []  # kept, so that no other takes the id of one

    def forget(self) -> None:
        """Lets the table be computed anew when it is next asked for."""
        self._table, self._made_of, self._parameters = None, [], []

    def table(self, module: _Foldable) -> Tensor | None:
        """None where lookups have to compute: they learn, drop edges, or are traced."""
        if module.training or torch.compiler.is_compiling():
            return None
        parameters = [*module.parameters()]
        if (torch.is_grad_enabled() and any(p.requires_grad for p in parameters)) or transformed(*parameters):
            return None
        if self.held(module) is None:
            self.forget()  # not two at once
            module._before_read(None)  # of all rows, not those of a batch
            self._keep(module._compute(), parameters)
        return self._table

    def held(self, module: _Foldable) -> Tensor | None:
        """The table where it was computed and nothing has been written since."""
        return None if self._table is None or _state_of([*module.parameters()]) != self._made_of else self._table

    def renew(self, module: _Foldable, table: Tensor, rows: Tensor) -> None:
        """Keeps a table of the module as it is now, once these rows of it are computed anew.

        Args:
            table: [H, D], all other rows of which hold.
            rows: int64, on the CPU.
        """
        with torch.inference_mode(table.is_inference()):
            for part in rows.split(_ROWS):
                place = part.to(table.device)
                table[place] = module._rows(place)
        self._keep(table, [*module.parameters()])

    def _keep(self, table: Tensor, parameters: list[nn.Parameter]) -> None:
        self._table, self._made_of, self._parameters = table, _state_of(parameters), parameters


def _state_of(parameters: list[nn.Parameter]) -> list[tuple[Any, ...]]:
    # module.half() puts other memory into a parameter, and counts no write.
    return [(id(p), p._version, p.dtype, p.untyped_storage()._cdata) for p in parameters]
