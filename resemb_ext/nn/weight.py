"""``weight`` of an embedding over a graph: a computed table as a tensor, made at its first use.

What is written into it, or into views of it, is passed on to the module, whose vectors become the numbers written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from resemb_ext._transforms import transformed

from .numbers import Numbers, TableModule
from .writes import name_of, place, sets_all, would_be_recorded, written


class TableView(torch.Tensor):
    """The numbers of a table in memory, or a view of them; what is written in place goes to the module.

    Results that share no memory with it, copies and pickles are plain tensors.
    """

    _numbers: Numbers

    @staticmethod
    def of(tensor: Tensor, numbers: Numbers) -> TableView:
        view = tensor.as_subclass(TableView)
        view._numbers = numbers
        return view

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        targets = _targets(func, args, kwargs)
        views = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, TableView)]
        with torch._C.DisableTorchFunctionSubclass(), contextlib.ExitStack() as stack:
            versions = [view._numbers.memory._version for view in views]
            known = _sets_all(func, args, kwargs, targets)
            for target in targets:
                stack.enter_context(target._numbers.written(target, place(func, args, target), known))
            # .data itself has a version counter of its own, that of a detached tensor is the memory's.
            result = args[0].detach() if func == _GET_DATA else func(*args, **kwargs)
            if not targets:
                for view, version in zip(views, versions, strict=True):
                    view._numbers.check_unwritten(view, version, name_of(func))
            return _keep(result, views)

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        copy = self.as_subclass(torch.Tensor).detach().clone()
        memo[id(self)] = copy
        return copy

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.as_subclass(torch.Tensor).detach().__reduce_ex__(protocol)


class _Source:
    """Makes the table once, with or without gradients as when it was asked for.

    Attributes:
        made: the table, once it has been made.
        watched: somebody waits for the table's gradient.
    """

    def __init__(self, module: TableModule, parameters: Sequence[nn.Parameter]) -> None:
        self.module = module
        self.parameters = parameters
        self.made: Tensor | None = None
        self.watched = False

    def table(self) -> Tensor:
        if self.made is None:
            # Made under the inference mode of the first use it would be fit for that use alone. Nor do hooks on what
            # is saved belong to it: torch.utils.checkpoint would miss it in the recomputation, which finds it made.
            keep = torch.autograd.graph.saved_tensors_hooks(torch.Tensor.detach, lambda saved: saved)
            with torch.inference_mode(False), torch.set_grad_enabled(bool(self.parameters)), keep:
                self.made = self.module.materialize()
        return self.made

    def view(self, numbers: Tensor | None = None) -> TableView:
        """The table, or what is given in place of its numbers, as one whose writes reach the module."""
        memory = self.table().detach()
        return TableView.of(memory if numbers is None else numbers, Numbers(self.module, memory))

    def looks_up(self, padding_idx: int | None) -> bool:
        """Whether the module can look rows up in place of the table, where that padding has no gradient."""
        if self.made is not None or self.watched or transformed():
            return False
        if torch.is_grad_enabled() and not self.parameters and any(p.requires_grad for p in self.module.parameters()):
            return False  # detached from what the module's lookup would train
        return padding_idx is None or padding_idx % self.module.num_embeddings == self.module.padding_idx

    def blank(self, like: Tensor) -> TableView:
        """The same where every number is about to be written: not computed before."""
        if self.made is not None:
            return self.view()
        with torch.inference_mode(False):
            memory = torch.empty(like.shape, dtype=like.dtype, device=like.device)
        if not self.parameters:  # else it is made where it is read, with its graph
            self.made = memory
        return TableView.of(memory, Numbers(self.module, memory))


class WeightTable(TableView):
    """A table that is not computed before its numbers are needed.

    Shape, dtype, device, requires_grad and the like are answered without.
    """

    _source: _Source

    @staticmethod
    def deferred(module: TableModule, like: Tensor, parameters: Sequence[nn.Parameter]) -> WeightTable:
        """The table of a module.

        Args:
            module: makes the table, with gradients where they are on, and takes what is written.
            like: shaped and typed as the table.
            parameters: those that take its gradient; none where gradients are off.
        """
        source = _Source(module, parameters)
        return _Defer.apply(source, like, *parameters) if parameters else WeightTable._empty(source, like)

    @staticmethod
    def _empty(source: _Source, like: Tensor) -> WeightTable:
        table = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            WeightTable, like.shape, dtype=like.dtype, device=like.device
        )
        table._source = source
        return table

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _KNOWN:
            if func in _WATCHES:
                args[0]._source.watched = True
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if func in _METHODS and isinstance(args[0], WeightTable):
            return _METHODS[func](*args, **kwargs)
        if func in _LOOKUPS and (found := _LOOKUPS[func](*args, **kwargs)) is not None:
            return found
        targets = _targets(func, args, kwargs)
        # Only the place of an index is set, which may be less than the table.
        blank = bool(targets) and name_of(func) != "__setitem__" and _sets_all(func, args, kwargs, targets) is not None

        def made(table: WeightTable) -> TableView:
            if blank and any(table is target for target in targets):
                return table._source.blank(table)
            return table._made()

        with torch.no_grad() if targets else contextlib.nullcontext():
            args, kwargs = pytree.tree_map_only(WeightTable, made, (args, kwargs))
            return func(*args, **kwargs)

    def _made(self) -> TableView:
        source = self._source
        if not torch.is_grad_enabled() or not source.parameters:
            return source.view()
        return source.view(source.table() if transformed() else _Fill.apply(self))

    def _detached(self) -> WeightTable:
        return WeightTable._empty(_Source(self._source.module, ()), self) if self._source.parameters else self

    def _set_data(self, value: Tensor) -> None:
        self._source.module._set_table(value)

    def _set_requires_grad(self, value: bool = True) -> WeightTable:
        self._source.module.requires_grad_(value)
        return self

    def _set_grad(self, value: Tensor | None) -> None:
        if value is not None:
            name = type(self._source.module).__name__
            raise TypeError(f"{name}.weight is computed and keeps no gradient; set those of .central and .residual")

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Where torch reads it beneath Python's functions: inside an autograd.Function, say."""
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            written = [a for a, s in zip(args, func._schema.arguments, strict=False) if s.alias_info is not None]
            if any(isinstance(t, WeightTable) for t in pytree.tree_leaves((written, kwargs.get("out")))):
                raise TypeError(f"weight: cannot be written by {func._schema.name} here; write to weight.data")
        args, kwargs = pytree.tree_map_only(WeightTable, lambda t: t._source.table().detach(), (args, kwargs))
        return func(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        return self._made().__deepcopy__(memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._made().__reduce_ex__(protocol)


def is_table_of(value: Any, module: nn.Module) -> bool:
    """Whether a value is the module's whole table, into which all has been written already."""
    if isinstance(value, WeightTable):
        return value._source.module is module
    return isinstance(value, TableView) and value._numbers.is_whole(value) and value._numbers.module is module


class _Defer(torch.autograd.Function):
    """A deferred table that takes part in autograd, whoever reads it."""

    @staticmethod
    def forward(ctx: Any, source: _Source, like: Tensor, *_: Tensor) -> WeightTable:
        ctx.source = source
        return WeightTable._empty(source, like)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        source: _Source = ctx.source
        with torch.enable_grad():
            table = source.table()
        gradients = torch.autograd.grad(
            table, source.parameters, grad, retain_graph=True, create_graph=torch.is_grad_enabled(), allow_unused=True
        )
        return None, None, *gradients


class _Fill(torch.autograd.Function):
    """The numbers of a deferred table, which gets their gradient."""

    @staticmethod
    def forward(ctx: Any, table: WeightTable) -> Tensor:
        return table._source.table().detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def _known() -> set[Any]:
    getters = [
        "shape",
        "dtype",
        "device",
        "layout",
        "requires_grad",
        "is_leaf",
        "grad_fn",
        "grad",
        "ndim",
        "is_cuda",
        "is_cpu",
        "is_meta",
        "is_sparse",
        "is_sparse_csr",
        "is_quantized",
        "is_nested",
        "itemsize",
        "nbytes",
        "retains_grad",
    ]
    methods = [
        "size",
        "dim",
        "ndimension",
        "numel",
        "nelement",
        "__len__",
        "stride",
        "is_contiguous",
        "is_floating_point",
        "is_complex",
        "element_size",
        "get_device",
        "storage_offset",
        "register_hook",
        "retain_grad",
    ]
    kind = torch.Tensor
    known = {getattr(kind, name).__get__ for name in getters if hasattr(kind, name)}  # torch drops some in time
    known |= {getattr(kind, name) for name in methods}
    return known | {torch.is_floating_point, torch.is_complex, torch.numel, torch.is_tensor, torch.autograd.grad}


_KNOWN = _known()
_GET_DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]
_METHODS: dict[Any, Callable[..., Any]] = {
    _GET_DATA: WeightTable._detached,
    torch.Tensor.detach: WeightTable._detached,
    torch.Tensor.data.__set__: WeightTable._set_data,  # type: ignore[attr-defined]
    torch.Tensor.requires_grad.__set__: WeightTable._set_requires_grad,  # type: ignore[attr-defined]
    torch.Tensor.requires_grad_: WeightTable._set_requires_grad,
    torch.Tensor.grad.__set__: WeightTable._set_grad,  # type: ignore[union-attr]
}


_WATCHES = {torch.Tensor.register_hook, torch.Tensor.retain_grad}


def _embedding(
    input: Tensor,
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor | None:
    """F.embedding as a lookup of the module; None where it is more than that."""
    source: _Source | None = getattr(weight, "_source", None)
    if source is None or max_norm is not None or scale_grad_by_freq or not source.looks_up(padding_idx):
        return None
    return source.module._look_up(input, sparse).to(weight.dtype)


def _embedding_bag(
    input: Tensor,
    weight: Any,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor | None:
    """F.embedding_bag as bags of the module; None where it is more than that, or torch refuses it."""
    source: _Source | None = getattr(weight, "_source", None)
    if source is None or not source.looks_up(padding_idx):
        return None
    known = mode == "sum" or (mode == "mean" and per_sample_weights is None)
    # A bag counts rows of padding where the call does not name it.
    same = padding_idx is not None or source.module.padding_idx is None
    if not (same and known) or max_norm is not None or scale_grad_by_freq:
        return None
    ends = include_last_offset and input.dim() != 2
    options = (offsets, mode, per_sample_weights, ends, "weights", sparse)
    return source.module._pool(input, *options).to(weight.dtype)


_LOOKUPS: dict[Any, Callable[..., Tensor | None]] = {F.embedding: _embedding, F.embedding_bag: _embedding_bag}


def _targets(func: Callable, args: tuple, kwargs: dict[str, Any]) -> list[Any]:
    """The tables and views of them that a function is about to write.

    Raises:
        RuntimeError: autograd would record it.
    """
    targets = written(func, args, kwargs, (TableView, WeightTable))
    if targets and would_be_recorded(func, args, kwargs):
        raise RuntimeError(
            f"weight: {name_of(func)} would be recorded by autograd, but weight is computed from .central and "
            ".residual: write to weight.data, or under torch.no_grad(), where the numbers written become the vectors"
        )
    return targets


def _sets_all(func: Callable, args: tuple, kwargs: dict[str, Any], targets: list[Any]) -> str | None:
    """As ``writes.sets_all``; None where the function may read what it writes, as ``torch.mul(w, 2, out=w)``."""
    known = sets_all(func, args, kwargs)
    if known is None or not targets:
        return known
    reached = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if any(_lies_with(leaf, t) for t in targets)]
    return known if len(reached) == len(targets) else None


def _lies_with(value: Any, target: Any) -> bool:
    if isinstance(target, WeightTable):
        return isinstance(value, WeightTable) and value._source is target._source
    return bool(target._numbers.shares(value))


def _keep(result: Any, views: Sequence[TableView]) -> Any:
    """The result, where it shares a table's memory as a view of it."""
    if isinstance(result, (tuple, list)):  # unbind, split, ...
        return type(result)(_keep(part, views) for part in result)
    if isinstance(result, np.ndarray):
        result.flags.writeable = False  # nobody would see what is written there
        return result
    if transformed():
        return result
    for view in views:
        if result is not view and view._numbers.shares(result):
            return TableView.of(result, view._numbers)
    return result
