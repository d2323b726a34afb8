"""Tables of 16 bits: float32 vectors, gradients summed in float32, and starts from plain tables."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import resemb_ext as rx
from resemb_ext.nn.half import HalfEmbedding
from resemb_ext.testing.strategies import examples

HALVES = (torch.bfloat16, torch.float16)


def _gradient(ids: torch.Tensor, upstream: torch.Tensor, rows: int, padding_idx: int | None) -> torch.Tensor:
    """In float64, of a table of ``rows`` rows."""
    wide = torch.nn.Embedding(rows, upstream.shape[-1], padding_idx=padding_idx, dtype=torch.float64)
    wide(ids).backward(upstream.double())
    return wide.weight.grad


@examples(50)
@given(
    st.integers(1, 40),
    st.integers(1, 70),
    st.integers(0, 500),
    st.sampled_from(HALVES),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_vectors_and_gradients(
    rows: int, dim: int, positions: int, dtype: torch.dtype, sparse: bool, padded: bool, seed: int
) -> None:
    """Vectors are the table's numbers; a gradient is the sum in float32, rounded once."""
    torch.manual_seed(seed)
    padding_idx = rows - 1 if padded else None
    table = HalfEmbedding(rows, dim, padding_idx=padding_idx, sparse=sparse, dtype=dtype)
    ids = torch.randint(rows, (positions,))
    out = table(ids)
    assert out.dtype == torch.float32
    assert torch.equal(out, table.weight.detach()[ids].float())
    upstream = torch.randn(positions, dim)
    out.backward(upstream)
    found = table.weight.grad
    assert found.is_sparse == sparse and found.dtype == dtype
    expected = _gradient(ids, upstream, rows, padding_idx)
    magnitude = _gradient(ids, upstream.abs(), rows, padding_idx)
    unit = torch.finfo(dtype).eps / 2
    error = (found.to_dense().double() - expected).abs()
    assert bool((error <= unit * expected.abs() + positions * 2.0**-24 * magnitude + 1e-7).all())
    if sparse:
        assert set(found._indices()[0].tolist()) == set(ids.tolist()) - {padding_idx}


def test_many_positions_of_one_row_count_in_full() -> None:
    """bfloat16 sums of ones stop at 256."""
    table = HalfEmbedding(3, 4, dtype=torch.bfloat16)
    table(torch.ones(5000, dtype=torch.int64)).sum().backward()
    assert table.weight.grad.tolist() == [[0.0] * 4, [4992.0] * 4, [0.0] * 4]


def test_ids_of_any_shape_and_without_gradient() -> None:
    table = HalfEmbedding(5, 4, dtype=torch.bfloat16)
    ids = torch.tensor([[1, 2], [4, 0]], dtype=torch.int32)
    assert table(ids).shape == (2, 2, 4)
    assert torch.equal(table(ids), table.requires_grad_(False)(ids))
    with torch.no_grad():
        assert not table(ids).requires_grad
    exported = torch.export.export(table, (ids.long(),)).module()
    assert torch.equal(exported(ids.long()), table(ids))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("padding", [None, 0])
def test_an_exact_start_loses_the_rounding_of_the_residual_alone(dtype: torch.dtype, padding: int | None) -> None:
    torch.manual_seed(0)
    graph = rx.InterestGraph.from_csr([0, 0, 2, 4, 5, 6], [2, 3, 1, 4, 1, 2], [3.0, 1.0, 3.0, 1.0, 1.0, 1.0])
    plain = torch.nn.Embedding(5, 16, padding_idx=padding)
    emb = rx.ResEmbedding.from_embedding(plain, graph, dtype=dtype, out_dtype=torch.float32)
    ids = torch.arange(5)
    error = (emb(ids) - plain(ids)).abs()
    assert bool((error <= emb.residual.detach().float().abs() * torch.finfo(dtype).eps / 2 + 1e-6).all())
    assert emb.central.dtype == dtype


def test_plain_forms_have_the_vectors_that_lookups_give() -> None:
    torch.manual_seed(0)
    graph = rx.InterestGraph.from_csr([0, 0, 1, 2], [2, 1], [3.0, 3.0])
    emb = rx.ResEmbedding(graph, 8, padding_idx=0, dtype=torch.bfloat16, out_dtype=torch.float32)
    folded = emb.to_embedding()
    assert folded.weight.dtype == torch.float32
    assert torch.equal(folded(torch.arange(3)), emb(torch.arange(3)))
