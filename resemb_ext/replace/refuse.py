"""What cannot be replaced, told by name before anything has changed."""

from __future__ import annotations

import gc
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from resemb_ext.nn import ResEmbeddingBase, combined
from resemb_ext.runtime.living import living

from .graphs import named
from .names import Table
from .walk import Place, join

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_WRAPPERS = ("FullyShardedDataParallel", "FSDPModule")


def check_model(model: Any) -> None:
    """
    Raises:
        TypeError: no module.
        ValueError: a model that is wrapped for several processes.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: found {type(model).__name__}; expected an nn.Module")
    for path, part in model.named_modules():
        _refuse_wrapper(part, path or "model")


def _refuse_wrapper(part: nn.Module, name: str) -> None:
    if isinstance(part, DistributedDataParallel) or any(kind.__name__ in _WRAPPERS for kind in type(part).__mro__):
        raise ValueError(
            f"{name}: found {type(part).__name__}, which has taken the old parameters in; replace before wrapping"
        )


def check_wrapped(tables: list[Table], wrappers: list[nn.Module]) -> None:
    """
    Raises:
        ValueError: a living DistributedDataParallel has one of the tables in it.
    """
    ours = {id(table.module): table for table in tables}
    for wrapper in wrappers:
        for part in wrapper.modules():
            if id(part) in ours:
                _refuse_wrapper(wrapper, ours[id(part)].name)


def check_table(table: Table) -> None:
    """Whether a ResEmbedding can stand in for a plain embedding.

    Raises:
        ValueError, TypeError: by name, what is not supported.
    """
    module, name = table.module, table.name
    kind = type(module).__name__
    if isinstance(module, ResEmbeddingBase):
        raise ValueError(
            f"{name}: is a {kind} already; for another graph call restore_embeddings first, which keeps its vectors"
        )
    if hasattr(module, "parametrizations"):
        raise ValueError(f"{name}: its weight is parametrized; remove the parametrization before")
    weight = module._parameters.get("weight")
    if weight is None:
        raise ValueError(f"{name}: its weight is no parameter of {kind} (pruned or normed?); expected a plain one")
    if type(weight) is not nn.Parameter:
        what = type(weight).__name__
        raise TypeError(f"{name}: its weight is a {what} (sharded, quantised or lazy?); expected a plain nn.Parameter")
    if weight.layout != torch.strided or weight.dtype not in _DTYPES:
        raise TypeError(
            f"{name}: its weight is {weight.layout} of {weight.dtype}; expected a dense table of float32, bfloat16, "
            "float16 or float64"
        )
    try:
        combined(type(module))
    except TypeError as error:
        raise named(error, name) from error
    for option in ("max_norm", "scale_grad_by_freq"):
        if getattr(module, option):
            raise ValueError(f"{name}: {option}={getattr(module, option)}; not supported, as a row comes of two tables")
    if getattr(module, "mode", None) == "max":
        raise ValueError(f"{name}: mode='max'; expected 'sum' or 'mean'")


def check_ties(tables: list[Table], found: list[Place]) -> None:
    """
    Raises:
        ValueError: a module that is no table of the call has the weight of one, or its memory.
    """
    chosen = {id(table.module) for table in tables}
    weights = {id(weight_of(table)): table for table in tables}
    memory = {_memory(weight_of(table)): table for table in tables if _memory(weight_of(table))}
    for path, module in found:
        for own, parameter in module._parameters.items():
            if parameter is None:
                continue
            table = weights.get(id(parameter))
            if table is not None and own == "weight" and id(module) in chosen:
                continue  # the same parameter in several tables stays one
            table = table or memory.get(_memory(parameter))
            if table is not None:
                remedy = "let that module read the embedding's weight when it is called"
                if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
                    remedy = "name that one in this call too, with the same graph"
                elif isinstance(module, (nn.ParameterList, nn.ParameterDict)):
                    remedy = "keep a plain list or dict of parameters, which is mended"
                raise ValueError(
                    f"{table.name}: its weight is tied to {join(path, own)}; a Res-embedding has none to share: {remedy}"
                )


def tied_outside(tables: list[Table], found: list[Place], modules: list[nn.Module]) -> list[str]:
    """Warnings that a living module outside the model holds a table's weight, and keeps the old one.

    Args:
        tables: of the call.
        found: all modules of the model.
        modules: those that live; the list is emptied where the garbage among them has to be told.
    """
    known = {id(module) for _, module in found}
    weights = {id(weight_of(table)): table.name for table in tables}

    def find(among: list[nn.Module]) -> list[tuple[str, str, str]]:
        return [
            (weights[id(parameter)], type(module).__name__, name)
            for module in among
            if id(module) not in known
            for name, parameter in list(vars(module)["_parameters"].items())
            if id(parameter) in weights
        ]

    if not find(modules):
        return []
    modules.clear()
    gc.collect()  # those that nobody uses any more
    return [
        f"{table}: its weight is also {name} of a {kind} outside this model, which keeps the old table and is tied no "
        "more; give the whole model, or let that module read the embedding's weight when it is called"
        for table, kind, name in find(living().modules)
    ]


def weight_of(table: Table) -> nn.Parameter:
    """The table itself, which ``check_table`` has seen to be there."""
    weight = table.module._parameters["weight"]
    assert weight is not None
    return weight


def _memory(tensor: Tensor) -> int:
    return 0 if tensor.is_meta or tensor.layout != torch.strided else tensor.untyped_storage().data_ptr()
