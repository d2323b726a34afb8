"""gradcheck, gradgradcheck and opcheck."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from resemb_ext import _bags, functional, reference
from resemb_ext.testing import Problem, make_problem

NAMES = ("central", "residual", "weights", "per_sample_weights")


class _Densify(torch.autograd.Function):
    """Identity whose backward makes a sparse gradient dense: gradcheck takes no sparse ones."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad.to_dense() if grad.is_sparse else grad


def problem(bags: int | None, mode: str = "sum", samples: bool = False, seed: int = 0) -> Problem:
    return make_problem(
        num_items=6,
        dim=3,
        positions=8,
        neighbors=2,
        vary=True,
        padding_idx=1,
        padding_share=0.2,
        bags=bags,
        mode=mode,
        sample_weights=samples,
        dtype=torch.float64,
        weights_dtype=torch.float64,
        seed=seed,
    )


CASES = [(None, "sum", False), (3, "sum", False), (3, "mean", False), (3, "sum", True), (3, "mean", True)]


def as_function(p: Problem, functions=functional, densify: bool = False, **options):
    names = [n for n in NAMES if getattr(p, n) is not None]

    def run(*leaves):
        if densify:
            leaves = [_Densify.apply(x) for x in leaves]
        return p.with_tensors(**dict(zip(names, leaves, strict=True))).call(functions, **options)

    return run, tuple(getattr(p, n).clone().requires_grad_() for n in names)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("sparse", [False, True])
def test_gradcheck(case, sparse: bool) -> None:
    run, leaves = as_function(problem(*case), densify=sparse, sparse=sparse)
    assert gradcheck(run, leaves)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradgradcheck(case) -> None:
    run, leaves = as_function(problem(*case))
    assert gradgradcheck(run, leaves)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_twin_gradcheck(case) -> None:
    run, leaves = as_function(problem(*case), reference)
    assert gradcheck(run, leaves)


def test_sums_by_bag_as_cuda_makes_them() -> None:
    """Those of a weighted mean, there made by a lookup: values, both derivatives, positions behind the bags."""
    samples = torch.randn(9, dtype=torch.float64, requires_grad=True)
    bounds = torch.tensor([0, 4, 4, 9])
    expected = torch.stack([samples[:4].sum(), samples[:0].sum(), samples[4:].sum()])
    torch.testing.assert_close(_bags.bag_sums(samples, bounds)[:3], expected)
    assert _bags.bag_sums(samples, bounds).shape == (4,)
    assert _bags.bag_sums(samples[:0], torch.tensor([0])).shape == (1,)

    def function(x: torch.Tensor) -> torch.Tensor:
        return _bags.bag_sums(x.square(), bounds)

    assert gradcheck(function, samples) and gradgradcheck(function, samples)


def test_double_backward_of_sparse_gradients_is_refused() -> None:
    run, leaves = as_function(problem(None), sparse=True)
    (gradient,) = torch.autograd.grad(run(*leaves).pow(2).sum(), leaves[0], create_graph=True)
    with pytest.raises(RuntimeError, match="sparse=False"):
        torch.autograd.grad(gradient.to_dense().sum(), leaves[0])


def op_arguments(p: Problem, sparse: bool) -> tuple:
    bounds = None
    if p.offsets is not None:
        bounds = torch.cat([p.offsets, torch.tensor([p.ids.shape[0]])])
    return (
        p.ids,
        p.central,
        p.residual,
        *p.graph,
        bounds,
        p.per_sample_weights,
        p.padding_idx,
        p.mode == "mean",
        None,
        sparse,
    )


@pytest.mark.parametrize("case", CASES[:4], ids=str)
@pytest.mark.parametrize("sparse", [False, True])
def test_opcheck_forward(case, sparse: bool) -> None:
    p = problem(*case)
    leaves = {n: getattr(p, n).requires_grad_() for n in NAMES if getattr(p, n) is not None}
    utilities = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if not sparse:
        # With sparse gradients test_aot_dispatch_dynamic compares .grad by strides, which COO tensors
        # do not have; tests/op/test_compile.py trains under compile with them instead.
        utilities.append("test_aot_dispatch_dynamic")
    torch.library.opcheck(
        torch.ops.resemb_ext.res_embedding.default, op_arguments(p.with_tensors(**leaves), sparse), test_utils=utilities
    )


@pytest.mark.parametrize("case", CASES[:4], ids=str)
@pytest.mark.parametrize("rows", [False, True])
def test_opcheck_backward(case, rows: bool) -> None:
    p = problem(*case)
    arguments = op_arguments(p, False)
    out, plan = torch.ops.resemb_ext.res_embedding(*arguments)
    needs = (True, True, True, p.per_sample_weights is not None)
    tables = (p.central, p.residual, *p.graph, arguments[6], p.per_sample_weights)
    grad = torch.randn_like(out)
    if rows:
        operator = torch.ops.resemb_ext.res_embedding_backward_rows.default
        inputs = (grad, plan, *tables, p.mode == "mean", torch.float64, *needs)
    else:
        operator = torch.ops.resemb_ext.res_embedding_backward.default
        inputs = (grad.requires_grad_(), p.ids, plan, *tables, p.padding_idx, p.mode == "mean", torch.float64, *needs)
    torch.library.opcheck(operator, inputs)
