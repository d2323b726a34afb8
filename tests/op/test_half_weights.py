"""Link weights in float16: the numbers of float32 weights that hold the same, to the bit; what is refused."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext import functional
from resemb_ext.testing import make_problem
from resemb_ext.testing.attention import make_attention
from resemb_ext.testing.strategies import examples

TABLES = (torch.float32, torch.float64, torch.bfloat16)


def every_half() -> torch.Tensor:
    bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
    halves = bits.view(torch.float16)
    return halves[halves.isfinite()]


@pytest.mark.parametrize("degree", [1, 7, 8, 9, 31, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("flush", [False, True])
def test_every_number_is_converted_exactly(isa: str, degree: int, dtype: torch.dtype, flush: bool) -> None:
    """Of a row's edges one at a time counts: in forward by its table's row, in backward by its gradient."""
    weights = every_half()
    rows = len(weights) // degree
    weights = weights[: rows * degree].contiguous()
    indptr = torch.arange(rows + 1) * degree
    neighbors = torch.arange(degree, dtype=torch.int32).repeat(rows)
    ids = torch.arange(rows)
    height = max(rows, degree)
    indptr = torch.cat([indptr, indptr.new_full((height - rows,), len(weights))])
    residual = torch.zeros(height, 1, dtype=dtype)
    expected = weights.to(dtype).reshape(rows, degree)
    torch.set_flush_denormal(flush)
    try:
        for k in {0, degree // 2, degree - 1}:
            central = torch.zeros(height, 1, dtype=dtype)
            central[k] = 1
            central.requires_grad_()
            out = functional.res_embedding(ids, central, residual, indptr, neighbors, weights)
            assert torch.equal(out[:, 0], expected[:, k])
        if degree == 31:
            some = ids[::97]
            for i in some.tolist():
                out = functional.res_embedding(torch.tensor([i]), central, residual, indptr, neighbors, weights)
                (found,) = torch.autograd.grad(out.sum(), central)
                assert torch.equal(found[:degree, 0], expected[i])
    finally:
        torch.set_flush_denormal(False)


@examples(25)
@given(
    st.sampled_from(TABLES),
    st.sampled_from([1, 9, 64]),
    st.integers(0, 40),
    st.none() | st.integers(1, 9),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_the_bits_are_those_of_the_same_weights_in_float32(
    isa: str, dtype: torch.dtype, dim: int, degree: int, bags: int | None, sparse: bool, seed: int
) -> None:
    problem = make_problem(
        num_items=70,
        dim=dim,
        positions=90,
        neighbors=degree,
        vary=True,
        padding_idx=0,
        bags=bags,
        dtype=dtype,
        seed=seed,
    )
    results = []
    half = problem.weights.half()
    for weights in (half, half.float()):
        p = problem.with_tensors(
            weights=weights,
            central=problem.central.clone().requires_grad_(),
            residual=problem.residual.clone().requires_grad_(),
        )
        out = p.call(functional, sparse=sparse)
        gradients = torch.autograd.grad(out.double().square().sum(), [p.central, p.residual])
        results.append([out, *(g.to_dense() for g in gradients)])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", TABLES, ids=str)
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_attention_likewise(isa: str, dtype: torch.dtype, heads: int, dropout: float) -> None:
    problem = make_attention(
        num_items=80, dim=8 * heads, heads=heads, positions=70, neighbors=11, dropout=dropout, dtype=dtype
    )
    half = problem.log_weights.half()
    results = []
    for logs in (half, half.float()):
        p = dataclasses.replace(copy.deepcopy(problem), log_weights=logs)
        leaves = [p.central, p.residual, p.a_src, p.a_dst, p.b]
        for leaf in leaves:
            leaf.requires_grad_()
        out = p.call(functional)
        results.append([out, *torch.autograd.grad(out.double().square().sum(), leaves)])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def half_problem(**options):
    return make_problem(num_items=30, dim=4, positions=20, neighbors=5, weights_dtype=torch.float16, **options)


def test_gradients_and_opcheck() -> None:
    p = half_problem(dtype=torch.float64)

    def look_up(central: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return functional.res_embedding(p.ids, central, residual, *p.graph)

    tables = [p.central.requires_grad_(), p.residual.requires_grad_()]
    assert torch.autograd.gradcheck(look_up, tables)
    assert torch.autograd.gradgradcheck(look_up, tables)
    arguments = (p.ids, *tables, *p.graph, None, None, -1, False, None, False)
    torch.library.opcheck(torch.ops.resemb_ext.res_embedding.default, arguments)


@pytest.mark.parametrize("sparse", [False, True])
def test_they_take_no_gradient(sparse: bool) -> None:
    p = half_problem()
    with pytest.raises(ValueError, match="no gradient of link weights in float16; expected float32 or float64"):
        p.with_tensors(weights=p.weights.requires_grad_()).call(functional, sparse=sparse).sum().backward()
    p.weights.requires_grad_(False)
    with pytest.raises(ValueError, match="no gradient of link weights in float16"):
        torch.func.jvp(
            lambda w: p.with_tensors(weights=w).call(functional), (p.weights,), (torch.ones_like(p.weights),)
        )
    plan = torch.ops.resemb_ext.res_embedding(
        p.ids, p.central, p.residual, *p.graph, None, None, -1, False, None, False
    )[1]
    with pytest.raises(ValueError, match="no gradient of link weights in float16"):
        torch.ops.resemb_ext.res_embedding_backward(
            torch.ones(20, 4), p.ids, plan, p.central, None, *p.graph, None, None, -1, False, torch.float32,
            False, False, True, False,
        )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int32, torch.float8_e4m3fn], ids=str)
def test_other_dtypes_are_named(dtype: torch.dtype) -> None:
    p = half_problem()
    with pytest.raises(ValueError, match="weights: expected dtype float32, float64 or float16, found"):
        p.with_tensors(weights=p.weights.to(dtype)).call(functional)
