"""Forms of Adam's moments: their tensors, and how a state of one form becomes one of another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .row_sparse import Moment, is_table
from .state import Form, empty_state, fit, state_dtype

FIRST, SCALE, SECOND = NAMES = ("exp_avg", "exp_avg_scale", "exp_avg_sq")


class Moments(NamedTuple):
    """Forms of the first and the second moment."""

    first: Moment
    second: Moment


STATES = {
    "float32": Moments(Moment.ACC, Moment.ACC),
    "bfloat16": Moments(Moment.BF16, Moment.BF16),
    "rowwise": Moments(Moment.ACC, Moment.ROW),
    "bfloat16_rowwise": Moments(Moment.BF16, Moment.ROW),
    "int8_rowwise": Moments(Moment.I8, Moment.ROW),
}
STATES["compact"] = STATES["int8_rowwise"]

_CHUNK = 1 << 22  # numbers that are converted at a time


def check_state(state: Any) -> None:
    """
    Raises:
        ValueError: no name of a form.
    """
    if not isinstance(state, str) or state not in STATES:
        raise ValueError(f"state: found {state!r}; expected one of {', '.join(map(repr, STATES))}")


def is_compact(state: str) -> bool:
    return STATES[state] != STATES["float32"]


def check_parameter(state: str, parameter: Tensor, name: str) -> None:
    """
    Raises:
        ValueError: a parameter that has no compact state.
    """
    if is_compact(state) and (not is_table(parameter) or parameter.dtype == torch.float64):
        kind = type(parameter.data).__name__
        raise ValueError(
            f"{name}: state={state!r} for a {kind} of {parameter.dtype} and shape {list(parameter.shape)} on "
            f"{parameter.device}; expected a table of float32, bfloat16 or float16 on the CPU or CUDA (give the others a "
            "group with state='float32')"
        )


def moment_form(state: str, parameter: Tensor) -> Form:
    """Names, shapes and dtypes of the moments beside a parameter."""
    forms = STATES[state]
    whole, by_row, dtype = parameter.shape, parameter.shape[:1], state_dtype(parameter)
    form: Form = {FIRST: (whole, {Moment.BF16: torch.bfloat16, Moment.I8: torch.int8}.get(forms.first, dtype))}
    if forms.first is Moment.I8:
        form[SCALE] = (by_row, torch.float32)
    form[SECOND] = (
        by_row if forms.second is Moment.ROW else whole,
        torch.bfloat16 if forms.second is Moment.BF16 else dtype,
    )
    return form


def converted(state: dict[str, Any], form: Form, parameter: Tensor, name: str) -> dict[str, Any]:
    """A parameter's state with its moments in a form; itself where they have it, or are not there yet.

    First moments are rounded to nearest; int8 ones are codes times exp_avg_scale, a row's largest magnitude over 127.
    A second moment by row is the mean of those of its elements, and each element gets the row's where it is the
    other way round.

    Args:
        state: with exp_avg and exp_avg_sq, and exp_avg_scale beside an exp_avg of int8.
        form: of ``moment_form``, for this parameter.
        name: of the state, for messages.

    Raises:
        ValueError: a moment of another shape or dtype, or int8 without scale.
    """
    first, second = state.get(FIRST), state.get(SECOND)
    if not (isinstance(first, Tensor) and isinstance(second, Tensor)) or _fit(state, form):
        return state
    scale = _checked_scale(state, parameter, name)
    made: dict[str, Tensor] = {}
    shape, dtype = form[FIRST]
    if scale is None and dtype != torch.int8:
        made[FIRST] = fit(first, shape, dtype, parameter, f"{name} {FIRST}")
    else:
        if first.shape != torch.Size(shape):
            raise ValueError(f"{name} {FIRST} has shape {list(first.shape)}; expected {list(shape)}")
        made[FIRST] = empty_state(shape, dtype, parameter)
        if dtype == torch.int8:
            made[SCALE] = empty_state(*form[SCALE], parameter)
        for part in _parts(parameter):
            values = first[part].to(parameter.device, torch.float32)
            if scale is not None:
                values = values * _beside(scale[part].to(parameter.device), values)
            if dtype == torch.int8:
                values, made[SCALE][part] = _codes(values)
            made[FIRST][part] = values
    shape, dtype = form[SECOND]
    if second.shape == torch.Size(shape[:1]) != torch.Size(shape):
        second = _beside(second, parameter).expand(tuple(shape))
    elif second.shape == parameter.shape and len(shape) == 1 < second.dim():
        second = torch.cat([second[part].to(dtype).flatten(1).mean(1) for part in _parts(parameter)])
    made[SECOND] = fit(second, shape, dtype, parameter, f"{name} {SECOND}")
    return {**{key: value for key, value in state.items() if key not in NAMES}, **made}


def _fit(state: dict[str, Any], form: Form) -> bool:
    """Whether moments have a form already."""
    return all(
        value is None if name not in form else value is not None and (value.shape, value.dtype) == form[name]
        for name, value in ((name, state.get(name)) for name in NAMES)
    )


def _checked_scale(state: dict[str, Any], parameter: Tensor, name: str) -> Tensor | None:
    """The scale of a first moment in int8; None for one in floating point."""
    first, scale = state[FIRST], state.get(SCALE)
    if first.is_floating_point() or first.is_complex():
        return None
    if first.dtype != torch.int8:
        raise ValueError(f"{name} {FIRST} is {first.dtype}; expected floating point, or torch.int8 with {SCALE}")
    if not isinstance(scale, Tensor):
        raise ValueError(f"{name} {FIRST} is torch.int8 without {SCALE}; expected that, of shape [{len(first)}]")
    if scale.shape != parameter.shape[:1]:
        raise ValueError(f"{name} {SCALE} has shape {list(scale.shape)}; expected {list(parameter.shape[:1])}")
    return scale.to(torch.float32)


def _codes(values: Tensor) -> tuple[Tensor, Tensor]:
    """float32 rows as codes in [-127, 127] and scales [H]; the scale is NaN where a number is not finite."""
    rows = values.abs().unsqueeze(-1).flatten(1)
    largest = rows.amax(1) if rows.numel() else rows.new_zeros(len(rows))
    scale = torch.where(largest.isfinite(), largest / 127, torch.nan)
    codes = (values / _beside(scale, values)).nan_to_num(0.0, 0.0, 0.0).round()
    return codes, scale


def _beside(by_row: Tensor, values: Tensor) -> Tensor:
    """[H] as [H, 1, ...], to be multiplied with rows."""
    return by_row.view(-1, *[1] * (values.dim() - 1))


def _parts(parameter: Tensor) -> Iterator[slice]:
    """Ranges of rows, so that copies in float32 stay small."""
    rows = max(1, _CHUNK // max(1, parameter[:1].numel()))
    for begin in range(0, max(1, len(parameter)), rows):
        yield slice(begin, begin + rows)
