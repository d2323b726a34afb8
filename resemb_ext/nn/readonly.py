"""A computed table as a tensor: made at its first use, and never written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from resemb_ext._transforms import transformed


class ReadOnlyTable(torch.Tensor):
    """A tensor computed from others: in-place operations raise, since they would be lost.

    Views of it refuse them too; all other results, copies and pickles are plain tensors. ``w += x``
    rebinds w to a plain tensor: Python falls back on ``w + x`` where the in-place form is refused.
    """

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        _refuse_writes(func, args, kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
            if isinstance(result, (tuple, list)):  # unbind, split, ...
                return type(result)(_keep(cls, r, args) for r in result) if args else result
            return _keep(cls, result, args)

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        copy = self.as_subclass(torch.Tensor).detach().clone()
        memo[id(self)] = copy
        return copy

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.as_subclass(torch.Tensor).detach().__reduce_ex__(protocol)


class _Source:
    """Makes the table once, with or without gradients as when it was asked for."""

    def __init__(self, compute: Callable[[], Tensor], parameters: Sequence[nn.Parameter]) -> None:
        self.compute = compute
        self.parameters = parameters
        self.made: Tensor | None = None

    def table(self) -> Tensor:
        if self.made is None:
            # Made under the inference mode of the first use it would be fit for that use alone. Nor do hooks on what
            # is saved belong to it: torch.utils.checkpoint would miss it in the recomputation, which finds it made.
            keep = torch.autograd.graph.saved_tensors_hooks(torch.Tensor.detach, lambda saved: saved)
            with torch.inference_mode(False), torch.set_grad_enabled(bool(self.parameters)), keep:
                self.made = self.compute()
        return self.made


class DeferredTable(ReadOnlyTable):
    """A ``ReadOnlyTable`` that is not computed before its numbers are needed.

    Shape, dtype, device, requires_grad and the like are answered without.
    """

    _source: _Source

    @staticmethod
    def of(compute: Callable[[], Tensor], like: Tensor, parameters: Sequence[nn.Parameter]) -> DeferredTable:
        """The table that ``compute`` makes.

        Args:
            compute: the table, shaped and typed as ``like``, with gradients where they are on.
            parameters: those that take its gradient; none where gradients are off.
        """
        source = _Source(compute, parameters)
        return _Defer.apply(source, like, *parameters) if parameters else DeferredTable._empty(source, like)

    @staticmethod
    def _empty(source: _Source, like: Tensor) -> DeferredTable:
        table = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            DeferredTable, like.shape, dtype=like.dtype, device=like.device
        )
        table._source = source
        return table

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _KNOWN:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        _refuse_writes(func, args, kwargs)

        args, kwargs = pytree.tree_map_only(DeferredTable, DeferredTable._made, (args, kwargs))
        return func(*args, **kwargs)

    def _made(self) -> ReadOnlyTable:
        table = self._source.table()
        if not transformed() and self._source.parameters:
            table = _Fill.apply(self) if torch.is_grad_enabled() else table.detach()
        return table.as_subclass(ReadOnlyTable)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Where torch reads it beneath Python's functions: inside an autograd.Function, say."""
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            _refuse_any([args, kwargs], func._schema.name)
        args, kwargs = pytree.tree_map_only(DeferredTable, lambda t: t._source.table().detach(), (args, kwargs))
        return func(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        return self._made().__deepcopy__(memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._made().__reduce_ex__(protocol)


class _Defer(torch.autograd.Function):
    """A deferred table that takes part in autograd, whoever reads it."""

    @staticmethod
    def forward(ctx: Any, source: _Source, like: Tensor, *_: Tensor) -> DeferredTable:
        ctx.source = source
        return DeferredTable._empty(source, like)

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
    def forward(ctx: Any, table: DeferredTable) -> Tensor:
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


def _keep(cls: type[torch.Tensor], result: Any, args: tuple) -> Any:
    """The result, read-only where it shares the table's memory."""
    if not isinstance(result, torch.Tensor) or not args or not isinstance(args[0], cls):
        return result
    shared = result.untyped_storage().data_ptr() == args[0].untyped_storage().data_ptr()
    return result.as_subclass(cls) if shared else result


def _refuse_writes(func: Callable, args: tuple, kwargs: dict[str, Any]) -> None:
    name = getattr(func, "__name__", "")
    if name in ("__setitem__", "__set__") or (name.endswith("_") and not name.endswith("__")):
        if name == "__set__":
            name = f".{func.__self__.__name__} ="  # type: ignore[attr-defined]
        # torch.nn.init passes the tensor by name.
        _refuse_any(args[0] if args else list(kwargs.values()), name)
    _refuse_any(kwargs.get("out"), f"{name}(out=...)")


def _refuse_any(target: Any, name: str) -> None:
    targets = pytree.tree_leaves(target) if isinstance(target, (tuple, list)) else (target,)
    if any(isinstance(t, ReadOnlyTable) for t in targets):
        raise TypeError(
            f"ResEmbedding.weight is computed from .central and .residual and cannot be written ({name}). Where a "
            "model initialises its nn.Embedding so, swap after the model is built: "
            "ResEmbedding.from_embedding(model.item, graph) starts from its table. Else write to .central and .residual"
        )
