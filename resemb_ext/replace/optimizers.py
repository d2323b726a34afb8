"""New parameters in the place of old ones inside living optimizers."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from resemb_ext._ownership import TAKE_SPARSE, owner_of
from resemb_ext.optim import RowSparseOptimizer
from resemb_ext.runtime.living import living

from .report import OptimizerChange
from .swap import Swap
from .walk import Place, plain_values

_Optimizer = torch.optim.Optimizer


def unwrapped(optimizer: Any) -> list[_Optimizer]:
    """The optimizers given: none, one or several, without what wraps them (accelerate, Lightning).

    Raises:
        TypeError: something else; an optimizer whose parameters are spread over processes.
    """
    if optimizer is None:
        return []
    if isinstance(optimizer, Iterable) and not isinstance(optimizer, (_Optimizer, str, Tensor)):
        return list({id(found): found for each in optimizer for found in unwrapped(each)}.values())
    inner = optimizer
    while getattr(inner, "optimizer", None) is not None:
        inner = inner.optimizer
    if not isinstance(inner, _Optimizer):
        raise TypeError(f"optimizer: found {type(optimizer).__name__}; expected a torch.optim.Optimizer, or several")
    if type(inner).__name__ == "ZeroRedundancyOptimizer":
        raise TypeError("optimizer: a ZeroRedundancyOptimizer has shared its parameters out; make it after the change")
    return [inner]


def check(optimizers: list[_Optimizer], swaps: list[Swap]) -> None:
    """Refuses what the optimizers could not step, or what cannot be taken out of them.

    Raises:
        ValueError: sparse gradients for one that does not take them, or dense ones for SparseAdam.
        TypeError: LBFGS after its first step.
    """
    for swap in swaps:
        for optimizer in optimizers:
            for group, _ in _held(optimizer, swap):
                if isinstance(optimizer, torch.optim.LBFGS) and optimizer.state:
                    raise TypeError("optimizer: LBFGS has one state for all parameters; make it after the change")
                _check_gradients(optimizer, group, swap)
            if not swap.sparse and any(owner_of(old) is optimizer for old in swap.old.values()):
                raise ValueError(f"{swap.name}: the optimizer steps it in backward, which needs sparse=True")


def _check_gradients(optimizer: _Optimizer, group: dict[str, Any], swap: Swap) -> None:
    kind = type(optimizer).__name__
    if isinstance(optimizer, torch.optim.SparseAdam):
        dense = [name for name in swap.new if not swap.sparse or name.startswith("attention.")]
        if dense:
            raise ValueError(
                f"{swap.name}: SparseAdam takes sparse gradients alone, and those of {', '.join(dense)} are dense; "
                "take sparse=True and another link than attention, or resemb_ext.optim.Adam"
            )
    if not swap.sparse or isinstance(optimizer, RowSparseOptimizer):
        return
    if not type(optimizer).__module__.startswith("torch.optim"):
        return  # nobody knows
    remedy = "give resemb_ext.optim.like(optimizer), made before this call, or sparse=False"
    if not isinstance(optimizer, TAKE_SPARSE):
        raise ValueError(f"{swap.name}: sparse=True, and torch.optim.{kind} does not take sparse gradients; {remedy}")
    if group.get("weight_decay") and not isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError(
            f"{swap.name}: sparse=True, and torch.optim.{kind} does not take sparse gradients with weight_decay; {remedy}"
        )
    if group.get("fused"):
        raise ValueError(
            f"{swap.name}: sparse=True, and torch.optim.{kind} does not take sparse gradients with fused=True; {remedy}"
        )


def _held(optimizer: _Optimizer, swap: Swap) -> list[tuple[dict[str, Any], int]]:
    """Groups that hold old parameters, with their numbers."""
    groups = enumerate(optimizer.param_groups)
    return [(group, number) for number, group in groups if any(_is_among(p, swap.old) for p in group["params"])]


def _is_among(parameter: Tensor, some: dict[str, Any]) -> bool:
    return any(parameter is one for one in some.values())


def holds(optimizer: _Optimizer, swap: Swap) -> bool:
    """Whether an optimizer holds one of the old parameters."""
    return bool(_held(optimizer, swap))


def first_states(optimizers: list[_Optimizer], swaps: list[Swap]) -> list[dict[int, dict[Tensor, Any]]]:
    """For each change, by optimizer, state that it makes with itself and not at a parameter's first step."""
    found: list[dict[int, dict[Tensor, Any]]] = []
    for swap in swaps:
        states: dict[int, dict[Tensor, Any]] = {}
        for optimizer in optimizers:
            held = _held(optimizer, swap)
            if held and isinstance(optimizer, torch.optim.Adagrad):
                start, fused = optimizer.defaults.get("initial_accumulator_value", 0), held[0][0].get("fused") or None
                fresh = torch.optim.Adagrad(list(swap.new.values()), initial_accumulator_value=start, fused=fused)
                states[id(optimizer)] = dict(fresh.state)
        found.append(states)
    return found


def apply(
    optimizers: list[_Optimizer], swap: Swap, states: dict[int, dict[Tensor, Any]]
) -> tuple[OptimizerChange, ...]:
    """Puts the new parameters where the leading old one stands, and takes the others out."""
    return tuple(_apply(optimizer, swap, states) for optimizer in optimizers if _held(optimizer, swap))


def _apply(optimizer: _Optimizer, swap: Swap, states: dict[int, dict[Tensor, Any]]) -> OptimizerChange:
    places = [(group, p) for group, _ in _held(optimizer, swap) for p in group["params"] if _is_among(p, swap.old)]
    leading = next(iter(swap.old.values()))
    target, anchor = next(((group, p) for group, p in places if p is leading), places[0])
    numbers = tuple(number for _, number in _held(optimizer, swap))
    for group in {id(group): group for group, _ in places}.values():
        _put(group, swap, anchor if group is target else None)
    dropped = [bool(optimizer.state.pop(old, None)) for old in swap.old.values()]
    optimizer.state.update(states.get(id(optimizer), {}))
    return OptimizerChange(optimizer, numbers, any(dropped))


def _put(group: dict[str, Any], swap: Swap, anchor: Tensor | None) -> None:
    """The list of a group stays the same object: LBFGS and wrappers hold it."""
    params, names = group["params"], group.get("param_names")
    kept: list[tuple[Tensor, str | None]] = []
    for parameter, name in zip(list(params), names or [None] * len(params), strict=True):
        if parameter is anchor:
            kept += [(new, _renamed(name, swap, own)) for own, new in swap.new.items()]
        elif not _is_among(parameter, swap.old):
            kept.append((parameter, name))
    params[:] = [parameter for parameter, _ in kept]
    if names is not None:
        group["param_names"] = [name for _, name in kept]  # another optimizer may have taken the list over


def _renamed(name: str | None, swap: Swap, own: str) -> str | None:
    if name is None:
        return None
    ends = sorted((old for old in swap.old if name == old or name.endswith("." + old)), key=len)
    return name[: len(name) - len(ends[-1])] + own if ends else f"{name}.{own}"


def check_ties(given: list[_Optimizer], weight: Tensor, name: str, others: list[_Optimizer]) -> None:
    """Lets pending decay of a plain table come in, where the optimizer that left it is among those given.

    Raises:
        ValueError: one that was not given steps the table in backward, or is attached to it.
    """
    owner = owner_of(weight)
    if owner is not None and owner._holds(weight) and not any(owner is optimizer for optimizer in given):
        raise ValueError(f"{name}: an optimizer steps it in backward; give that one as optimizer")
    for optimizer in others:
        if isinstance(optimizer, RowSparseOptimizer) and weight in optimizer._watched:
            if not any(optimizer is one for one in given):
                raise ValueError(f"{name}: an optimizer is attached to it; give that one as optimizer")
            optimizer.catch_up(weight)


def forgotten(given: list[_Optimizer], others: list[_Optimizer], swaps: list[Swap]) -> list[tuple[_Optimizer, Swap]]:
    """Living optimizers that were not given and hold old parameters, which they go on stepping."""
    lists = {id(optimizer.param_groups) for optimizer in given}

    def find(among: list[_Optimizer]) -> list[tuple[_Optimizer, Swap]]:
        unknown = [optimizer for optimizer in among if id(optimizer.param_groups) not in lists]
        return [(optimizer, swap) for optimizer in unknown for swap in swaps if holds(optimizer, swap)]

    if not find(others):
        return []
    others.clear()
    gc.collect()  # those that nobody uses any more
    return find(living().optimizers)


def warn_of_forgotten(forgotten: list[tuple[_Optimizer, Swap]], found: list[Place], call: str) -> None:
    """
    Args:
        forgotten: by the function of that name.
        found: all modules of the model, in whose attributes an optimizer may be.
        call: the name of the caller's function.

    Warns:
        UserWarning: an optimizer that was not given holds an old parameter.
    """
    by_optimizer: dict[int, tuple[_Optimizer, list[str]]] = {}
    for optimizer, swap in forgotten:
        by_optimizer.setdefault(id(optimizer.param_groups), (optimizer, []))[1].append(swap.name)
    for key, (optimizer, names) in by_optimizer.items():
        where = _attribute(key, found)
        warnings.warn(
            f"{call}: {type(optimizer).__name__}{f', the attribute {where},' if where else ''} holds the weight of "
            f"{', '.join(names)} and was not given; it would go on with the old weight, and the new tables would not "
            f"learn. Give it, {call}(..., optimizer=optimizer), or make it anew",
            stacklevel=3,
        )


def _attribute(groups: int, found: list[Place]) -> str:
    """The path of the optimizer with these groups among the model's attributes; "" where it is not there."""
    for path, module in found:
        for where, value in plain_values(module, path):
            if isinstance(value, _Optimizer) and id(value.param_groups) == groups:
                return where
    return ""
