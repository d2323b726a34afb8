"""Saved state of this package or of torch.optim, made fit for the optimizer that loads it."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from .state import Form, count_at, count_of_torch, fit

# What decay="global" keeps beside the rule's state, in float64.
_DECAY = ("decayed", "decay_log")
# Made where they are missing, since a rule may be without: momentum=0, bias_correction="global".
_OPTIONAL = ("momentum_buffer", "row_steps")
# Each belongs to one rule; a state with these alone is another rule's.
_OF_ONE_RULE = ("exp_avg", "exp_avg_sq", "square_avg", "sum", "momentum_buffer")


class Loader(Protocol):
    """What loading needs of the optimizer."""

    param_groups: list[dict[str, Any]]

    def _completed(self, saved: dict[str, Any], current: dict[str, Any]) -> dict[str, Any]:
        """A saved group with the options that it lacks."""

    def _check(self, group: dict[str, Any]) -> None:
        """Refuses options out of range."""

    def _form(self, group: dict[str, Any], parameter: Tensor) -> Form:
        """A parameter's state under a group's options."""


def checked(optimizer: Loader, given: dict[str, Any]) -> tuple[dict[str, Any], dict[Tensor, dict[str, Any]]]:
    """A state dict without the parameters' state, and copies of that in this optimizer's form.

    Args:
        optimizer: is not changed.
        given: of an optimizer over as many parameters. One over others is given back for torch to refuse.

    Raises:
        ValueError: an option out of range, state of another rule, or a tensor of another shape.
    """
    pairs = list(zip(given["param_groups"], optimizer.param_groups, strict=False))
    sizes = [[len(group["params"]) for group in side] for side in (given["param_groups"], optimizer.param_groups)]
    if sizes[0] != sizes[1]:
        return given, {}
    groups = [optimizer._completed(*pair) for pair in pairs]
    for group in groups:
        optimizer._check(group)
    loaded: dict[Tensor, dict[str, Any]] = {}
    rest = dict(given["state"])
    index = 0
    for group, (saved, current) in zip(groups, pairs, strict=True):
        for number, parameter in zip(saved["params"], current["params"], strict=True):
            if number in rest:
                form, place = optimizer._form(group, parameter), count_of_torch(group, parameter)
                loaded[parameter] = _fitting(rest.pop(number), form, parameter, place, f"parameter {index}")
            index += 1
    return {**given, "state": rest, "param_groups": groups}, loaded


def _fitting(
    saved: dict[str, Any], form: Form, parameter: Tensor, count_place: torch.device, name: str
) -> dict[str, Any]:
    """A copy of a parameter's saved state: nobody else's step may change what is loaded."""
    there = [key for key, value in saved.items() if value is not None]
    missing = [key for key in form if key not in there and key not in _OPTIONAL]
    others = [key for key in there if key in _OF_ONE_RULE and key not in form]
    if there and (missing or (others and not any(key in there for key in form))):
        raise ValueError(
            f"{name}: its state has {', '.join(there)}; expected {', '.join(form) or 'step alone'}: it was saved by "
            "an optimizer of another rule (with an empty 'state' its options alone are loaded)"
        )
    own: dict[str, Any] = {}
    for key, value in saved.items():
        if key == "step":
            own[key] = count_at(value.clone() if isinstance(value, Tensor) else value, count_place)
        elif not isinstance(value, Tensor):
            if value is not None:  # as torch.optim.SGD keeps a buffer that is not there yet
                own[key] = value
        elif key in form:
            own[key] = fit(value, *form[key], parameter, f"{name}: its state {key}")
        elif key in _DECAY:
            shape, device = (parameter.shape[:1], parameter.device) if key == "decayed" else ((), torch.device("cpu"))
            own[key] = fit(value, shape, torch.float64, parameter, f"{name}: its state {key}").to(device)
        else:
            both = value.is_floating_point() and parameter.is_floating_point()
            dtype = parameter.dtype if both else value.dtype
            own[key] = value.to(parameter.device, dtype, copy=True)
    return own
