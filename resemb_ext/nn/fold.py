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
        # module.half() puts other memory into a parameter, and counts no write.
        made_of = [(id(p), p._version, p.dtype, p.untyped_storage()._cdata) for p in parameters]
        if self._table is None or made_of != self._made_of:
            self.forget()  # not two at once
            module._before_read(None)  # of all rows, not those of a batch
            self._table, self._made_of, self._parameters = module._compute(), made_of, parameters
        return self._table
