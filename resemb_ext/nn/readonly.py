"""A view of a computed table that refuses to be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class ReadOnlyTable(torch.Tensor):
    """A tensor computed from others: in-place operations raise, since they would be lost.

    Results of all other operations are plain tensors.
    """

    @classmethod
    def __torch_function__(
        cls,
        func: Callable,
        types: Any,
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        in_place = name.endswith("_") and not name.startswith("__")
        out = (kwargs or {}).get("out")
        if (in_place or name in ("__setitem__", "__set__")) and args and isinstance(args[0], cls):
            _refuse(name)
        if isinstance(out, cls):
            _refuse(f"{name}(out=...)")
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        # .data and .detach() share memory with the table, so they stay read-only.
        if name in ("__get__", "detach", "view", "data") and isinstance(result, torch.Tensor):
            return result.as_subclass(cls)
        return result


def _refuse(name: str) -> None:
    raise TypeError(
        f"ResEmbedding.weight is computed from .central and .residual and cannot be written ({name}); "
        "write to those, or use ResEmbedding.from_embedding to start from a given table"
    )
