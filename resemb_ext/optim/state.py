"""The state of a parameter: one form, whichever gradient comes first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from resemb_ext._huge_pages import empty_table

# Names of a state's tensors with their shapes and dtypes.
Form = dict[str, tuple[Sequence[int], torch.dtype]]


def state_dtype(parameter: Tensor) -> torch.dtype:
    """Of sums and moments: float32 for parameters of lower precision, else the parameter's own."""
    return torch.float32 if parameter.dtype in (torch.float16, torch.bfloat16) else parameter.dtype


def empty_state(shape: Sequence[int], dtype: torch.dtype, parameter: Tensor) -> Tensor:
    """State beside a parameter; laid out and sharded as it is where it has its shape."""
    plain = type(parameter.data) is Tensor and parameter.is_contiguous()
    if not plain and tuple(shape) == tuple(parameter.shape):
        return torch.empty_like(parameter, dtype=dtype, requires_grad=False)
    return empty_table(shape, dtype=dtype, device=parameter.device)


def complete_state(state: dict[str, Any], form: Form, parameter: Tensor, initial: float) -> None:
    """Makes what is missing, and fits what has another dtype or form, as after ``module.double()``.

    Args:
        state: holds ``step``; changed in place.
        form: what it has to hold.
        parameter: the state is made beside it.
        initial: of floating sums. Counts of rows start at ``step``, as earlier steps touched all rows.
    """
    for name, (shape, dtype) in form.items():
        value = state.get(name)
        if value is None:
            value = empty_state(shape, dtype, parameter)
            if name == "row_steps":
                value.copy_(state["step"].expand(tuple(shape)))
            else:
                value.fill_(complex(initial, initial) if dtype.is_complex else initial)
            state[name] = value
        elif value.dtype != dtype or value.shape != torch.Size(shape):
            state[name] = fit(value, shape, dtype, parameter, f"state {name}")


def fit(value: Tensor, shape: Sequence[int], dtype: torch.dtype, parameter: Tensor, name: str) -> Tensor:
    """A copy of a state's tensor in a form.

    Of sums of elements come sums of rows: their means, to which those would have grown.

    Raises:
        ValueError: it has another shape.
    """
    if value.shape == parameter.shape and len(shape) == 1 and value.dim() > 1:
        value = value.to(dtype).flatten(1).mean(1)
    if value.shape != torch.Size(shape):
        raise ValueError(f"{name} has shape {list(value.shape)}; expected {list(shape)}")
    return empty_state(shape, dtype, parameter).copy_(value)


def place_count(state: dict[str, Any], place: torch.device) -> None:
    """Makes ``step`` where it is missing, and puts it where those who step the parameter read it."""
    state["step"] = count_at(state.get("step", 0.0), place)


def count_at(value: Any, place: torch.device) -> Tensor:
    """A step count as a floating tensor on a device, from a tensor or a number."""
    if not isinstance(value, Tensor):
        value = torch.tensor(float(value))
    if value.device == place and value.dtype == torch.float32:
        return value
    if not value.is_floating_point() or place.type != "cpu":
        value = value.to(torch.float32)
    return value.to(place)


def count_of_torch(group: dict[str, Any], parameter: Tensor) -> torch.device:
    """Where torch's own optimizers want a parameter's step count."""
    there = group["capturable"] or group.get("fused")
    return parameter.device if there else torch.device("cpu")
