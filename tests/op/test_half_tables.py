"""Tables of bfloat16 and float16: their numbers are float32's, and an output is rounded once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from resemb_ext import functional
from resemb_ext.testing import Problem, make_problem
from resemb_ext.testing.strategies import DIMS, examples, problems

HALVES = (torch.bfloat16, torch.float16)


def _look_up(problem: Problem, tables: list[Tensor], **options: Any) -> Tensor:
    central, residual = tables
    return problem.with_tensors(central=central, residual=residual).call(functional, **options)


def _check_rounded_once(problem: Problem, dtype: torch.dtype, out_dtype: torch.dtype, seed: int = 0) -> None:
    """Output and gradients of tables of ``dtype`` are those of float32 tables with their numbers, rounded."""
    halves = [table.detach().to(dtype) for table in (problem.central, problem.residual)]
    found, expected = [], []
    for tables, own, into in ((halves, found, out_dtype), ([t.float() for t in halves], expected, torch.float32)):
        leaves = [table.requires_grad_() for table in tables]
        out = _look_up(problem, leaves, out_dtype=into)
        generator = torch.Generator().manual_seed(seed)
        upstream = torch.randn(out.shape, generator=generator).to(out_dtype).to(into)
        gradients = torch.autograd.grad(out, leaves, upstream)
        own += [out.detach(), *gradients]
    assert torch.equal(found[0], expected[0].to(out_dtype))
    for ours, reference in zip(found[1:], expected[1:], strict=True):
        assert torch.equal(ours, reference.to(dtype))


@pytest.mark.one_in(4)
@pytest.mark.parametrize("dim", [*DIMS, 40, 48, 72, 96, 136])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_every_width_rounds_once(isa: str, dim: int, dtype: torch.dtype) -> None:
    problem = make_problem(num_items=60, dim=dim, positions=150, neighbors=6, vary=True, padding_idx=3)
    for out_dtype in (dtype, torch.float32, *HALVES):
        _check_rounded_once(problem, dtype, out_dtype)


@examples(40)
@given(problems(), st.sampled_from(HALVES), st.booleans(), st.integers(0, 2**31), st.sampled_from([1, 2, 3]))
def test_any_problem_rounds_once(
    isa: str, problem: Problem, dtype: torch.dtype, half_output: bool, seed: int, threads: int
) -> None:
    torch.set_num_threads(threads)
    if problem.central.dtype != torch.float64:
        _check_rounded_once(problem, dtype, dtype if half_output else torch.float32, seed)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("dim", [16, 23, 48])
def test_extreme_numbers(isa: str, dtype: torch.dtype, dim: int) -> None:
    """NaN, infinities, subnormal numbers and ties come through as torch rounds them."""
    info = torch.finfo(dtype)
    values = [float("nan"), float("inf"), -float("inf"), info.max, info.min, info.smallest_normal, info.eps, -0.0]
    values += [info.smallest_normal / 4, 1 + info.eps, 1 + 2 * info.eps, 3.0]
    row = torch.tensor(values).repeat(dim)[:dim]
    central = torch.stack([row.roll(k) for k in range(4)]).to(dtype)
    residual = torch.stack([torch.zeros(dim), row.roll(5), torch.full((dim,), info.eps / 2), row]).to(dtype)
    indptr, neighbors = torch.tensor([0, 1, 2, 3, 5]), torch.tensor([0, 1, 2, 3, 0])
    weights = torch.tensor([1.0, 0.5, 1.0, 0.25, 1.0])
    ids = torch.arange(4)
    found = functional.res_embedding(ids, central, residual, indptr, neighbors, weights)
    wide = functional.res_embedding(ids, central.float(), residual.float(), indptr, neighbors, weights)
    torch.testing.assert_close(found, wide.to(dtype), rtol=0, atol=0, equal_nan=True)
    expected = torch.stack([central[0].float(), 0.5 * central[1].float(), central[2].float()])
    expected = (expected + residual[:3].float()).to(dtype)
    torch.testing.assert_close(found[:3], expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.full
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("dim", [64, 72, 56])
def test_outputs_past_cache_size(isa: str, dtype: torch.dtype, dim: int) -> None:
    """Outputs written past the cache are those of small batches; 56 columns lie on no whole vectors."""
    problem = make_problem(num_items=5000, dim=dim, positions=(20 << 20) // (2 * dim), neighbors=4)
    tables = [table.detach().to(dtype) for table in (problem.central, problem.residual)]
    out = _look_up(problem, tables)
    pieces = [_look_up(problem.with_tensors(ids=part), tables) for part in problem.ids.split(5000)]
    assert torch.equal(out, torch.cat(pieces))
