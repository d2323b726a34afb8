"""Vectors of embeddings and matrices, block by block, and their bytes against torch's own operators."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import resemb_ext as rx
from resemb_ext.serving.lite import TableError
from resemb_ext.serving.vectors import vectors_of
from resemb_ext.testing.strategies import examples

DTYPES = ("float32", "float16", "int8", "int4")


def packed(weight: Tensor, dtype: str) -> Tensor:
    if dtype == "int8":
        return torch.ops.quantized.embedding_bag_byte_prepack(weight)
    if dtype == "int4":
        return torch.ops.quantized.embedding_bag_4bit_prepack(weight)
    return weight.to(getattr(torch, dtype)).view(torch.uint8)


def small_blocks(monkeypatch: pytest.MonkeyPatch, read: int, encoded: int) -> None:
    monkeypatch.setattr("resemb_ext.serving.vectors._READ", read)
    monkeypatch.setattr("resemb_ext.serving.vectors._ENCODED", encoded)


@pytest.fixture
def graph() -> rx.InterestGraph:
    draw = np.random.default_rng(0)
    return rx.InterestGraph.from_events(np.sort(draw.integers(0, 30, 400)), draw.integers(1, 40, 400), num_items=40)


@pytest.mark.parametrize("link", ["average", "attention"])
@pytest.mark.parametrize("kind", [rx.ResEmbedding, rx.ResEmbeddingBag])
@pytest.mark.parametrize("keep", [False, True])
def test_a_res_embedding_in_blocks(graph, monkeypatch, link, kind, keep) -> None:
    """Its rows are computed block by block, never as a whole."""
    small_blocks(monkeypatch, 8 * 16, 3 * 16)
    emb = kind(graph, 16, link=link, padding_idx=0, keep_padding=keep)
    with torch.no_grad():
        for parameter in emb.parameters():
            parameter.normal_()
        emb.residual[0] = float(keep)
        emb.central[0] = 0
    expected = emb.materialize().detach()
    assert bool(expected[0].any()) == keep
    asked, read = [], emb._read_rows
    monkeypatch.setattr(emb, "_read_rows", lambda start, stop: asked.append((start, stop)) or read(start, stop))
    monkeypatch.setattr(emb, "materialize", lambda: pytest.fail("made as a whole"))
    vectors = vectors_of(emb)
    assert (vectors.rows, vectors.dim, vectors.padding) == (40, 16, None if keep else 0)
    assert np.array_equal(np.concatenate([*vectors.encoded("int8")]), packed(expected, "int8").numpy())
    assert asked == [(start, start + 8) for start in range(0, 40, 8)]
    ids = torch.tensor([39, 2, 2, 0])
    assert torch.equal(vectors.at(ids), expected[ids]) and torch.equal(vectors.block(2, 5), expected[2:5])


@examples(100)
@given(st.sampled_from(DTYPES), st.integers(1, 90), st.integers(1, 140), st.integers(0, 2**31))
def test_the_bytes_are_those_of_torch(dtype, rows, dim, seed) -> None:
    dim += dim % 2 if dtype == "int4" else 0
    draw = torch.Generator().manual_seed(seed)
    scales = torch.tensor([0.0, 1e-4, 1.0, 300.0])[torch.randint(0, 4, (rows, 1), generator=draw)]
    weight = torch.randn(rows, dim, generator=draw) * scales + 0.0  # of a zero, FBGEMM's order picks the sign
    found = np.concatenate([*vectors_of(weight).encoded(dtype)])
    assert np.array_equal(found, packed(weight, dtype).numpy())


@pytest.mark.parametrize("make", ["embedding", "bag", "tensor", "array", "strided", "float64", "half", "bfloat16"])
def test_sources(make) -> None:
    weight = torch.randn(20, 6)
    weight[2] = 0
    sources = {
        "embedding": nn.Embedding.from_pretrained(weight, padding_idx=2),
        "bag": nn.EmbeddingBag.from_pretrained(weight, padding_idx=2),
        "tensor": weight.clone().requires_grad_(),
        "array": weight.numpy(),
        "strided": weight.t().contiguous().t(),
        "float64": weight.double().numpy(),
        "half": weight.half(),
        "bfloat16": weight.bfloat16(),
    }
    vectors = vectors_of(sources[make])
    expected = {"half": weight.half(), "bfloat16": weight.bfloat16()}.get(make, weight)
    for found in (vectors.block(0, 20), vectors.at(torch.arange(20))):
        assert found.dtype == torch.float32 and torch.equal(found, expected.float()) and not found.requires_grad
    assert vectors.padding == (2 if make in ("embedding", "bag") else None)


def test_a_padding_row_that_is_shown_is_no_padding() -> None:
    weight = torch.randn(5, 4)
    assert vectors_of(nn.Embedding.from_pretrained(weight, padding_idx=1)).padding is None
    assert vectors_of(nn.EmbeddingBag.from_pretrained(weight, padding_idx=1)).padding == 1


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ([1.0], TypeError, "source: found list; expected an embedding, or a floating tensor or array"),
        (torch.ones(3, 4).long(), TypeError, r"source: found torch.int64 \(3, 4\); expected"),
        (np.ones((3, 4), int), TypeError, r"source: found int64 \(3, 4\); expected"),
        (torch.ones(3), ValueError, r"source: shape \(3,\); expected \[H, D\]"),
        (torch.ones(0, 4), ValueError, r"source: shape \(0, 4\)"),
        (nn.Embedding(3, 4, max_norm=1.0), ValueError, "source: an embedding with max_norm=1.0"),
    ],
)
def test_sources_that_are_refused(source, error, message) -> None:
    with pytest.raises(error, match=message):
        vectors_of(source)


@pytest.mark.parametrize(
    ("row", "dtype"),
    [([0.0, float("nan")], "float32"), ([7e4, 0], "float16"), ([3e38, -3e38], "int8"), ([1e9, 0], "int4")],
)
def test_numbers_that_a_dtype_cannot_hold_are_named_by_row(monkeypatch, row, dtype) -> None:
    small_blocks(monkeypatch, 40, 12)
    weight = torch.randn(100, 2)
    weight[77] = torch.tensor(row)
    with pytest.raises(TableError, match=f"row 77 holds a number that is not finite in {dtype}"):
        list(vectors_of(weight).encoded(dtype))
