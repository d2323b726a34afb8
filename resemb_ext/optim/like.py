"""Optimizers of this package made from those of torch.optim."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import torch
from torch.optim import Optimizer

from .algorithms import SGD, Adagrad, Adam, AdamW
from .base import RowSparseOptimizer

# The first that an optimizer is an instance of is its rule: torch.optim.AdamW derives from Adam.
_OURS: dict[type[Optimizer], type[RowSparseOptimizer]] = {
    torch.optim.AdamW: AdamW,
    torch.optim.Adam: Adam,
    torch.optim.SGD: SGD,
    torch.optim.Adagrad: Adagrad,
    torch.optim.SparseAdam: Adam,
}
_HOOKS = (
    "_optimizer_step_pre_hooks",
    "_optimizer_step_post_hooks",
    "_optimizer_state_dict_pre_hooks",
    "_optimizer_state_dict_post_hooks",
    "_optimizer_load_state_dict_pre_hooks",
    "_optimizer_load_state_dict_post_hooks",
)
_KEPT_ONLY_WITH_AMSGRAD = "max_exp_avg_sq"


def like(optimizer: Optimizer, **overrides: Any) -> RowSparseOptimizer:
    """The optimizer of this package with the rule, groups, options and state of one of torch.optim.

    It goes on over the same parameters: on dense gradients with the numbers that the given one would have
    had, and sparse gradients become steps on rows. The given one is left as it is, to be dropped.

    Hooks are shared: one that is removed by its handle is gone from both. State is copied. A learning-rate scheduler goes
    on with the optimizer that it was made with; make schedulers after this call, or set
    ``scheduler.optimizer`` to the result.

    Args:
        optimizer: torch.optim's Adam, AdamW, SGD, Adagrad, or SparseAdam, which becomes ``Adam`` (its eps is then
            inside the bias correction). A subclass may change options, not methods.
        overrides: options of the result, for all groups: of torch.optim, or of this package, as ``decay``.

    Raises:
        TypeError: another optimizer, one that wraps another, a subclass with methods of its own, or an
            option that the result does not have.
        ValueError: an option out of range, or one that is refused here: amsgrad, dampening, differentiable.
    """
    ours = _OURS[_rule(optimizer)]
    known = _options(ours)
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise TypeError(f"{unknown[0]}: not an option of {ours.__name__}; expected one of {', '.join(sorted(known))}")
    of_group = {name: value for name, value in overrides.items() if name != "seed"}
    groups = [{**group, **of_group, "params": list(group["params"])} for group in optimizer.param_groups]
    if "lr" in overrides:  # a scheduler would start from the old one
        for group in groups:
            group.pop("initial_lr", None)
    options = {name: value for name, value in optimizer.defaults.items() if name in known}
    made = ours(groups, **{**options, **overrides})
    _take_state(made, optimizer)
    for name in _HOOKS:
        setattr(made, name, getattr(optimizer, name))
    if hasattr(optimizer.step, "_wrapped_by_lr_sched"):
        warnings.warn(
            "optimizer: a learning-rate scheduler was made with it and goes on with it; set scheduler.optimizer to "
            "the optimizer that like() returned, or make the scheduler after it",
            stacklevel=2,
        )
    return made


def _rule(optimizer: Any) -> type[Optimizer]:
    """The optimizer of torch.optim by whose rule a given one steps."""
    name = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
    if isinstance(optimizer, RowSparseOptimizer):
        raise TypeError(f"optimizer: found {name}; expected one of torch.optim: it takes sparse gradients already")
    found = next((known for known in _OURS if isinstance(optimizer, known)), None)
    if found is None:
        inner = getattr(optimizer, "optimizer", None) or getattr(optimizer, "optim", None)
        wraps = f", or what it wraps ({type(inner).__name__})" if isinstance(inner, Optimizer) else ""
        raise TypeError(
            f"optimizer: found {name}; expected Adam, AdamW, SGD, Adagrad or SparseAdam of torch.optim{wraps}"
        )
    for between in type(optimizer).__mro__[: type(optimizer).__mro__.index(found)]:
        for method, value in vars(between).items():
            its = getattr(found, method, None)
            if method != "__init__" and inspect.isfunction(its) and _unhooked(value) is not _unhooked(its):
                raise TypeError(
                    f"optimizer: {name} has a {method} of its own, which torch.optim.{found.__name__} does not know; "
                    f"expected torch.optim.{found.__name__} itself or a subclass with other options"
                )
    return found


def _unhooked(method: Any) -> Any:
    """A method below the wrapper that torch puts around ``step`` of each class that is used."""
    while getattr(method, "hooked", False):
        method = method.__wrapped__
    return method


def _options(ours: type[RowSparseOptimizer]) -> set[str]:
    names = {*inspect.signature(ours).parameters}
    if issubclass(ours, AdamW):
        names |= {*inspect.signature(Adam).parameters} - {"decoupled_weight_decay"}
    return names - {"params", "options"}


def _take_state(made: RowSparseOptimizer, optimizer: Optimizer) -> None:
    """Loads copies of the state, with the form and the checks of a checkpoint."""
    numbers: dict[int, int] = {}
    packed = []
    for group in made.param_groups:
        own = [numbers.setdefault(id(parameter), len(numbers)) for parameter in group["params"]]
        packed.append({**group, "params": own})
    state = {}
    for parameter, values in optimizer.state.items():
        if id(parameter) in numbers:
            state[numbers[id(parameter)]] = {k: v for k, v in values.items() if k != _KEPT_ONLY_WITH_AMSGRAD}
    made.load_state_dict({"state": state, "param_groups": packed})
