"""Graphs given as CSR arrays or SciPy matrices, and their numbers."""

import copy
import json
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext import InterestGraph
from resemb_ext.testing.strategies import examples

INDPTR, NEIGHBORS, WEIGHTS = [0, 2, 2, 4], [1, 2, 2, 0], [3.0, 1.0, 0.5, 2.0]


@st.composite
def matrices(draw, max_items=7):
    height = draw(st.integers(1, max_items))
    entries = st.tuples(st.integers(0, height - 1), st.integers(0, height - 1))
    cells = draw(st.dictionaries(entries, st.sampled_from([0.0, 0.25, 1.0, 3.5, 1e-30, 1e20])))
    return height, cells


@examples(150)
@given(matrices(), st.randoms())
def test_unsorted_rows_and_scipy_round_trip(matrix, random):
    height, cells = matrix
    items = list(cells.items())
    random.shuffle(items)
    items.sort(key=lambda entry: entry[0][0])  # rows in order, neighbours in any
    rows = [i for (i, _), _ in items]
    indptr = np.searchsorted(rows, np.arange(height + 1))
    graph = InterestGraph.from_csr(indptr, [j for (_, j), _ in items], [w for _, w in items])
    dense, stored = np.zeros((height, height), np.float32), np.zeros((height, height), bool)
    for (i, j), weight in items:
        dense[i, j], stored[i, j] = weight, True
    assert graph.num_items == height and graph.num_edges == len(items)
    for i in range(height):
        at = slice(graph.indptr[i], graph.indptr[i + 1])
        np.testing.assert_array_equal(graph.neighbors[at], np.flatnonzero(stored[i]))
        np.testing.assert_array_equal(graph.weights[at], dense[i][stored[i]])
    own = np.where(stored.any(1), dense.max(1), 1.0)
    expected = dense.sum(1, dtype=np.float64) + np.where(stored.diagonal(), 0.0, own)
    np.testing.assert_allclose(graph.degree, expected, rtol=1e-12)
    back = graph.to_scipy()
    assert back.dtype == np.float32 and back.nnz == len(items)
    np.testing.assert_array_equal(back.toarray(), dense)
    assert InterestGraph.from_scipy(back).hash == graph.hash


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csr_array, sp.csc_array, sp.coo_matrix, sp.lil_array])
def test_from_scipy_kinds(kind):
    dense = np.array([[0, 3, 1], [0, 0, 0], [2, 0, 5]], np.int64)
    np.testing.assert_array_equal(InterestGraph.from_scipy(kind(dense)).to_scipy().toarray(), dense)


def test_indices_of_scipy_are_int32_while_they_fit(monkeypatch):
    graph = InterestGraph.from_csr(INDPTR, NEIGHBORS, WEIGHTS)
    assert graph.indptr.dtype == np.int64
    matrix = graph.to_scipy()
    assert (matrix.indices.dtype, matrix.indptr.dtype) == (np.int32, np.int32)
    matrix.data[:] = 0
    matrix.indices[:] = 0
    assert graph.neighbors.tolist() == NEIGHBORS[:2] + NEIGHBORS[:1:-1] and graph.weights.all()
    monkeypatch.setattr("resemb_ext.graph.checks.INT32_MAX", 3)  # below its 4 entries
    wide = graph.to_scipy()
    assert wide.indices.dtype == wide.indptr.dtype == np.int64
    assert wide.nnz == 4 and (wide != InterestGraph.from_scipy(wide).to_scipy()).nnz == 0


def test_from_csr_defaults_and_more_rows():
    graph = InterestGraph.from_csr(INDPTR, np.array(NEIGHBORS, np.int32), num_items=5)
    assert graph.num_items == 5 and graph.indptr.tolist() == [0, 2, 2, 4, 4, 4]
    assert graph.weights.tolist() == [1, 1, 1, 1] and graph.neighbors.tolist() == [1, 2, 0, 2]
    assert graph.degree.tolist() == [3.0, 1.0, 2.0, 1.0, 1.0]  # row 2 holds its own entry
    assert graph.meta["source"] == "csr" and graph.link == "raw"


def test_from_csr_copies():
    weights = np.array(WEIGHTS, np.float32)
    graph = InterestGraph.from_csr(INDPTR, NEIGHBORS, weights)
    weights[:] = 9
    assert graph.weights.max() == 3 and weights.flags.writeable


@pytest.mark.parametrize(
    ("indptr", "neighbors", "weights", "error", "message"),
    [
        ([], [], None, ValueError, "indptr is empty"),
        ([0], [], None, ValueError, "num_items is 0"),
        ([1, 2], [0, 0], None, ValueError, r"indptr\[0\] is 1, expected 0"),
        ([0, 2, 1, 4], NEIGHBORS, None, ValueError, "indptr falls from 2 to 1 at row 1"),
        ([0, 2, 2, 3], NEIGHBORS, None, ValueError, "indptr ends at 3, expected .* 4"),
        ([0.0, 2, 2, 4], NEIGHBORS, None, TypeError, "indptr has dtype float64"),
        (INDPTR, [1, 2, 3, 0], None, IndexError, r"neighbors\[2\] \(row 2\) is 3"),
        (INDPTR, [1, -2, 2, 0], None, IndexError, r"neighbors\[1\] \(row 0\) is -2"),
        (INDPTR, [1.0, 2.0, 2.0, 0.0], None, TypeError, "neighbors has dtype float64"),
        (INDPTR, [1, 1, 2, 0], None, ValueError, "row 0 holds 1 twice"),
        ([0, 1, 4], [0, 1, 0, 1], None, ValueError, "row 1 holds 1 twice"),
        (INDPTR, NEIGHBORS, [1, 2, 3], ValueError, "weights has 3 entries, expected 4"),
        (INDPTR, NEIGHBORS, [1, 2, -3, 1], ValueError, r"weights\[2\] is -3"),
        (INDPTR, NEIGHBORS, [1, np.nan, 3, 1], ValueError, r"weights\[1\] is nan"),
        (INDPTR, NEIGHBORS, [1, 2, 3, np.inf], ValueError, r"weights\[3\] is inf"),
        (INDPTR, NEIGHBORS, [1, 2, 3, 1e39], ValueError, r"weights\[3\] is 1e\+39.*float32"),
        (INDPTR, NEIGHBORS, ["a"] * 4, TypeError, "weights has dtype"),
    ],
)
def test_bad_csr(indptr, neighbors, weights, error, message):
    with pytest.raises(error, match=message):
        InterestGraph.from_csr(indptr, neighbors, weights)


def test_bad_options_and_matrices():
    with pytest.raises(ValueError, match="num_items is 2, expected at least"):
        InterestGraph.from_csr(INDPTR, NEIGHBORS, num_items=2)
    with pytest.raises(TypeError, match="directed is 1"):
        InterestGraph.from_csr(INDPTR, NEIGHBORS, directed=1)
    with pytest.raises(ValueError, match=r"matrix has shape \(2, 3\)"):
        InterestGraph.from_scipy(sp.csr_array((2, 3)))
    with pytest.raises(TypeError, match="matrix is a ndarray"):
        InterestGraph.from_scipy(np.eye(3))


def test_stats():
    user, item = np.arange(4000) // 20, 1 + (np.arange(4000) * 7919) % 97
    graph = InterestGraph.from_events(user, item, num_items=100, top_k=5, padding_idx=0)
    stats = graph.stats()
    assert json.loads(json.dumps(stats)) == stats
    assert stats["num_items"] == 100 and stats["num_edges"] == graph.num_edges
    assert stats["self_edges"] == 99 and stats["empty_rows"] == 1
    assert stats["isolated"] == 3  # padding, 98 and 99
    assert stats["others_per_row"]["max"] == 5 and stats["others_per_row"]["min"] == 0
    whole = InterestGraph.from_events(user, item, num_items=100, top_k=None, padding_idx=0)
    off = [g.to_scipy().toarray() for g in (graph, whole)]
    for matrix in off:
        np.fill_diagonal(matrix, 0)
    assert stats["kept_mass"] == pytest.approx(off[0].sum() / off[1].sum(), rel=1e-12)
    assert whole.stats()["kept_mass"] == pytest.approx(1.0)
    assert stats["events"] == 4000
    assert graph.with_link("average", padding_idx=0).stats()["kept_mass"] is None


def test_copies_and_repr():
    graph = InterestGraph.from_csr(INDPTR, NEIGHBORS, WEIGHTS)
    assert copy.deepcopy(graph).hash == graph.hash == pickle.loads(pickle.dumps(graph)).hash
    assert repr(graph) == "InterestGraph(num_items=3, num_edges=4, link='raw')"
    other = InterestGraph.from_csr(INDPTR, NEIGHBORS, [3.0, 1.0, 0.5, 2.5])
    assert other.hash != graph.hash and graph.with_link("given").hash != graph.hash
