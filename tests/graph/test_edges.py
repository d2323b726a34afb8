"""Graphs in the form of PyTorch Geometric, and matrices for scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext import InterestGraph
from resemb_ext.testing.graphs import rows_of, same_arrays
from resemb_ext.testing.strategies import examples


@st.composite
def edge_lists(draw):
    height = draw(st.integers(1, 7))
    pairs = st.tuples(st.integers(0, height - 1), st.integers(0, height - 1))
    edges = draw(st.dictionaries(pairs, st.sampled_from([0.0, 0.25, 1.0, 3.5, 1e20])))
    order = draw(st.permutations(list(edges.items())))
    return height, order


@examples(150)
@given(edge_lists(), st.sampled_from([torch.int64, torch.int32]), st.booleans())
def test_a_source_is_a_neighbour_in_its_targets_row_and_back(given_edges, dtype, as_array):
    height, edges = given_edges
    index = torch.tensor([[source, target] for (source, target), _ in edges], dtype=dtype).reshape(-1, 2).T
    weights = torch.tensor([weight for _, weight in edges], dtype=torch.float32)
    graph = InterestGraph.from_edge_index(index.numpy() if as_array else index, weights, height)
    expected: dict[int, dict[int, float]] = {row: {} for row in range(height)}
    for (source, target), weight in edges:
        expected[target][source] = float(np.float32(weight))
    assert rows_of(graph) == expected
    back, values = graph.to_edge_index()
    assert back.dtype == torch.int64 and values.dtype == torch.float32 and back.shape == (2, len(edges))
    ordered = sorted(edges, key=lambda edge: (edge[0][1], edge[0][0]))
    assert back.T.tolist() == [list(pair) for pair, _ in ordered]
    again = InterestGraph.from_edge_index(back, values, height)
    assert same_arrays(again, graph) and again.hash == graph.hash
    assert InterestGraph.from_scipy(graph.to_scipy()).hash == graph.hash


def test_defaults_copies_and_dtypes():
    index = torch.tensor([[2, 0, 1], [0, 1, 1]])
    graph = InterestGraph.from_edge_index(index)
    assert graph.num_items == 3 and rows_of(graph) == {0: {2: 1.0}, 1: {0: 1.0, 1: 1.0}, 2: {}}
    half = InterestGraph.from_edge_index(index, torch.tensor([1, 2, 0.5], dtype=torch.bfloat16).requires_grad_())
    assert rows_of(half) == {0: {2: 1.0}, 1: {0: 2.0, 1: 0.5}, 2: {}}
    back, weights = half.to_edge_index()
    weights.zero_()
    back.zero_()
    assert half.weights.tolist() == [1, 2, 0.5]
    assert InterestGraph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), num_items=2).num_edges == 0
    directed = InterestGraph.from_edge_index(torch.tensor([[0], [1]]), directed=True)
    assert directed.meta["options"]["directed"] is True
    linked = graph.with_link("average")
    _, shares = linked.to_edge_index()
    assert shares.tolist() == linked.weights.tolist()


@pytest.mark.parametrize(
    ("index", "more", "error", "message"),
    [
        ([[0, 1]], {}, ValueError, r"edge_index has shape \[1, 2\], expected \[2, E\]"),
        ([[0, 1], [1, 0], [1, 1]], {}, ValueError, r"edge_index has shape \[3, 2\]"),
        ([[0.0], [1.0]], {}, TypeError, r"edge_index\[0\] has dtype float32, expected integers"),
        ([[0, -1], [1, 0]], {}, IndexError, r"edge_index\[0, 1\] is -1, expected an id in \[0, num_items = 2\)"),
        ([[0, 1], [1, 5]], {"num_items": 4}, IndexError, r"edge_index\[1, 1\] is 5"),
        ([[0, 1, 0], [1, 0, 1]], {}, ValueError, "the edge 0 -> 1 twice, .*coalesce"),
        ([[0, 1], [1, 0]], {"weights": [1.0]}, ValueError, "weights has 1 entries, expected 2"),
        ([[0, 1], [1, 0]], {"weights": [1.0, -2.0]}, ValueError, r"weights\[1\] is -2"),
        ([[0, 1], [1, 0]], {"num_items": 0}, ValueError, "num_items is 0"),
    ],
)
def test_bad_edges(index, more, error, message):
    with pytest.raises(error, match=message):
        InterestGraph.from_edge_index(torch.tensor(index), **more)


def test_no_edges_need_a_number_of_items():
    with pytest.raises(ValueError, match="num_items is None and edge_index has no edges"):
        InterestGraph.from_edge_index(torch.empty(2, 0, dtype=torch.int64))


def test_scikit_learn_takes_the_matrix():
    """Its graph algorithms refuse int64 indices."""
    manifold = pytest.importorskip("sklearn.manifold", reason="scikit-learn is not installed")
    user, item = np.arange(2000) // 20, (np.arange(2000) * 7919) % 40
    graph = InterestGraph.from_events(user, item, num_items=40, top_k=None, self_weight=0)
    embedding = manifold.SpectralEmbedding(2, affinity="precomputed", random_state=0)
    assert np.isfinite(embedding.fit_transform(graph.to_scipy())).all()
    wide = graph.to_scipy()
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    with pytest.raises(ValueError, match="64"):
        embedding.fit_transform(wide)
