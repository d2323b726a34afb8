"""Who reads and who steps a table: what embeddings and optimizers know of each other.

An embedding, before it reads rows, tells hooks which ones. An optimizer that steps a table in backward is its
owner. Other optimizers are refused where their step would fail or go wrong. One that goes on with a table that a
ResEmbedding has replaced is told so.
"""

from __future__ import annotations

import functools
import gc
import warnings
import weakref
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from resemb_ext import _registration as _registration  # registers the operators

_Function = TypeVar("_Function", bound=Callable[..., Any])

TAKE_SPARSE = (torch.optim.SGD, torch.optim.Adagrad, torch.optim.SparseAdam, torch.optim.LBFGS)


def untraced(function: _Function) -> _Function:
    """Keeps the compiler out of a function and all that it calls.

    Steps, and what counts lookups, have effects that Dynamo loses where it traces them frame by frame. As
    ``torch.compiler.disable``, which however imports the compiler where it decorates: that takes seconds.
    """
    return cast(_Function, torch._disable_dynamo(function))


def distinct_items(ids: Any, num_items: int) -> Tensor:
    """The items among ids, nested ones too: int64, ascending."""
    return torch.ops.resemb_ext.distinct_items(ids.values() if ids.is_nested else ids, num_items)


class ReadHook(Protocol):
    """What an optimizer that leaves work pending on rows has in an embedding."""

    def asks(self) -> bool:
        """Whether there is such an optimizer."""

    def __call__(self, *rows: Callable[[], Tensor]) -> None:
        """Before tables are read or written.

        Args:
            rows: for each table a function that gives the rows about to be read (int64, ascending, distinct);
                nothing where all are, or where the module is being exported.
        """


class ReadHooks(nn.Module):
    """The part of an embedding over a graph that tells optimizers which rows are about to be read."""

    central: nn.Parameter
    residual: nn.Parameter
    num_embeddings: int
    _indptr: Tensor
    _neighbors: Tensor
    _read_hooks: list[ReadHook]

    def register_read_hook(self, hook: ReadHook) -> None:
        """Calls a hook before C and R are read or written."""
        self._read_hooks.append(hook)

    def _before_read(self, ids: Tensor | None) -> None:
        asking = [hook for hook in self._read_hooks if hook.asks()]
        if not asking:
            return
        if ids is None or torch.compiler.is_exporting():
            for hook in asking:
                hook()
        else:
            self._call_read_hooks(ids)

    @untraced
    def _call_read_hooks(self, ids: Any) -> None:
        @functools.cache
        def rows() -> Tensor:
            return distinct_items(ids, self.num_embeddings)

        def columns() -> Tensor:
            return torch.ops.resemb_ext.distinct_neighbors(rows(), self._indptr, self._neighbors)

        for hook in self._read_hooks:
            hook(columns, rows)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As of nn.Module, also where a table is assigned."""
        before = self._parameters.get(name)
        super().register_parameter(name, param)
        if before is not None and before is not param:
            set_replaced(before, self)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles."""
        self._before_read(None)
        return {name: value for name, value in self.__dict__.items() if name != "_fold"}

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._before_read(None)
        super()._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._before_read(None)
        super()._load_from_state_dict(*args, **kwargs)


class ShardedTables(nn.Module):
    """Tables of which each rank of a group holds some rows, and steps them alone.

    Their gradients are sums over all ranks, divided by the number of ranks.

    Attributes:
        num_embeddings: rows of all ranks together.
        sparse: whether gradients are sparse.
        after_lookup: called with what has been fetched for a lookup, of which gradients come, and with the tables.
    """

    num_embeddings: int
    sparse: bool
    after_lookup: Callable[..., None] | None

    def __init__(self) -> None:
        super().__init__()
        self.after_lookup = None
        self._read_hooks: list[ReadHook] = []

    def _tables(self) -> tuple[nn.Parameter, ...]:
        """C and R, or the one table."""
        return tuple(self.parameters(recurse=False))

    def _announce(self, group: Any) -> None:
        """Lets optimizers know over which group its tables lie; the module keeps that alive."""
        self._group = group
        for table in self._tables():
            _sharded[table] = group

    def register_read_hook(self, hook: ReadHook) -> None:
        """Calls a hook before rows are read or written, as of ``ReadHooks``."""
        self._read_hooks.append(hook)

    def _before_read(self, *rows: Callable[[], Tensor]) -> None:
        for hook in self._read_hooks:
            if hook.asks():
                hook(*rows)


class TableOwner(Protocol):
    """An optimizer that steps tables in backward."""

    def _holds(self, table: Tensor) -> bool:
        """Whether the table is among its parameters, and has not been taken out of its groups."""

    def _step_table(self, table: Tensor) -> None:
        """The step of one table on its sparse gradient."""

    def _step_lookup(self, *arguments: Any) -> Tensor | None:
        """The step of both tables in the backward of their lookup; the sample weights' gradient."""


class _ByTable:
    """One object for each of some tables, by identity; neither is kept alive.

    Not attributes of the tables, which would be pickled with them.
    """

    def __init__(self) -> None:
        self._entries: dict[int, tuple[weakref.ref[Tensor], weakref.ref[Any]]] = {}

    def __setitem__(self, table: Tensor, value: Any) -> None:
        key = id(table)
        self._entries[key] = weakref.ref(table, lambda _: self._entries.pop(key, None)), weakref.ref(value)

    def get(self, table: Tensor) -> Any:
        """What was set for the table and lives, or None."""
        entry = self._entries.get(id(table))
        return entry[1]() if entry is not None and entry[0]() is table else None

    def discard(self, table: Tensor) -> None:
        self._entries.pop(id(table), None)


# What an optimizer looks for in a model.
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag, ShardedTables)

_owners = _ByTable()
_replaced = _ByTable()
_sharded = _ByTable()


def group_of(table: Tensor) -> Any:
    """The group of torch.distributed whose ranks hold a table's rows between them; None where one holds all."""
    return _sharded.get(table)


def set_owner(table: Tensor, owner: TableOwner) -> None:
    """From now on that optimizer steps the table in backward; the table does not keep it alive."""
    _owners[table] = owner


def owner_of(table: Tensor) -> TableOwner | None:
    """The optimizer that steps a table in backward, if any."""
    return _owners.get(table)


def stepped_by_other(table: Tensor, optimizer: Any) -> bool:
    """Whether another optimizer steps the table in backward."""
    owner = owner_of(table)
    return owner is not None and owner is not optimizer and owner._holds(table)


def set_replaced(table: Tensor, module: nn.Module) -> None:
    """Tables of the module have taken the table's place; an optimizer that steps it may not know of them."""
    _replaced[table] = module


def _warn_of_replaced(optimizer: torch.optim.Optimizer, module: nn.Module) -> None:
    """Once, where the module's own tables are trained and no optimizer holds them."""
    trained = [p for p in module.parameters() if p.requires_grad and p.grad is not None]
    if not trained:
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if _replaced.get(parameter) is module:
                _replaced.discard(parameter)
    # One that has not stepped yet may hold them.
    living = [o for o in gc.get_objects() if issubclass(type(o), torch.optim.Optimizer)]
    held = {id(p) for o in living for group in o.param_groups for p in group["params"]}
    if not all(id(p) in held for p in trained):
        warnings.warn(
            f"{type(optimizer).__name__}: steps a table that has been replaced, and no optimizer holds the tables of "
            f"{module}, which therefore do not learn: make the optimizer after the replacement, or call "
            "optimizer.add_param_group({'params': embedding.parameters()})",
            stacklevel=6,
        )


@untraced
def _before_step(
    optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict[str, Any]
) -> tuple[tuple, dict[str, Any]] | None:
    """Refuses a step on a table that another steps, or on sparse gradients that it does not take.

    Warns of one on a table that has been replaced.

    Gradients that a closure makes are looked at after it has run.
    """
    kind = type(optimizer)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if stepped_by_other(parameter, optimizer):
                raise RuntimeError(
                    f"{kind.__name__}: holds a table that another optimizer steps in backward; take it out of the "
                    "param_groups of one of them"
                )
            module = _replaced.get(parameter)
            if module is not None:
                _warn_of_replaced(optimizer, module)
    if not kind.__module__.startswith("torch.optim") or isinstance(optimizer, TAKE_SPARSE):
        return None
    place, closure = (1, args[1]) if len(args) > 1 else (None, kwargs.get("closure"))
    if closure is None:
        _refuse_sparse(optimizer)
        return None

    @functools.wraps(closure)
    def checked() -> Any:
        loss = closure()
        _refuse_sparse(optimizer)
        return loss

    if place is None:
        return args, {**kwargs, "closure": checked}
    return (*args[:place], checked, *args[place + 1 :]), kwargs


def _refuse_sparse(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        if any(parameter.grad is not None and parameter.grad.is_sparse for parameter in group["params"]):
            raise RuntimeError(
                f"torch.optim.{type(optimizer).__name__} does not take the sparse gradients of "
                "embeddings with sparse=True: use resemb_ext.optim (Adam, AdamW, Adagrad, "
                "RowwiseAdagrad, SGD), which steps the rows of the batch alone, or sparse=False"
            )


# From the import on, as tables come by loading and copying too.
register_optimizer_step_pre_hook(_before_step)
