"""Tables smoothed over the graph after training, against dense NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import resemb_ext as rx
from resemb_ext.testing.strategies import examples

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def drawn_graph(rng: np.random.Generator, items: int) -> tuple[rx.InterestGraph, np.ndarray]:
    """A raw graph, some of whose rows are empty, and its weights as a dense matrix."""
    dense = rng.random((items, items)).astype(np.float32) * (rng.random((items, items)) < 0.3)
    dense[rng.random(items) < 0.2] = 0
    rows, columns = dense.nonzero()
    indptr = np.r_[0, np.cumsum(np.bincount(rows, minlength=items))]
    return rx.InterestGraph.from_csr(indptr, columns, dense[rows, columns]), dense.astype(np.float64)


def expected_table(table: np.ndarray, dense: np.ndarray, counts: np.ndarray, strength: float) -> np.ndarray:
    """The formula, row by row. A raw row keeps itself with its largest weight, or 1 where it has none."""
    out = table.copy()
    for i, row in enumerate(dense):
        weights = row.copy()
        if weights[i] == 0:
            weights[i] = weights.max() or 1.0
        gate = strength / (strength + counts[i]) if strength else 0.0
        out[i] = (1 - gate) * table[i] + gate * (weights / weights.sum()) @ table
    return out


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.5, 3.0, 1000.0]), st.sampled_from(DTYPES))
@examples(40)
def test_the_formula(seed: int, strength: float, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(seed)
    items, dim = int(rng.integers(1, 12)), int(rng.integers(1, 20))
    graph, dense = drawn_graph(rng, items)
    counts = rng.integers(0, 9, items) * (rng.random(items) < 0.7)
    table = torch.from_numpy(rng.normal(size=(items, dim))).to(dtype)
    found = rx.Smoothing(graph, counts, strength).table(table)
    assert found.dtype == dtype and found.shape == table.shape
    close = {torch.float64: 1e-6, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}[dtype]
    expected = expected_table(table.double().numpy(), dense, counts, strength)
    np.testing.assert_allclose(found.double().numpy(), expected, rtol=close, atol=close)
    if strength == 0:
        assert torch.equal(found, table)


def test_given_weights_are_divided_by_their_sums() -> None:
    graph = rx.InterestGraph.from_csr([0, 2, 2, 3], [0, 1, 2], [1.0, 3.0, 5.0]).with_link("given")
    table = torch.tensor([[1.0], [2.0], [4.0]])
    smoothed = rx.Smoothing(graph, [0, 0, 0], 1).table(table)
    # Row 1 has no weights, so it stays.
    assert smoothed.tolist() == [[0.25 * 1 + 0.75 * 2], [2.0], [4.0]]


def embedding() -> rx.ResEmbedding:
    torch.manual_seed(0)
    graph = rx.InterestGraph.from_csr([0, 0, 1, 2, 2], [2, 1], [1.0, 1.0])
    return rx.ResEmbedding(graph, 6, padding_idx=0, sparse=True)


def test_embeddings_of_both_kinds() -> None:
    emb = embedding()
    plain = emb.to_embedding()
    smoothing = rx.Smoothing(emb.graph, [0, 1, 0, 5], 2)
    folded, smoothed = smoothing.embedding(emb.eval()), smoothing.embedding(plain)
    assert type(folded) is nn.Embedding and torch.equal(folded.weight, smoothed.weight)
    assert folded.padding_idx == 0 and folded.sparse and not folded.weight.requires_grad and not folded.training
    assert not folded.weight[0].any()
    torch.testing.assert_close(folded.weight[3], plain.weight[3])  # met alone
    assert not torch.equal(folded.weight[1], plain.weight[1])
    assert smoothing.embedding(plain, freeze=False).weight.requires_grad
    torch.testing.assert_close(smoothing.embedding(emb.bfloat16()).weight, folded.weight, rtol=0.05, atol=0.02)
    assert smoothing.embedding(emb).weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"graph": 3}, TypeError, "graph: found int; expected an InterestGraph"),
        ({"counts": ["a"] * 4}, TypeError, "counts: found an array of"),
        ({"counts": [1, 2]}, ValueError, r"counts: found shape \[2\]; expected \[4\]"),
        ({"counts": [1, 2, -1, 0]}, ValueError, "counts: found a negative number"),
        ({"counts": [1, 2, np.nan, 0]}, ValueError, "counts: found a negative number or one that is not finite"),
        ({"strength": -1}, ValueError, "strength: found -1; expected"),
        ({"strength": float("inf")}, ValueError, "strength: found inf; expected"),
        ({"strength": "3"}, TypeError, "strength: found str; expected"),
        ({"strength": True}, TypeError, "strength: found bool; expected"),
    ],
)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        rx.Smoothing(**{"graph": embedding().graph, "counts": [1, 2, 3, 4], "strength": 2.0, **change})


def test_other_tables_are_refused() -> None:
    smoothing = rx.Smoothing(embedding().graph, [1, 2, 3, 4], 2)
    with pytest.raises(ValueError, match=r"table: found shape \[3, 2\]; expected \[4, D\]"):
        smoothing.table(torch.zeros(3, 2))
    with pytest.raises(TypeError, match=r"embedding: found Linear; expected nn\.Embedding"):
        smoothing.embedding(nn.Linear(2, 2))  # type: ignore[arg-type]
