"""The attention link where its arithmetic is put to the test: against the reference in float64."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from resemb_ext import functional, reference
from resemb_ext.testing.attention import LEAVES
from resemb_ext.testing.attention import AttentionProblem as Problem
from resemb_ext.testing.attention import check_attention as check
from resemb_ext.testing.attention import make_attention as make
from resemb_ext.testing.attention import solve_attention as solve


def one_row(log_weights: list[float], dtype: torch.dtype = torch.float32, heads: int = 1) -> Problem:
    """Item 0 with as many neighbours, itself first; scores are the log weights."""
    count = len(log_weights)
    p = make(num_items=count, dim=8 * heads, heads=heads, positions=3, dtype=dtype)
    acc = p.log_weights.dtype
    return dataclasses.replace(
        p,
        ids=torch.zeros(3, dtype=torch.int64),
        indptr=torch.tensor([0] + [count] * count),
        neighbors=torch.arange(count, dtype=torch.int32),
        log_weights=torch.tensor(log_weights, dtype=acc),
        a_src=torch.zeros(8 * heads, dtype=acc),
        a_dst=torch.zeros(8 * heads, dtype=acc),
        b=torch.ones(heads, dtype=acc),
    )


@pytest.mark.one_in(3)
@pytest.mark.parametrize("heads", [1, 2, 4, 5])
@pytest.mark.parametrize("far", [80.0, 86.9, 87.1, 88.0, 103.0, 1e4, 1e30])
def test_scores_far_below_the_largest(isa: str, heads: int, far: float) -> None:
    """Down to the last that exp holds, and below it: no NaN, no gradient lost that is not tiny."""
    check(one_row([0.0, -far, -1.0, -far / 2], heads=heads))
    check(one_row([-far] * 9 + [0.0], heads=heads))
    if far < 1000:  # the gradient of b is a difference of numbers as large
        check(one_row([far, far, far - 1], heads=heads))


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("scale", [1e4, 1e18, 1e30])
def test_the_largest_score_takes_all(isa: str, heads: int, scale: float) -> None:
    p = make(num_items=60, dim=8 * heads, heads=heads, positions=60, neighbors=6, seed=3)
    p = dataclasses.replace(p, a_src=torch.zeros(8 * heads), a_dst=p.a_dst * scale)
    upstream = torch.randn(60, 8 * heads)
    found = solve(p, functional, upstream)
    expected = solve(p, reference, upstream, torch.float64)
    torch.testing.assert_close(found["out"].double(), expected["out"], rtol=1e-5, atol=1e-5)
    assert all(found[n].isfinite().all() for n in LEAVES if n in found)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("dim", "heads"), [(32, 1), (32, 4), (18, 1), (18, 3), (12, 12)])
def test_half_tables_round_once(isa: str, dtype: torch.dtype, dim: int, heads: int) -> None:
    """Rows of hundreds of neighbours are summed in float: the output is off by its own rounding alone."""
    p = make(num_items=700, dim=dim, heads=heads, positions=100, neighbors=300, dtype=dtype)
    found = p.call(functional).double()
    expected = p.leaves(torch.float64)[0].call(reference).detach()
    step = torch.finfo(dtype).eps * expected.abs() / 2
    assert bool(((found - expected).abs() <= step + 1e-4).all())


@pytest.mark.one_in(7)
@pytest.mark.parametrize("heads", [1, 2, 3, 4, 6, 8, 9, 12, 16, 24])
@pytest.mark.parametrize("width", [1, 4, 8, 12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_numbers_of_heads(isa: str, heads: int, width: int, dtype: torch.dtype) -> None:
    dropout = 0.3 if width == 4 else 0.0
    check(make(dim=heads * width, heads=heads, dtype=dtype, dropout=dropout), sparse=width > 4)


@pytest.mark.parametrize("heads", [1, 3, 8])
def test_dropout_of_nearly_all(isa: str, heads: int) -> None:
    """Most rows keep no edge: their residual is left, and no gradient but its own."""
    p = make(dim=8 * heads, heads=heads, dropout=0.97, neighbors=4)
    check(p)
    check(dataclasses.replace(p, dropout=1e-12))
    kept = reference.kept_edges(torch.tensor([2**40 + 17]), *edges_of(p), heads, p.dropout).any(1)
    row, _ = edges_of(p)
    bare = ~torch.zeros(40, dtype=torch.bool).index_put((row[kept],), torch.tensor(True))
    ids = torch.arange(40)[bare]
    assert 20 < len(ids) <= 40
    found = dataclasses.replace(p, ids=ids).call(functional)
    assert torch.equal(found, p.residual[ids])


def edges_of(p: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and numbers of all edges."""
    row = torch.repeat_interleave(torch.arange(p.indptr.shape[0] - 1), p.indptr.diff())
    return row, torch.arange(p.neighbors.shape[0])


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("heads", [1, 2])
def test_nothing_to_attend_to(isa: str, sparse: bool, heads: int) -> None:
    """No edges at all; no ids; ids that are padding."""
    p = make(heads=heads, padding_idx=7)
    empty = dataclasses.replace(
        p, indptr=torch.zeros(41, dtype=torch.int64), neighbors=p.neighbors[:0], log_weights=p.log_weights[:0]
    )
    check(empty, sparse=sparse)
    for ids in (p.ids[:0], torch.full((3,), 7)):
        alone = dataclasses.replace(p, ids=ids)
        found = solve(alone, functional, torch.ones(len(ids), 6), sparse=sparse)
        assert not any(t.any() for t in found.values())


def test_a_neighbour_met_twice_counts_twice(isa: str) -> None:
    p = one_row([0.3, -0.2, 0.5, 0.1])
    check(dataclasses.replace(p, neighbors=torch.tensor([0, 2, 2, 0], dtype=torch.int32)))
