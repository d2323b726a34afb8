"""Steps on dense gradients, by torch.optim."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from . import capture
from .state import state_dtype


def step_dense(
    optimizer: Optimizer, places: list[tuple[dict[str, Any], Tensor]], states: Mapping[Tensor, dict[str, Any]]
) -> None:
    """One step of a torch.optim optimizer on the parameters given; its hooks are not called.

    A parameter of low precision has float32 state: its copy in float32 is stepped and rounded to it. So is a
    copy where fused kernels, which go through memory, would meet tensors of several layouts.

    Args:
        optimizer: is lent the parameters for this step.
        places: (group, parameter); the group's options hold.
        states: of every parameter, whole; changed in place.

    Raises:
        RuntimeError: inside the capture of a CUDA graph, an optimizer that counts on the host.
    """
    stepped: dict[Tensor, Tensor] = {}
    groups: dict[int, dict[str, Any]] = {}
    for group, parameter in places:
        own = groups.setdefault(id(group), {**group, "params": []})
        stand_in, gradient, dtype = parameter, parameter.grad, state_dtype(parameter)
        assert gradient is not None
        if parameter.dtype != dtype or (group.get("fused") and not _laid_alike(parameter, gradient, states[parameter])):
            stand_in = parameter.detach().to(dtype).contiguous()
            stand_in.grad = gradient.to(dtype).contiguous()
            states[parameter].update({k: v.contiguous() for k, v in states[parameter].items() if isinstance(v, Tensor)})
        stepped[parameter] = stand_in
        own["params"].append(stand_in)
    capture.check_dense(optimizer, list(groups.values()))
    if "decoupled_weight_decay" not in optimizer.defaults:
        for group in groups.values():
            _shrink(group)
    optimizer.param_groups = list(groups.values())
    optimizer.state = defaultdict(dict, {stand_in: states[p] for p, stand_in in stepped.items()})
    try:
        _without_hooks(optimizer)
    finally:
        optimizer.param_groups, optimizer.state = [], defaultdict(dict)
    for parameter, stand_in in stepped.items():
        if stand_in is not parameter:
            parameter.copy_(stand_in)


def _laid_alike(parameter: Tensor, gradient: Tensor, state: dict[str, Any]) -> bool:
    tensors = (gradient, *(value for value in state.values() if isinstance(value, Tensor)))
    return all(t.shape != parameter.shape or t.stride() == parameter.stride() for t in tensors)


def _shrink(group: dict[str, Any]) -> None:
    """Decoupled decay for an optimizer that has none."""
    if not group["decoupled_weight_decay"] or group["weight_decay"] == 0:
        return
    lr = group["lr"]
    if not isinstance(lr, Tensor) or lr.device.type == "cpu":
        lr = float(lr)  # one on a device is not waited for
    for parameter in group["params"]:
        parameter.mul_(1 - lr * group["weight_decay"])
    group["weight_decay"] = 0.0


def _without_hooks(optimizer: Optimizer) -> None:
    """The step below the wrapper by which torch calls hooks: those hear of the lender's step alone."""
    step: Any = type(optimizer).step
    while getattr(step, "hooked", False):
        step = step.__wrapped__
    step(optimizer)
