"""What a model with dealt tables, and its optimizer, hold: under the names and shapes of one process."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from resemb_ext._ownership import ShardedTables
from resemb_ext.nn.graph_state import encode_hash, hash_of

from .deal import Deal
from .model import ShardedModel
from .rows import Dealt
from .tables import tables
from .wire import Wire


def inner(model: nn.Module) -> nn.Module:
    """The model inside the wrapper of ``shard``; a model without one itself."""
    return model.module if isinstance(model, ShardedModel) else model


def wire_of(model: nn.Module) -> Wire | None:
    """How the ranks of a model meet; None for a model of one process."""
    if isinstance(model, ShardedModel):
        return model._wire
    for module in model.modules():
        if isinstance(module, ShardedTables):
            return module._source.wire  # type: ignore[union-attr, return-value]
    return None


def whole_state(model: nn.Module) -> dict[str, Any]:
    """The state_dict that the model has in one process, its tables as ``Dealt``."""
    model = inner(model)
    state: dict[str, Any] = dict(model.state_dict())
    for table in tables(model):
        state[table.name] = Dealt(table.part.detach(), table.deal)
    for prefix, module in model.named_modules():
        if isinstance(module, ShardedTables):
            name = f"{prefix}._extra_state" if prefix else "_extra_state"
            graph = getattr(module, "graph_hash", None)
            if graph is None:
                state.pop(name, None)
            else:
                state[name] = encode_hash(graph)
    return state


def load_whole(model: nn.Module, state: dict[str, Any]) -> None:
    """Loads a state_dict of one process, of whose tables this rank has its own rows.

    Raises:
        ValueError: it is of another graph.
        RuntimeError: as ``load_state_dict``.
    """
    model, state = inner(model), dict(state)
    for prefix, module in model.named_modules():
        if not isinstance(module, ShardedTables):
            continue
        name = f"{prefix}._extra_state" if prefix else "_extra_state"
        own, found = getattr(module, "graph_hash", None), hash_of(state.get(name))
        if own is not None and found not in (None, own):
            raise ValueError(f"{prefix}: was saved over the graph {found[:12]}; this module's graph is {own[:12]}")
        state[name] = module.get_extra_state()
    model.load_state_dict(state)


def whole_parameters(model: nn.Module) -> dict[str, Tensor | Dealt]:
    """Parameters and buffers by name, tables as ``Dealt``; without the hooks of state_dict."""
    model = inner(model)
    found: dict[str, Tensor | Dealt] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {**found, **{table.name: Dealt(table.part.detach(), table.deal) for table in tables(model)}}


def deals(model: nn.Module) -> dict[int, Deal]:
    """Deals of the tables, by the ids of their parameters."""
    return {id(table.part): table.deal for table in tables(model)}


def whole_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state_dict that the optimizer has in one process, what it keeps by row of tables as ``Dealt``.

    As of torch.optim.Optimizer: decay that is pending stays pending.
    """
    packed = torch.optim.Optimizer.state_dict(optimizer)
    of_table = deals(model)
    numbered = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [n for group in packed["param_groups"] for n in group["params"]]
    state = dict(packed["state"])
    for number, parameter in zip(numbers, numbered, strict=True):
        deal = of_table.get(id(parameter))
        if deal is not None and number in state:
            state[number] = {name: _by_row(value, deal) for name, value in state[number].items()}
    return {**packed, "state": state}


def _by_row(value: Any, deal: Deal) -> Any:
    """A table's state: numbers of the table as they are, those of rows as ``Dealt``."""
    return Dealt(value, deal) if isinstance(value, Tensor) and value.dim() and len(value) == deal.count else value
