"""The attention link on a device: parity with the reference, bits, the CPU's dropout, modules."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import resemb_ext as rx
from resemb_ext import functional
from resemb_ext.testing import make_problem
from resemb_ext.testing.attention import AttentionProblem, check_attention, make_attention, solve_attention
from resemb_ext.testing.strategies import DTYPES, attention_problems, examples

pytestmark = pytest.mark.cuda


@examples(100)
@given(attention_problems(device="cuda"), st.booleans(), st.integers(0, 2**31))
def test_any_problem(problem: AttentionProblem, sparse: bool, seed: int) -> None:
    check_attention(problem, seed, sparse=sparse)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("dim", "heads"), [(8, 1), (18, 3), (64, 4), (65, 1)])
def test_every_width(dim: int, heads: int, dtype: torch.dtype) -> None:
    problem = make_attention(
        num_items=60, dim=dim, heads=heads, positions=200, padding_idx=3, dropout=0.3, dtype=dtype, device="cuda"
    )
    check_attention(problem)


@pytest.mark.parametrize("heads", [1, 3])
def test_long_sums(heads: int) -> None:
    """Rows and items over 256 edges, items over 256 chunks."""
    check_attention(
        make_attention(
            num_items=900,
            dim=9,
            heads=heads,
            positions=900,
            neighbors=350,
            exponent=0.0,
            dtype=torch.float64,
            device="cuda",
        )
    )
    check_attention(
        make_attention(
            num_items=70_000,
            dim=3,
            heads=heads,
            positions=70_000,
            neighbors=1,
            exponent=2.5,
            dtype=torch.float64,
            device="cuda",
        )
    )


@pytest.mark.parametrize("heads", [1, 4])
def test_agrees_with_the_cpu_and_repeats(heads: int) -> None:
    problem = make_attention(
        num_items=3000, dim=32, heads=heads, positions=20_000, neighbors=15, exponent=1.4, dropout=0.4
    )
    upstream = torch.randn(20_000, 32)
    on_device = problem.to("cuda")
    first, second = (solve_attention(on_device, functional, upstream.cuda()) for _ in range(2))
    expected = solve_attention(problem, functional, upstream)
    for name, value in first.items():
        assert torch.equal(value, second[name]), f"{name}: two runs differ"
        scale = expected[name].abs().max()
        assert (value.cpu() - expected[name]).abs().max() <= 1e-3 * scale, name


def test_module_trains_and_folds() -> None:
    p = make_problem(num_items=500, dim=1, positions=900, neighbors=8)
    graph = rx.InterestGraph.from_csr(p.indptr.numpy(), p.neighbors.numpy(), p.weights.numpy())
    module = rx.ResEmbedding(graph, 16, link="attention", heads=2, sparse=True, device="cuda")
    optimizer = rx.optim.Adam(module.parameters(), lr=0.01)
    optimizer.step_in_backward(module)
    ids, losses = p.ids.cuda(), []
    for _ in range(5):
        loss = (module(ids) - 1).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    with torch.no_grad():
        torch.testing.assert_close(module.to_embedding()(ids), module(ids))


def test_rows_without_their_own_item_are_raised() -> None:
    module = make_attention(device="cuda")
    first = int(module.indptr.diff().nonzero()[0])
    neighbors = module.neighbors.clone()
    neighbors[module.indptr[first] : module.indptr[first + 1]] = (first + 1) % 40
    functional.attention_embedding(
        torch.tensor([first], device="cuda"),
        module.central,
        module.residual,
        module.indptr,
        neighbors,
        module.log_weights,
        module.a_src,
        module.a_dst,
        module.b,
    )
    torch.cuda.synchronize()
    with pytest.raises(ValueError, match=f"item {first} lacks the item itself"):
        torch.ops.resemb_ext.raise_faults(module.central)
