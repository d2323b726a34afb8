"""check_problem: passes what is right, and finds one element that is slightly wrong."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from resemb_ext import functional
from resemb_ext.testing import TOLERANCE, check_problem, checks, make_problem

RESULTS = ("out", "central", "residual", "weights", "per_sample_weights")


def nudge_largest(values: Tensor, relative: float) -> Tensor:
    values = values.clone()
    values.view(-1)[values.abs().argmax()] *= 1 + relative
    return values


class NudgeGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, relative: float) -> Tensor:
        ctx.relative = relative
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return nudge_largest(gradient, ctx.relative), None


def operators_off(name: str, relative: float, functions: object = functional) -> SimpleNamespace:
    """The operators, except that the largest element of one result is off."""

    def bag(*args: object, **options: object) -> Tensor:
        bound = inspect.signature(functions.res_embedding_bag).bind(*args, **options)
        if name != "out":
            bound.arguments[name] = NudgeGradient.apply(bound.arguments[name], relative)
        out = functions.res_embedding_bag(*bound.args, **bound.kwargs)
        return nudge_largest(out, relative) if name == "out" else out

    return SimpleNamespace(res_embedding_bag=bag)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_finds_one_wrong_element(monkeypatch: pytest.MonkeyPatch, name: str, dtype: torch.dtype, mode: str) -> None:
    problem = make_problem(
        num_items=30,
        dim=9,
        positions=60,
        neighbors=4,
        bags=8,
        mode=mode,
        sample_weights=True,
        dtype=dtype,
        weights_dtype=dtype if dtype == torch.float64 else torch.float32,
    )
    check_problem(problem)
    for relative in (100 * TOLERANCE[dtype], -100 * TOLERANCE[dtype], float("nan")):
        monkeypatch.setattr(checks, "functional", operators_off(name, relative))
        with pytest.raises(AssertionError, match=f"^{name}: element"):
            check_problem(problem)


@pytest.mark.one_in(5)
@pytest.mark.parametrize("name", RESULTS)
def test_finds_one_wrong_element_among_long_sums(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The allowance for the reference's own rounding stays far below an error that matters."""
    problem = make_problem(
        num_items=30,
        dim=3,
        positions=70_000,
        neighbors=4,
        bags=3,
        id_exponent=2.0,
        sample_weights=True,
        dtype=torch.float64,
        weights_dtype=torch.float64,
    )
    check_problem(problem)
    monkeypatch.setattr(checks, "functional", operators_off(name, 1e-9))
    with pytest.raises(AssertionError, match=f"^{name}: element"):
        check_problem(problem)


def test_equal_terms_cost_the_twin_and_not_the_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    positions = 100_000
    problem = make_problem(num_items=1, dim=32, positions=positions, neighbors=0, bags=1, dtype=torch.float64)
    check_problem(problem)
    upstream, leaf = torch.randn(1, 32, dtype=torch.float64), problem.residual.requires_grad_()
    (gradient,) = torch.autograd.grad(problem.call(functional), leaf, upstream)
    torch.testing.assert_close(gradient, positions * upstream, rtol=1e-13, atol=0)
    monkeypatch.setattr(checks, "_TWIN_ROUNDING", 0.0)
    with pytest.raises(AssertionError, match=r"^residual: element"):
        check_problem(problem)


def test_alike_terms_may_cost_a_rounding_each() -> None:
    """Adding one number again and again rounds in the same direction each time."""
    problem = make_problem(num_items=1, dim=31, positions=171, neighbors=1, bags=2)
    for seed in range(10):
        check_problem(problem, seed=seed)
