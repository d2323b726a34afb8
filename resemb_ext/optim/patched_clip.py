"""torch's own clipping functions made to take sparse gradients, wherever a library has imported them by name."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from types import CellType, TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from . import clip

_lock = threading.Lock()
_users = 0


def _cell(name: str, public: Callable[..., Any]) -> CellType:
    """Where a function of torch keeps the one that works.

    torch.nn.utils wraps both in no_grad. To change what is wrapped reaches every name that they were imported under.
    """
    inner = getattr(public, "__wrapped__", None)
    for cell in getattr(public, "__closure__", None) or ():
        if cell.cell_contents is inner:
            return cell
    raise RuntimeError(
        f"torch.nn.utils.{name} of torch {torch.__version__} is not built as in 2.13, or something has "
        f"replaced it; call resemb_ext.optim.{name} in its place"
    )


def _with_sparse(theirs: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    """torch's function while all gradients are dense, ours as soon as one is sparse."""

    def clipped(parameters: Tensor | Iterable[Tensor], *args: Any, **kwargs: Any) -> Any:
        given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        if any(parameter.grad is not None and parameter.grad.is_sparse for parameter in given):
            return ours(given, *args, **kwargs)
        return theirs(given or parameters, *args, **kwargs)  # torch warns of an empty generator

    return clipped


class _Patch:
    """Holds torch's functions patched from its creation to the end of its ``with`` block."""

    def __init__(self) -> None:
        self._holds = False
        self._take()

    def __enter__(self) -> _Patch:
        self._take()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        global _users
        with _lock:
            if not self._holds:
                return
            self._holds = False
            _users -= 1
            if _users == 0:
                for cell, theirs, _ours in _functions():
                    cell.cell_contents = theirs

    def _take(self) -> None:
        global _users
        with _lock:
            if self._holds:
                return
            if _users == 0:
                for cell, theirs, ours in _functions():
                    cell.cell_contents = _with_sparse(theirs, ours)
            self._holds = True
            _users += 1


_cells: dict[str, tuple[CellType, Callable[..., Any]]] = {}


def _functions() -> list[tuple[CellType, Callable[..., Any], Callable[..., Any]]]:
    """Of both functions: where what works is kept, torch's, and ours. Found before anything is changed."""
    pairs = ((clip_grad_norm_, clip.clip_grad_norm_), (clip_grad_value_, clip.clip_grad_value_))
    for public, _ in pairs:
        name = public.__name__
        if name not in _cells:
            cell = _cell(name, public)
            _cells[name] = (cell, cell.cell_contents)
    return [(*_cells[public.__name__], ours) for public, ours in pairs]


def patch_clipping() -> _Patch:
    """Lets ``clip_grad_norm_`` and ``clip_grad_value_`` of torch.nn.utils take sparse gradients.

    It holds in the whole process, also for code that has imported the functions by name: trainers of other
    libraries clip with these. Calls in which all gradients are dense (or sharded, as under FSDP2) do exactly what they
    did; one with a sparse gradient is made by ``clip_grad_norm_`` or ``clip_grad_value_`` of this package.

    As a context manager it holds until the block ends; otherwise for good. Blocks may be nested and overlap in
    several threads: torch is as it was once the last has ended.

    Raises:
        RuntimeError: torch's functions are not found where this version of torch should keep them.
    """
    return _Patch()
