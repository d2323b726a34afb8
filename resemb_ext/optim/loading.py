"""Saved state of this package or of torch.optim, made fit for the optimizer that loads it."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from .state import Form, count_at, count_of_torch, fit

# What decay="global" keeps beside the rule's state.
_DECAY = {"decayed": torch.float64, "decay_log": torch.float64}


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
        ValueError: an option out of range, or a tensor of another shape.
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
            device = torch.device("cpu") if key == "decay_log" else parameter.device
            own[key] = value.to(device, _DECAY[key], copy=True)
        else:
            both = value.is_floating_point() and parameter.is_floating_point()
            dtype = parameter.dtype if both else value.dtype
            own[key] = value.to(parameter.device, dtype, copy=True)
    return own
