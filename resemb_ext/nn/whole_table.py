"""The whole table E = W C + R of an embedding over a graph: read, and written."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from resemb_ext._bags import nest
from resemb_ext._ownership import ReadHooks
from resemb_ext._registration import accumulator
from resemb_ext._transforms import transformed

from .fold import Fold
from .tracing import Traceable, fake, traced, without_numbers
from .weight import WeightTable, is_table_of

_BLOCK_ROWS = 1 << 16
# Files of functions that stand between a user's line and a warning.
_BETWEEN = (
    *(str(Path(module.__file__ or "").parent) for module in (sys.modules["resemb_ext"], torch)),
    contextlib.__file__,
)


class WholeTable(ReadHooks, Traceable):
    """The part of an embedding over a graph that gives out its table, and takes another."""

    padding_idx: int | None
    keep_padding = False
    # Whether a plain module gives out its padding row.
    _shows_padding: ClassVar[bool]
    # While ``folded_tables`` holds.
    _fold: Fold | None = None

    def _link_call(
        self, training: bool | None = None, tables: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Callable, tuple, dict[str, Any]]:
        """The functional lookup, its tensors behind ids, and its options."""
        raise NotImplementedError

    def _look_up(self, ids: Tensor, sparse: bool | None = None) -> Tensor:
        """The lookup that ``forward`` of a ResEmbedding makes; ``sparse`` in place of the module's."""
        raise NotImplementedError

    def _pool(self, ids: Tensor, *options: Any) -> Tensor:
        """``bag``; a last option ``sparse`` stands in place of the module's."""
        raise NotImplementedError

    def materialize(self) -> Tensor:
        """The whole table E = W C + R, [H, D] in the tables' dtype; without dropout of edges.

        Differentiable where gradients are on, with dense gradients; else computed in blocks of rows.
        """
        if isinstance(self.central, fx.Proxy):
            return self._node(self.central.tracer, "materialize")
        self._before_read(None)
        folded = None if self._fold is None else self._fold.table(self)
        return self._compute() if folded is None else folded.clone()

    def _compute(self) -> Tensor:
        if torch.is_grad_enabled() and any(t.requires_grad for t in self.parameters()):
            # In one piece: the backward of each block would fill two whole tables of gradients.
            return self._rows(range(self.num_embeddings))
        out = torch.empty_like(self.central, requires_grad=False)
        for rows in self._blocks():
            out[rows.start : rows.stop] = self._rows(rows)
        return out

    def _blocks(self) -> list[range]:
        return [
            range(start, min(start + _BLOCK_ROWS, self.num_embeddings))
            for start in range(0, self.num_embeddings, _BLOCK_ROWS)
        ]

    def _rows(
        self, rows: range | Tensor, tables: tuple[Tensor, Tensor] | None = None, out_dtype: torch.dtype | None = None
    ) -> Tensor:
        """W C + R at some rows.

        Args:
            tables: in place of C and R.
        """
        look_up, tensors, options = self._link_call(training=False, tables=tables)
        ids = rows
        if isinstance(ids, range):
            ids = torch.arange(ids.start, ids.stop, device=tensors[0].device)
        found = look_up(ids, *tensors, **options, padding_idx=self.padding_idx, out_dtype=out_dtype)
        return self._with_padding(found, ids, tensors[1])

    @property
    def _zero_row(self) -> int | None:
        """The padding row, where its vector is zero whatever is written."""
        return None if self.keep_padding else self.padding_idx

    def _with_padding(self, vectors: Tensor, ids: Any, residual: Tensor) -> Tensor:
        """Vectors of ids, with that of padding, if it is kept: R holds it, and it takes no gradient."""
        if not self.keep_padding or self.padding_idx is None:
            return vectors
        if ids.is_nested:
            flat = self._with_padding(vectors.values(), ids.values(), residual)
            return nest(flat.reshape(-1, flat.shape[-1]), ids)
        kept = residual[self.padding_idx].detach().to(vectors.dtype)
        return torch.where((ids == self.padding_idx).unsqueeze(-1), kept, vectors)

    @property
    def weight(self) -> Tensor:
        """The whole table, [H, D], as ``materialize`` gives it.

        Computed when its numbers are first used, on every access anew; its shape, dtype, device and
        requires_grad need no computing. Give ``materialize()`` to a compiled function that takes a table.

        Numbers that are written in place, into ``weight.data`` or under ``torch.no_grad()``, become the vectors: a
        whole table T gives C = T and R = T - W T, single rows change R alone. So do functions of ``torch.nn.init``,
        and ``weight.data = T``. ``weight.requires_grad = False`` freezes all parameters.

        Raises:
            RuntimeError: where autograd would record a write.
            TypeError: written by other ways than those; NumPy arrays of it are read-only.
            ValueError: a write to single rows would leave a padding row that is not zero, without ``keep_padding``.
        Warns:
            UserWarning: a whole table was copied whose padding row is not zero; padding stays zero. Not with
                ``keep_padding``.
        """
        parameters = [*self.parameters()]
        if traced(self.central) or transformed(*parameters) or fake(self.central):
            # A traced or transformed program has no use for the guard, and torch cannot carry it there.
            return self.materialize()
        learns = [p for p in parameters if p.requires_grad] if torch.is_grad_enabled() else []
        return WeightTable.deferred(self, self.central, learns)

    @weight.setter
    def weight(self, value: Any) -> None:
        if is_table_of(value, self):  # emb.weight += 1
            return
        name = type(self).__name__
        raise AttributeError(
            f"{name}.weight is computed from .central and .residual, and no parameter can take its place; "
            "weight.data.copy_(table) lets the vectors be those of a table"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":  # nn.Module would register a parameter
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    # What is written into ``weight``.

    @torch.no_grad()
    def _tables_of(self, table: Tensor, name: str | None) -> tuple[Tensor, Tensor]:
        """C = T and R = T - W T of a plain table T [H, D], in this module's dtype, where it lies.

        Args:
            name: of the table, for the warning that its padding row is not zero; None for no warning.
        """
        central = table.detach().to(self.central, copy=True)
        padding = self.padding_idx
        if padding is not None:
            kept = central[padding].clone()
            if (
                name
                and self._shows_padding
                and not self.keep_padding
                and not without_numbers(central)
                and bool(kept.any())
            ):
                warnings.warn(
                    f"{name}: row {padding}, its padding, is not zero; padding of {type(self).__name__} is always a "
                    "zero vector. keep_padding=True keeps it, as torch does; padding_idx=None makes it an item",
                    stacklevel=_stacklevel(),
                )
            central[padding] = 0
        residual, precise = torch.zeros_like(central), accumulator(central.dtype)
        for rows in self._blocks():
            # Of T itself: R makes up for what C lost to a shorter dtype.
            vectors = table.detach()[rows.start : rows.stop].to(central.device, precise)
            residual[rows.start : rows.stop].copy_(self._lacking(vectors, rows, (central, residual)))
        if padding is not None:
            residual[padding] = kept if self.keep_padding else 0
        return central, residual

    def _lacking(self, vectors: Tensor, rows: range | Tensor, tables: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Vectors minus E at some rows, in the precision of sums."""
        precise = accumulator(self.central.dtype)
        return vectors.to(precise) - self._rows(rows, tables, out_dtype=precise)

    @torch.no_grad()
    def _read_rows(self, start: int, stop: int) -> Tensor:
        self._before_read(None)
        return self._rows(range(start, stop))

    @torch.no_grad()
    def _write_rows(self, rows: Tensor, vectors: Tensor) -> None:
        self._check_writable()
        rows = rows.to(self.residual.device)
        self.residual.index_fill_(0, rows, 0)
        self.residual.index_copy_(0, rows, self._lacking(vectors.to(self.residual), rows).to(self.residual.dtype))

    @torch.no_grad()
    def _write_table(self, table: Tensor, warn: bool) -> None:
        self._check_writable()
        self._before_read(None)
        central, residual = self._tables_of(table, f"{type(self).__name__}.weight" if warn else None)
        self.central.copy_(central)
        self.residual.copy_(residual)

    def _set_table(self, value: Any) -> None:
        if is_table_of(value, self):  # emb.weight.data += 1
            return
        if not isinstance(value, Tensor):
            raise TypeError(f"weight.data: found {type(value).__name__}; expected a tensor")
        own = self.central
        found, expected = ((tuple(t.shape), t.dtype, t.device) for t in (value, own))
        if found != expected:
            raise ValueError(
                "weight.data: found shape {}, {} on {}; expected {}, {} on {}. module.to() changes dtype and "
                "device".format(*found, *expected)
            )
        self._write_table(value.detach().as_subclass(torch.Tensor), warn=True)

    def _check_writable(self) -> None:
        if not {"central", "residual"} <= self._parameters.keys():
            raise RuntimeError(
                f"{type(self).__name__}.weight: cannot be written while .central or .residual is parametrized; remove "
                "the parametrization first"
            )


def _stacklevel() -> int:
    """That of the caller of this package and torch, as ``warnings.warn`` takes it where this is called."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_BETWEEN):
        frame, level = frame.f_back, level + 1
    return level
