"""Row-sparse gradients as (rows, values), and the fused step on them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import IntEnum

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from resemb_ext import _loader
from resemb_ext import _registration as _registration  # registers the operators

_ops = torch.ops.resemb_ext


class Rule(IntEnum):
    """The update rules of csrc/common/update.h."""

    SGD = 0
    MOMENTUM = 1
    ADAGRAD = 2
    ROWWISE_ADAGRAD = 3
    ADAM = 4


class Moment(IntEnum):
    """How a moment is kept; the forms of csrc/common/update.h."""

    ACC = 0
    BF16 = 1
    I8 = 2
    ROW = 3


@dataclass(frozen=True)
class RowGradient:
    """A table's gradient: values [N, D] at ascending, distinct rows, int64 [N].

    Where the table has another number of dimensions than two, D stands for all after the first, none
    among them.
    """

    rows: Tensor
    values: Tensor


def is_table(parameter: Tensor) -> bool:
    """Whether ``update_rows`` can step a parameter: its kind alone decides, not its gradient's."""
    return (
        parameter.dim() > 0
        and parameter.layout == torch.strided
        and parameter.dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)
        and parameter.device.type in ("cpu", "cuda", "meta")
        and not is_traceable_wrapper_subclass(parameter)
    )


def require_table(parameter: Tensor, name: str) -> None:
    """
    Raises:
        ValueError: a parameter that cannot be stepped on rows.
    """
    if not is_table(parameter):
        raise ValueError(
            f"{name}: a sparse gradient for {parameter.dtype} on {parameter.device}; expected a table of float32, "
            "float64, bfloat16 or float16 on the CPU or CUDA"
        )


def whole_table(gradient: Tensor) -> RowGradient:
    """A dense gradient as one of all rows."""
    return RowGradient(torch.arange(len(gradient), device=gradient.device), gradient)


def gradient_rows(gradient: Tensor, name: str) -> RowGradient:
    """A sparse gradient as ascending rows.

    Autograd loses the coalesced flag of gradients whose rows ascend all the same, so rows are looked at,
    never the flag; repeated rows are summed in order of their appearance, in linear time.

    Args:
        gradient: COO tensor over the rows of a table [H, D], or [H], or of more dimensions.
        name: of its parameter, for messages.

    Raises:
        ValueError: sparse over more than rows, or neither on the CPU nor on CUDA.
        IndexError: a row outside the table.
    """
    if gradient.sparse_dim() != 1:
        raise ValueError(
            f"{name}: its gradient has {gradient.sparse_dim()} sparse and {gradient.dense_dim()} dense "
            "dimensions; expected rows [N] and values [N, D], as nn.Embedding(sparse=True) gives"
        )
    if gradient.device.type not in ("cpu", "cuda"):
        raise ValueError(f"{name}: its gradient is on {gradient.device}; expected the CPU or CUDA")
    rows, values = gradient._indices()[0], gradient._values()
    if _ops.rows_ascend(rows, gradient.shape[0]):
        return RowGradient(rows, values)
    rows, summed = _ops.coalesce_rows(rows, _matrix(values), gradient.shape[0])
    return RowGradient(rows, summed.view(len(rows), *values.shape[1:]))


def _matrix(rows: Tensor) -> Tensor:
    """[N, ...] as [N, D]: a view, or a copy where it is not contiguous."""
    return rows.contiguous().view(rows.shape[0], math.prod(rows.shape[1:]))


@dataclass(frozen=True)
class RowStep:
    """One step on one table: its rule, options and state. Formulas in csrc/common/update.h."""

    rule: Rule
    lr: float = 0.0
    step: int = 0
    live: Tensor | None = None  # float64 [3] on the device: lr, shrink, step in place of those here
    first: Tensor | None = None
    second: Tensor | None = None
    row_steps: Tensor | None = None
    decayed: Tensor | None = None
    first_scale: Tensor | None = None
    first_form: Moment = Moment.ACC
    second_form: Moment = Moment.ACC
    decay_now: float = 0.0
    shrink: float = 1.0
    weight_decay: float = 0.0
    beta1: float = 0.0
    beta2: float = 0.0
    eps: float = 0.0
    maximize: bool = False
    nesterov: bool = False
    random_rounding: bool = False
    seed: int = 0

    def arguments(self) -> tuple:
        """As the operators take them: five state tensors, reals, integers."""
        reals = [float(getattr(self, name)) for name in _loader.UPDATE_REALS]
        integers = [int(getattr(self, name)) for name in _loader.UPDATE_INTEGERS]
        return self.first, self.second, self.row_steps, self.decayed, self.first_scale, reals, integers


_TENSORS = {"live", "first", "second", "row_steps", "decayed", "first_scale"}


def check_names(
    rules: tuple[str, ...], moments: tuple[str, ...], reals: tuple[str, ...], integers: tuple[str, ...]
) -> None:
    """Compares the names that the compiled operators were built with to those of this module.

    Raises:
        ImportError: they differ; the build is of another version.
    """
    options = {field.name for field in fields(RowStep)} - _TENSORS
    for what, built, known in (
        ("rules", list(rules), [rule.name.lower() for rule in Rule]),
        ("moments", list(moments), [moment.name.lower() for moment in Moment]),
        ("options", sorted(reals + integers), sorted(options)),
    ):
        if built != known:
            raise ImportError(
                f"resemb_ext: its operators were built for the update {what} {built}, but its optimizers "
                f"know {known}; build it again"
            )


check_names(_loader.UPDATE_RULES, _loader.UPDATE_MOMENTS, _loader.UPDATE_REALS, _loader.UPDATE_INTEGERS)


def update_rows(table: Tensor, gradient: RowGradient, step: RowStep) -> None:
    """One step on the rows of a gradient, in place.

    The kernel takes contiguous memory. A table or state that is not is copied as a whole and back.
    """
    first, second, *rest = step.arguments()
    by_row = step.rule is Rule.ROWWISE_ADAGRAD or step.second_form is Moment.ROW
    laid = [table, first] if by_row else [table, first, second]
    used = [None if tensor is None else _matrix(tensor) for tensor in laid]
    used += [second] * (3 - len(used))
    *state, reals, integers = rest
    _ops.update_rows_(*used, *state, gradient.rows, _matrix(gradient.values), reals, integers)
    for tensor, matrix in zip(laid, used, strict=False):
        if tensor is not None and matrix is not None and not tensor.is_contiguous():
            tensor.copy_(matrix.view(tensor.shape))
    # An operator of the stable ABI does not do it: without, a stale saved table would go unnoticed.
    torch.autograd.graph.increment_version(table)
