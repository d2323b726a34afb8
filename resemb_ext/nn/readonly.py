"""A view of a computed table that refuses to be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


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
        name = getattr(func, "__name__", "")
        if name in ("__setitem__", "__set__") or (name.endswith("_") and not name.endswith("__")):
            # torch.nn.init passes the tensor by name.
            _refuse_any(args[0] if args else list(kwargs.values()), name)
        _refuse_any(kwargs.get("out"), f"{name}(out=...)")
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


def _keep(cls: type[torch.Tensor], result: Any, args: tuple) -> Any:
    """The result, read-only where it shares the table's memory."""
    if not isinstance(result, torch.Tensor) or not args or not isinstance(args[0], cls):
        return result
    shared = result.untyped_storage().data_ptr() == args[0].untyped_storage().data_ptr()
    return result.as_subclass(cls) if shared else result


def _refuse_any(target: Any, name: str) -> None:
    targets = target if isinstance(target, (tuple, list)) else (target,)
    if any(isinstance(t, ReadOnlyTable) for t in targets):
        raise TypeError(
            "ResEmbedding.weight is computed from .central and .residual and cannot be written "
            f"({name}); write to those, or use ResEmbedding.from_embedding to start from a given "
            "table"
        )
