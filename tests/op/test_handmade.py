"""Cases small enough to compute by hand."""

from __future__ import annotations

import pytest
import torch

from resemb_ext import functional, reference

#  item 0: padding, no edges; item 1: 2 and 3 with 0.5; item 2: 1 with 2; item 3: nothing
INDPTR = torch.tensor([0, 0, 2, 3, 3])
NEIGHBORS = torch.tensor([2, 3, 1])
WEIGHTS = torch.tensor([0.5, 0.5, 2.0])
CENTRAL = torch.tensor([[9.0, 9.0], [1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
RESIDUAL = torch.tensor([[9.0, 9.0], [0.1, 0.2], [0.0, 0.0], [-1.0, 1.0]])
ARGS = (CENTRAL, RESIDUAL, INDPTR, NEIGHBORS, WEIGHTS)
TABLE = torch.tensor([[0.0, 0.0], [4.1, 5.2], [2.0, 4.0], [-1.0, 1.0]])


@pytest.mark.parametrize("functions", [functional, reference], ids=["operator", "reference"])
def test_lookup(functions) -> None:
    ids = torch.tensor([[1, 0], [2, 3]])
    out = functions.res_embedding(ids, *ARGS, padding_idx=0)
    torch.testing.assert_close(out, TABLE[ids])


@pytest.mark.parametrize("functions", [functional, reference], ids=["operator", "reference"])
def test_bag(functions) -> None:
    ids, offsets = torch.tensor([1, 0, 2, 0, 3]), torch.tensor([0, 3, 3, 4])
    bags = functions.res_embedding_bag(ids, offsets, *ARGS, mode="mean", padding_idx=0)
    expected = torch.stack([(TABLE[1] + TABLE[2]) / 2, TABLE[0], TABLE[0], TABLE[3]])
    torch.testing.assert_close(bags, expected)
    weights = torch.tensor([1.0, 7.0, 3.0, 7.0, 2.0])
    bags = functions.res_embedding_bag(ids, offsets, *ARGS, mode="mean", padding_idx=0, per_sample_weights=weights)
    expected[0] = (TABLE[1] + 3 * TABLE[2]) / 4
    torch.testing.assert_close(bags, expected)


@pytest.mark.parametrize(
    "sparse",
    [
        pytest.param(False, marks=pytest.mark.operators("res_embedding", "res_embedding_backward")),
        pytest.param(True, marks=pytest.mark.operators("res_embedding_backward_rows")),
    ],
)
def test_gradients(sparse: bool) -> None:
    central, residual = CENTRAL.clone().requires_grad_(), RESIDUAL.clone().requires_grad_()
    weights = WEIGHTS.clone().requires_grad_()
    ids = torch.tensor([1, 2, 1, 0])
    out = functional.res_embedding(ids, central, residual, INDPTR, NEIGHBORS, weights, padding_idx=0, sparse=sparse)
    out.backward(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [100.0, 100.0]]))
    g1, g2 = torch.tensor([2.0, 1.0]), torch.tensor([0.0, 1.0])
    zero = torch.zeros(2)
    torch.testing.assert_close(residual.grad.to_dense(), torch.stack([zero, g1, g2, zero]))
    torch.testing.assert_close(central.grad.to_dense(), torch.stack([zero, 2 * g2, 0.5 * g1, 0.5 * g1]))
    expected = torch.tensor([g1 @ CENTRAL[2], g1 @ CENTRAL[3], g2 @ CENTRAL[1]])
    torch.testing.assert_close(weights.grad.to_dense(), expected)
    if sparse:
        assert residual.grad._indices().tolist() == [[1, 2]]
        assert central.grad._indices().tolist() == [[1, 2, 3]]


def test_fixed_length_bags_equal_offsets() -> None:
    ids = torch.tensor([[1, 2], [3, 0], [1, 1]])
    whole = functional.res_embedding_bag(ids, None, *ARGS, mode="sum", padding_idx=0)
    torch.testing.assert_close(whole, TABLE[ids].sum(1))
    last = functional.res_embedding_bag(
        ids.reshape(-1), torch.tensor([0, 2, 4, 6]), *ARGS, mode="sum", padding_idx=0, include_last_offset=True
    )
    torch.testing.assert_close(last, whole)


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_bag_equals_embedding_bag_without_graph(mode: str) -> None:
    table = torch.randn(7, 5)
    plain = torch.nn.EmbeddingBag(7, 5, mode=mode, padding_idx=2, _weight=table)
    ids, offsets = torch.tensor([1, 2, 2, 6, 0, 0, 2]), torch.tensor([0, 0, 3, 6])
    out = functional.res_embedding_bag(
        ids,
        offsets,
        torch.zeros(7, 5),
        table,
        torch.zeros(8, dtype=torch.long),
        torch.empty(0, dtype=torch.int32),
        torch.empty(0),
        mode=mode,
        padding_idx=2,
    )
    torch.testing.assert_close(out, plain(ids, offsets))


def test_non_contiguous_inputs() -> None:
    ids = torch.tensor([[1, 9, 2], [3, 9, 1]])[:, ::2]
    central = CENTRAL.t().contiguous().t()
    assert not central.is_contiguous()
    out = functional.res_embedding(ids, central, RESIDUAL, INDPTR, NEIGHBORS, WEIGHTS)
    torch.testing.assert_close(out, functional.res_embedding(ids.contiguous(), *ARGS))
    leaf = CENTRAL.clone().requires_grad_()
    out = functional.res_embedding(torch.tensor([1, 2]), leaf, RESIDUAL, *ARGS[2:])
    out.backward(torch.ones(1, 1).expand(2, 2))
    torch.testing.assert_close(leaf.grad, torch.tensor([[0.0, 0], [2, 2], [0.5, 0.5], [0.5, 0.5]]))


@pytest.mark.parametrize("wanted", ["central", "residual", "neither"])
@pytest.mark.parametrize("sparse", [False, True])
def test_requires_grad_of_each_table(wanted: str, sparse: bool) -> None:
    central = CENTRAL.clone().requires_grad_(wanted == "central")
    residual = RESIDUAL.clone().requires_grad_(wanted == "residual")
    out = functional.res_embedding(torch.tensor([1, 2]), central, residual, INDPTR, NEIGHBORS, WEIGHTS, sparse=sparse)
    assert out.requires_grad == (wanted != "neither")
    if wanted == "neither":
        return
    out.sum().backward()
    assert (central.grad is not None) == (wanted == "central")
    assert (residual.grad is not None) == (wanted == "residual")


def test_sparse_gradients_share_no_memory() -> None:
    """DDP divides gradients in place: a shared buffer would be divided twice."""
    central, residual = CENTRAL.clone().requires_grad_(), RESIDUAL.clone().requires_grad_()
    ids = torch.tensor([3])  # no neighbours but the residual's row
    indptr = torch.tensor([0, 1, 2, 3, 4])
    out = functional.res_embedding(
        ids, central, residual, indptr, torch.tensor([0, 1, 2, 3]), torch.ones(4), sparse=True
    )
    out.sum().backward()
    assert central.grad._values().data_ptr() != residual.grad._values().data_ptr()
