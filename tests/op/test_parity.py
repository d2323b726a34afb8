"""Operators against the reference in float64: hypothesis over shapes and dtypes, and chosen corners."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext.testing import Problem, check_problem, make_problem
from resemb_ext.testing.strategies import DIMS, DTYPES, examples, problems


@examples(60)
@given(problems(), st.booleans(), st.integers(0, 2**31), st.sampled_from([1, 2, 3]))
def test_any_problem(isa: str, problem: Problem, sparse: bool, seed: int, threads: int) -> None:
    torch.set_num_threads(threads)
    check_problem(problem, sparse=sparse, seed=seed)


@pytest.mark.one_in(5)
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_width(isa: str, dim: int, dtype: torch.dtype) -> None:
    problem = make_problem(
        num_items=60, dim=dim, positions=200, neighbors=6, vary=True, padding_idx=3, padding_share=0.2, dtype=dtype
    )
    check_problem(problem)


@pytest.mark.one_in(7)
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("bags", [None, 3])
@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize(
    "sums",
    [
        {"positions": 70_000, "neighbors": 3, "id_exponent": 2.0, "neighbor_exponent": 2.0},
        {"positions": 900, "neighbors": 700, "id_exponent": 0.0, "neighbor_exponent": 0.0},
    ],
    ids=["over positions", "over edges"],
)
def test_long_sums(isa: str, sums: dict, mode: str, bags: int | None, sparse: bool) -> None:
    """Longer than a chunk of 256 terms: of ids and bags (chunks of chunks), rows and neighbours."""
    problem = make_problem(num_items=900, dim=9, bags=bags, mode=mode, dtype=torch.float64, **sums)
    check_problem(problem, sparse=sparse)


@pytest.mark.parametrize(
    ("dtype", "out_dtype"),
    [(torch.float32, torch.bfloat16), (torch.float32, torch.float16), (torch.bfloat16, torch.float32)],
)
@pytest.mark.parametrize("bags", [None, 7])
def test_out_dtype(isa: str, dtype: torch.dtype, out_dtype: torch.dtype, bags: int | None) -> None:
    problem = make_problem(num_items=50, dim=33, positions=300, neighbors=5, bags=bags, dtype=dtype)
    check_problem(problem, out_dtype=out_dtype)
    check_problem(problem, out_dtype=out_dtype, sparse=True)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    "corner",
    [
        {"positions": 0},
        {"positions": 0, "bags": 4},
        {"padding_idx": 0, "padding_share": 1.0},
        {"padding_idx": -1, "padding_share": 0.5, "bags": 5, "mode": "mean"},
        {"neighbors": 0},
        {"num_items": 1},
    ],
    ids=str,
)
def test_corners(corner: dict, sparse: bool) -> None:
    problem = make_problem(**{"num_items": 9, "dim": 5, "positions": 30, "neighbors": 3, **corner})
    check_problem(problem, sparse=sparse)


@pytest.mark.full
def test_output_past_cache_size(isa: str) -> None:
    """Large outputs are written past the cache: another store instruction."""
    check_problem(make_problem(num_items=5000, dim=64, positions=70_000, neighbors=4))


@pytest.mark.slow
def test_tables_above_two_to_the_31_elements() -> None:
    num_items, dim = 600_000, 4096
    central, residual = (torch.empty(num_items, dim, dtype=torch.bfloat16) for _ in range(2))
    ids = torch.tensor([0, 550_000, num_items - 1])
    for row in ids.tolist():
        central[row] = residual[row] = float(row % 7 + 1)
    indptr = torch.zeros(num_items + 1, dtype=torch.int64)
    indptr[num_items:] = 1  # the last row points at item 550,000
    from resemb_ext import functional

    out = functional.res_embedding(ids, central, residual, indptr, torch.tensor([550_000]), torch.tensor([2.0]))
    at = 550_000 % 7 + 1
    expected = [1.0, float(at), float((num_items - 1) % 7 + 1 + 2 * at)]
    assert out[:, 0].tolist() == expected
    assert out[:, -1].tolist() == expected
