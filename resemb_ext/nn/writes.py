"""What a function of torch writes in place, told by its name and arguments before it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

# They set every number of what they write, whatever it was.
_DRAW = {"normal_", "uniform_", "random_", "bernoulli_", "exponential_", "log_normal_", "cauchy_", "geometric_"}
_COPY = {"copy_", "fill_", "zero_"}
_OPERATORS = "add sub mul div truediv floordiv mod pow matmul and or xor lshift rshift"
_IN_PLACE = {"__setitem__", *(f"__i{name}__" for name in _OPERATORS.split())}


def name_of(func: Callable) -> str:
    return getattr(func, "__name__", "an operation")


def initialises(func: Callable) -> bool:
    """Whether it is of torch.nn.init, whose functions write without recording."""
    return getattr(func, "__module__", None) == nn.init.__name__


def written(func: Callable, args: tuple, kwargs: dict[str, Any], kinds: tuple[type[Tensor], ...]) -> list[Any]:
    """The tensors of some classes that a function writes."""
    name = name_of(func)
    target = kwargs.get("out")
    if target is None:
        if not (name in _IN_PLACE or (name.endswith("_") and not name.endswith("__"))):
            return []
        target = args[0] if args else kwargs.get("tensor")  # torch.nn.init passes it by name
    return [t for t in pytree.tree_leaves(target) if isinstance(t, kinds)]


def would_be_recorded(func: Callable, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether autograd would record a function that writes."""
    if not torch.is_grad_enabled() or initialises(func):
        return False
    return any(isinstance(t, Tensor) and t.requires_grad for t in pytree.tree_leaves((args, kwargs)))


def place(func: Callable, args: tuple, target: Tensor) -> Tensor:
    """The part of a target that a function writes into: for ``target[index] = ...`` that of the index, if a view."""
    if name_of(func) != "__setitem__" or not _is_basic(args[1]):
        return target
    with torch.no_grad():
        return target[args[1]]


def sets_all(func: Callable, args: tuple, kwargs: dict[str, Any]) -> str | None:
    """ "draw" or "copy" where a function that writes sets every number of its ``place``, whatever it was; else None."""
    name = name_of(func)
    if initialises(func) or name in _DRAW:
        return "draw"
    if name in _COPY or kwargs.get("out") is not None or (name == "__setitem__" and _is_basic(args[1])):
        return "copy"
    return None


def _is_basic(index: Any) -> bool:
    """Whether indexing by it gives a view."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(p is None or p is Ellipsis or (isinstance(p, (slice, int)) and not isinstance(p, bool)) for p in parts)
