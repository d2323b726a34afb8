"""Weights in float16: how far they move, what does not fit, files and hashes; graphs by blocks of rows."""

from __future__ import annotations

import copy
import json
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext import InterestGraph
from resemb_ext.graph import blocks
from resemb_ext.testing.strategies import examples


def random_graph(seed: int = 0, height: int = 40, own: float = 0.5, scale: float = 30.0) -> InterestGraph:
    rng = np.random.default_rng(seed)
    dense = (rng.random((height, height)) < 0.2) * np.ceil(rng.random((height, height)) ** 3 * scale)
    dense[np.diag_indices(height)] *= rng.random(height) < own
    dense[:, 0] = dense[0] = 0
    return of_dense(dense)


def of_dense(dense: np.ndarray) -> InterestGraph:
    rows, columns = np.nonzero(dense)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(dense)))])
    return InterestGraph.from_csr(indptr, columns, dense[rows, columns])


@examples(40)
@given(st.lists(st.floats(0, 65519, width=32), min_size=1, max_size=40))
def test_a_weight_moves_by_no_more_than_is_documented(values: list[float]) -> None:
    fits = [w for w in values if w == 0 or w > 2.0**-25]
    graph = InterestGraph.from_csr([0, len(fits)], range(len(fits)), fits, num_items=max(len(fits), 1))
    half = graph.with_weights_dtype("float16")
    assert half.weights.dtype == np.float16 and not half.weights.flags.writeable
    exact = graph.weights.astype(np.float64)
    assert (np.abs(half.weights - exact) <= np.maximum(exact * 2.0**-11, 2.0**-25)).all()
    assert np.array_equal(half.weights, graph.weights.astype(np.float16))
    assert not fits or np.shares_memory(half.neighbors, graph.neighbors)


@pytest.mark.parametrize("weight", [65520.0, 1e9, 2.0**-25, 1e-12])
@pytest.mark.parametrize("how", ["with_weights_dtype", "with_link"])
def test_a_weight_that_does_not_fit_is_named(weight: float, how: str) -> None:
    graph = InterestGraph.from_csr([0, 1, 3], [1, 0, 1], [1.0, 2.0, weight])
    named = re.escape(str(float(np.float32(weight))))
    with pytest.raises(ValueError, match=rf"weights: row 1 holds {named} for item 1; expected 0 or a number in"):
        if how == "with_link":
            graph.with_link("given", weights_dtype=np.float16)
        else:
            graph.with_weights_dtype(torch.float16)
    assert graph.with_link("average", weights_dtype="float32").weights.dtype == np.float32


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16, np.float64, "half precision", 16])
def test_other_dtypes_are_named(dtype: object) -> None:
    with pytest.raises(ValueError, match=r"weights_dtype: found .*; expected float32 or float16"):
        random_graph().with_weights_dtype(dtype)


@pytest.mark.parametrize("link", ["average", "gcn", "given", "attention"])
@pytest.mark.parametrize("options", [{}, {"padding_idx": 0}], ids=str)
def test_a_link_is_rounded_once(link: str, options: dict) -> None:
    graph = random_graph()
    exact = graph.with_link(link, **options)
    half = graph.with_link(link, weights_dtype="float16", **options)
    assert half.link == link and half.num_edges == exact.num_edges
    assert np.array_equal(half.weights, exact.weights.astype(np.float16))
    assert half.meta["rounded"] == {"dtype": "float16", "hash": exact.hash}
    assert half.hash == exact.with_weights_dtype("float16").hash != exact.hash
    # A linked graph keeps its weights, and what they were rounded from.
    again = half.with_link(link, **options)
    assert again.hash == half.hash and again.meta["rounded"] == half.meta["rounded"]


def test_hops_are_rounded_at_the_end() -> None:
    graph = random_graph(own=1.0)
    exact = graph.with_link("gcn", hops=2, hop_top_k=5)
    half = graph.with_link("gcn", hops=2, hop_top_k=5, weights_dtype="float16")
    assert np.array_equal(half.weights, exact.weights.astype(np.float16))
    assert half.meta["link"] == exact.meta["link"]


def test_graphs_that_differ_by_rounding() -> None:
    exact = random_graph().with_link("average")
    half = exact.with_weights_dtype("float16")
    assert half.differs_by_rounding(exact.hash) and exact.differs_by_rounding(half.hash)
    other = random_graph(seed=1).with_link("average")
    assert not half.differs_by_rounding(other.hash) and not exact.differs_by_rounding(other.hash)
    assert not half.differs_by_rounding(other.with_weights_dtype("float16").hash)
    large = InterestGraph.from_csr([0, 1], [0], [1e6])
    assert not large.differs_by_rounding(exact.hash)
    back = half.with_weights_dtype("float32")
    assert np.array_equal(back.weights, half.weights) and back.differs_by_rounding(half.hash)


def test_raw_weights_in_float16_have_links_as_their_float32() -> None:
    half = random_graph().with_weights_dtype("float16")
    wide = half.with_weights_dtype("float32")
    for link in ("average", "gcn"):
        assert half.with_link(link, weights_dtype="float32").hash == wide.with_link(link).hash
        assert half.with_link(link).weights.dtype == np.float16


def test_files(tmp_path) -> None:
    exact = random_graph().with_link("average")
    half = exact.with_weights_dtype("float16")
    for graph, version in ((exact, 2), (half, 3)):
        graph.save(tmp_path / "g.npz")
        with zipfile.ZipFile(tmp_path / "g.npz") as archive:
            header = np.lib.format.read_array(archive.open("header.npy")).tobytes()
        assert json.loads(header)["version"] == version
        found = InterestGraph.load(tmp_path / "g.npz")
        assert found.hash == graph.hash and found.weights.dtype == graph.weights.dtype
        assert found.meta == graph.meta
        assert not found.weights.flags.writeable
    assert found.differs_by_rounding(exact.hash)


def test_other_libraries_get_float32() -> None:
    half = random_graph().with_weights_dtype("float16")
    assert half.to_scipy().dtype == np.float32
    assert half.to_edge_index()[1].dtype == torch.float32
    assert half.stats() == half.with_weights_dtype("float32").stats()


def test_copies_share_the_arrays_and_pickles_hold_them_once() -> None:
    graph = random_graph().with_weights_dtype("float16")
    twin = copy.deepcopy(graph)
    assert all(np.shares_memory(a, b) for a, b in zip(graph.arrays().values(), twin.arrays().values(), strict=True))
    twin.meta["rounded"]["dtype"] = "another"
    assert graph.meta["rounded"]["dtype"] == "float16"
    assert pickle.loads(pickle.dumps(graph)).hash == graph.hash


@pytest.mark.parametrize("size", [1, 3, 50])
@pytest.mark.parametrize("own", [0.0, 0.5, 1.0])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, size: int, own: float) -> None:
    def made() -> list[InterestGraph]:
        graph = random_graph(own=own)
        linked = [graph.with_link(link, padding_idx=0) for link in ("average", "gcn", "attention", "given")]
        return [graph, *linked, *(g.with_weights_dtype("float16") for g in linked)]

    expected = [(g.hash, g.stats()) for g in made()]
    monkeypatch.setattr(blocks, "_SIZE", size)
    assert [(g.hash, g.stats()) for g in made()] == expected


@examples(50)
@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 12))
def test_blocks_cover_the_rows(monkeypatch: pytest.MonkeyPatch, lengths: list[int], size: int) -> None:
    monkeypatch.setattr(blocks, "_SIZE", size)
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows, edges = [], []
    for block, span in blocks.of_rows(indptr):
        rows += range(block.start, block.stop)
        edges += range(span.start, span.stop)
        assert block.stop - block.start == 1 or span.stop - span.start <= size
        assert np.array_equal(blocks.row_ids(indptr, block), np.repeat(range(len(lengths)), lengths)[span])
    assert rows == list(range(len(lengths))) and edges == list(range(indptr[-1]))


@pytest.mark.parametrize("size", [2, 1 << 20])
def test_unsorted_rows_and_duplicates_are_found_in_any_block(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(blocks, "_SIZE", size)
    shuffled = InterestGraph.from_csr([0, 3, 3, 5], [2, 0, 1, 1, 0], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert shuffled.neighbors.tolist() == [0, 1, 2, 0, 1]
    assert shuffled.weights.tolist() == [2, 3, 1, 5, 4]
    with pytest.raises(ValueError, match="row 2 holds 1 twice"):
        InterestGraph.from_csr([0, 3, 3, 5], [2, 0, 1, 1, 1], np.ones(5))
