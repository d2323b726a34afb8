"""Links against dense NumPy formulas in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resemb_ext import InterestGraph, ResEmbedding
from resemb_ext.testing.strategies import examples

CLOSE = {"rtol": 3e-7, "atol": 1e-38}


def dense(graph):
    return graph.to_scipy().toarray().astype(np.float64)


def stored(graph):
    matrix = graph.to_scipy()
    matrix.data[:] = 1
    return matrix.toarray() > 0


@st.composite
def given_graphs(draw, symmetric):
    height = draw(st.integers(1, 6))
    weights = st.sampled_from([0.0, 0.0, 0.5, 1.0, 3.0])
    size = height * height
    full = np.array(draw(st.lists(weights, min_size=size, max_size=size))).reshape(height, height)
    if symmetric:
        full = np.triu(full) + np.triu(full, 1).T
    return full


def from_dense(full, **options):
    row, col = np.nonzero(full)
    indptr = np.searchsorted(row, np.arange(len(full) + 1))
    return InterestGraph.from_csr(indptr, col, full[row, col], **options)


def with_self(full, self_weight):
    """The dense matrix plus self weights where the diagonal is empty."""
    largest = np.where((full > 0).any(1), full.max(1), 1.0)
    own = largest if self_weight == "max" else np.full(len(full), float(self_weight))
    return full + np.diag(np.where(full.diagonal() > 0, 0.0, own))


@examples(150)
@given(given_graphs(symmetric=False), st.sampled_from(["max", 0, 0.5, 2]))
def test_average(full, self_weight):
    linked = from_dense(full).with_link("average", self_weight=self_weight)
    z = with_self(full, self_weight)
    sums = z.sum(1, keepdims=True)
    np.testing.assert_allclose(dense(linked), np.divide(z, sums, out=np.zeros_like(z), where=sums > 0), **CLOSE)
    assert stored(linked).diagonal().all() and linked.link == "average"
    assert linked.meta["link"] == {
        "name": "average",
        "padding_idx": None,
        "self_weight": "max" if self_weight == "max" else float(self_weight),
    }


def dense_gcn(z):
    degree = z.sum(1)
    root = np.sqrt(np.outer(degree, degree))
    return np.divide(z, root, out=np.zeros_like(z), where=root > 0), degree


@examples(150)
@given(given_graphs(symmetric=True), st.sampled_from(["max", 0, 0.5, 2]))
def test_gcn_of_a_symmetric_matrix(full, self_weight):
    linked = from_dense(full).with_link("gcn", self_weight=self_weight)
    expected, degree = dense_gcn(with_self(full, self_weight))
    np.testing.assert_allclose(dense(linked), expected, **CLOSE)
    np.testing.assert_allclose(linked.degree, degree, rtol=1e-12)


@examples(150)
@given(given_graphs(symmetric=False), st.sampled_from(["max", 0.5]))
def test_gcn_symmetrises_a_directed_matrix(full, self_weight):
    linked = from_dense(full, directed=True).with_link("gcn", self_weight=self_weight)
    both = full + full.T
    np.fill_diagonal(both, full.diagonal())
    expected, _ = dense_gcn(with_self(both, self_weight))
    np.testing.assert_allclose(dense(linked), expected, **CLOSE)
    if not np.array_equal(full, full.T):
        assert from_dense(full).with_link("gcn", self_weight=self_weight).hash == linked.hash


def test_gcn_of_an_undirected_claim_is_taken_as_it_is():
    full = np.array([[0, 2.0], [0, 0]])
    linked = from_dense(full, directed=False).with_link("gcn", self_weight=1)
    z = full + np.eye(2)
    np.testing.assert_allclose(dense(linked), dense_gcn(z)[0], **CLOSE)


def built(**options):
    rng = np.random.default_rng(3)
    user, item = rng.integers(0, 30, 2000), np.minimum(rng.zipf(1.4, 2000), 59)
    return InterestGraph.from_events(user, item, num_items=60, padding_idx=0, **options)


@pytest.mark.parametrize("self_weight", ["max", 0.0, 3.0])
@pytest.mark.parametrize("weighting", ["count", "cosine"])
def test_built_graphs_use_degrees_before_pruning(weighting, self_weight):
    options = {"weighting": weighting, "self_weight": self_weight}
    graph, whole = built(top_k=4, **options), built(top_k=None, **options)
    z = dense(whole)
    degree = z.sum(1)
    np.testing.assert_allclose(graph.degree, degree, rtol=1e-12)
    scale = np.divide(1, np.sqrt(degree), out=np.zeros(60), where=degree > 0)
    gcn = graph.with_link("gcn", padding_idx=0)
    np.testing.assert_allclose(dense(gcn), np.where(stored(graph), z * np.outer(scale, scale), 0), **CLOSE)
    np.testing.assert_array_equal(gcn.neighbors, graph.neighbors)
    np.testing.assert_array_equal(gcn.degree, graph.degree)
    average = dense(graph.with_link("average", padding_idx=0))
    sums = average.sum(1)
    np.testing.assert_allclose(sums[dense(graph).sum(1) > 0], 1.0, rtol=1e-6)


@pytest.mark.parametrize("self_weight", ["max", 1.0])
def test_directed_build_symmetrises_to_the_undirected_one(self_weight):
    options = {"self_weight": self_weight, "top_k": None}
    directed, undirected = built(directed=True, **options), built(**options)
    a, b = (graph.with_link("gcn", padding_idx=0) for graph in (directed, undirected))
    np.testing.assert_array_equal(a.neighbors, b.neighbors)
    np.testing.assert_allclose(a.weights, b.weights, rtol=3e-7)
    np.testing.assert_allclose(a.degree, b.degree, rtol=1e-12)


def test_symmetrised_rows_keep_their_top_k():
    directed = built(directed=True, top_k=4)
    linked = directed.with_link("gcn", padding_idx=0)
    z = dense(directed)
    np.fill_diagonal(z, 0)
    both = with_self(z + z.T, "max")
    both[0] = 0
    degree = both.sum(1)
    np.testing.assert_allclose(linked.degree, degree, rtol=1e-12)
    scale = np.divide(1, np.sqrt(degree), out=np.zeros(60), where=degree > 0)
    expected = np.zeros_like(both)
    for i in range(1, 60):
        others = [j for j in range(60) if j != i and both[i, j] > 0]
        for j in [*sorted(others, key=lambda j: (-both[i, j], j))[:4], i]:
            expected[i, j] = both[i, j] * scale[i] * scale[j]
    np.testing.assert_allclose(dense(linked), expected, **CLOSE)
    assert np.diff(linked.indptr).max() == 5


def test_hand_computed():
    full = np.array([[0, 2.0, 0], [2.0, 0, 6.0], [0, 6.0, 0]])
    graph = from_dense(full)
    assert graph.degree.tolist() == [4, 14, 12]
    np.testing.assert_allclose(
        dense(graph.with_link("average")), [[1 / 2, 1 / 2, 0], [1 / 7, 3 / 7, 3 / 7], [0, 1 / 2, 1 / 2]], **CLOSE
    )
    a, b = 2 / np.sqrt(4 * 14), 6 / np.sqrt(14 * 12)
    np.testing.assert_allclose(dense(graph.with_link("gcn")), [[1 / 2, a, 0], [a, 3 / 7, b], [0, b, 1 / 2]], **CLOSE)


@pytest.mark.parametrize("link", ["average", "gcn", "given"])
def test_padding(link):
    full = np.array([[1.0, 4, 0], [0, 0, 2], [0, 3, 0]])
    linked = from_dense(full, directed=False).with_link(link, padding_idx=0)
    assert linked.indptr[:2].tolist() == [0, 0] and linked.degree[0] == 0
    assert 0 not in linked.neighbors
    alone = from_dense(full[1:, 1:], directed=False).with_link(link)
    np.testing.assert_array_equal(dense(linked)[1:, 1:], dense(alone))
    with pytest.raises(ValueError, match="row 0 points at padding_idx = 1"):
        from_dense(full).with_link(link, padding_idx=1)
    full[0] = 0
    with pytest.raises(ValueError, match="row 2 points at padding_idx = 1"):
        from_dense(full).with_link(link, padding_idx=1)


def test_given_is_untouched_and_links_do_not_stack():
    graph = built()
    untouched = graph.with_link("given")
    np.testing.assert_array_equal(untouched.weights, graph.weights)
    assert untouched.link == "given"
    average = graph.with_link("average", padding_idx=0)
    assert average.with_link("average", padding_idx=0).hash == average.hash
    np.testing.assert_array_equal(average.with_link("given").weights, average.weights)
    for linked, link in ((average, "gcn"), (untouched, "average"), (graph.with_link("gcn"), "average")):
        with pytest.raises(ValueError, match="already holds"):
            linked.with_link(link)


def test_bad_options():
    graph = built()
    with pytest.raises(ValueError, match="link is 'mean', expected one of 'average', 'gcn', 'given'"):
        graph.with_link("mean")
    with pytest.raises(ValueError, match="padding_idx is 60"):
        graph.with_link("average", padding_idx=60)
    with pytest.raises(ValueError, match="self_weight is -1"):
        graph.with_link("average", self_weight=-1)


def dense_prune(p, top_k):
    """The rule of ``with_link`` on a dense float32 matrix."""
    out = np.zeros_like(p)
    for i, row in enumerate(p):
        others = sorted((j for j in np.flatnonzero(row) if j != i), key=lambda j: (-row[j], j))
        keep = [*others[:top_k], i]
        out[i, keep] = row[keep]
    return out


@examples(100)
@given(given_graphs(symmetric=True), st.integers(1, 4), st.sampled_from([0, 1, 2, 3, 99]))
def test_hops_equal_dense_powers_pruned_after_each(full, hops, top_k):
    graph = from_dense(full)
    linked = graph.with_link("gcn", self_weight=0.5, hops=hops, hop_top_k=top_k)
    w = dense_prune(dense(graph.with_link("gcn", self_weight=0.5)), top_k)
    p, shares = w, [1.0]
    for _ in range(hops - 1):
        whole = (p @ w).astype(np.float32).astype(np.float64)
        p = dense_prune(whole, top_k)
        shares.append(p.sum() / whole.sum())
    found = dense(linked)
    # Equal sums in another order of addition may differ in the last bit and break ties otherwise.
    np.testing.assert_allclose(np.sort(found, 1), np.sort(p, 1), rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(linked.meta["link"]["kept_mass"][1:], shares[1:], rtol=1e-6)
    assert linked.stats()["hop_kept_mass"] == linked.meta["link"]["kept_mass"]
    if top_k >= len(full):
        one = dense(graph.with_link("gcn", self_weight=0.5))
        np.testing.assert_allclose(found, np.linalg.matrix_power(one, hops), rtol=1e-6, atol=1e-30)
        np.testing.assert_allclose(linked.meta["link"]["kept_mass"], np.ones(hops), rtol=1e-12)


@pytest.mark.parametrize("hops", [2, 3])
def test_hops_of_a_built_graph_keep_its_top_k(hops):
    graph = built(top_k=4)
    linked = graph.with_link("gcn", padding_idx=0, hops=hops)
    w = dense(graph.with_link("gcn", padding_idx=0))
    p = w
    for _ in range(hops - 1):
        p = dense_prune((p @ w).astype(np.float32).astype(np.float64), 4)
    np.testing.assert_allclose(np.sort(dense(linked), 1), np.sort(p, 1), rtol=1e-6)
    assert np.diff(linked.indptr).max() == 5 and stored(linked).diagonal()[1:].all()
    assert 0 not in linked.neighbors and linked.link == "gcn"
    kept = linked.meta["link"]["kept_mass"]
    assert len(kept) == hops and kept[0] == 1.0 and all(0 < share < 1 for share in kept[1:])
    assert linked.with_link("gcn", padding_idx=0, hops=hops).hash == linked.hash
    with pytest.raises(ValueError, match="already holds"):
        linked.with_link("gcn", padding_idx=0, hops=hops + 1)


def test_bad_hops():
    graph = built()
    with pytest.raises(ValueError, match="hops is 0"):
        graph.with_link("gcn", hops=0)
    with pytest.raises(ValueError, match="hops is 2 with link='average', expected 1: only \"gcn\""):
        graph.with_link("average", hops=2)
    with pytest.raises(ValueError, match="hop_top_k is -1"):
        graph.with_link("gcn", hops=2, hop_top_k=-1)
    with pytest.raises(TypeError, match=r"hops is 2\.0"):
        graph.with_link("gcn", hops=2.0)


def test_res_embedding_takes_hops():
    graph = built(top_k=4)
    emb = ResEmbedding(graph, 3, link="gcn", padding_idx=0, hops=2)
    assert emb.graph.hash == graph.with_link("gcn", padding_idx=0, hops=2).hash
    expected = dense(emb.graph) @ emb.central.detach().double().numpy() + emb.residual.detach().numpy()
    np.testing.assert_allclose(emb.materialize().detach().numpy(), expected, rtol=1e-5, atol=1e-5)
