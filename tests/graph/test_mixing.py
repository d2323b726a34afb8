"""Graphs that are made of other graphs, of categories and of vectors, against dense NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import resemb_ext as rx
from resemb_ext.cli import main
from resemb_ext.graph import InterestGraph
from resemb_ext.testing.strategies import examples


def random_graph(rng: np.random.Generator, items: int) -> InterestGraph:
    dense = np.round(rng.random((items, items)), 3) * (rng.random((items, items)) < 0.4)
    rows, columns = dense.nonzero()
    indptr = np.r_[0, np.cumsum(np.bincount(rows, minlength=items))]
    return InterestGraph.from_csr(indptr, columns, dense[rows, columns])


def dense_of(graph: InterestGraph) -> np.ndarray:
    return graph.to_scipy().toarray().astype(np.float64)


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.one_of(st.none(), st.integers(1, 5)))
@examples(40)
def test_mixed(seed: int, count: int, top_k: int | None) -> None:
    rng = np.random.default_rng(seed)
    items = int(rng.integers(1, 9))
    graphs = [random_graph(rng, items) for _ in range(count)]
    shares = rng.uniform(0.1, 3, count)
    expected = np.zeros((items, items))
    for graph, share in zip(graphs, shares, strict=True):
        others = dense_of(graph)
        np.fill_diagonal(others, 0)
        sums = others.sum(1, keepdims=True)
        expected += share * np.divide(others, sums, out=np.zeros_like(others), where=sums > 0)
    degree = expected.sum(1) + np.where(expected.any(1), expected.max(1), 1)
    if top_k is not None:
        for row in expected:
            # By the weights as they are stored: float32 makes ties, which the smaller id wins.
            row[np.lexsort((np.arange(items), -row.astype(np.float32)))[top_k:]] = 0
    graph = InterestGraph.mixed(graphs, shares, top_k=top_k)
    np.testing.assert_allclose(dense_of(graph), expected, rtol=1e-6)
    np.testing.assert_allclose(graph.degree, degree, rtol=1e-5)
    assert graph.link == "raw" and graph.meta["options"]["directed"]


def test_mixed_rows_take_links() -> None:
    one = InterestGraph.from_csr([0, 1, 1, 1], [1], [4.0])
    two = InterestGraph.from_csr([0, 2, 2, 2], [0, 2], [9.0, 5.0])
    linked = InterestGraph.mixed([one, two], [3, 1]).with_link("average")
    # The own entry of the second graph is left out; the link adds one as heavy as the heaviest neighbour.
    np.testing.assert_allclose(dense_of(linked)[0], [3 / 7, 3 / 7, 1 / 7], rtol=1e-6)
    assert dense_of(linked)[1].tolist() == [0, 1, 0]


def test_what_a_mixed_graph_knows_of_events(tmp_path: Path) -> None:
    log, _ = rx.data.simulate(users=40, items=30, domains=3, events_per_user=(4, 6), seed=1)
    split = rx.data.split(log)
    narrow, wide = (InterestGraph.from_log(split.train, window=window) for window in (1, 4))
    groups = InterestGraph.from_categories(np.arange(log.num_items) % 3, split.item_counts, padding_idx=0)
    mixed = InterestGraph.mixed([narrow, wide, groups], [1, 1, 0.2], top_k=10)
    for name in ("events", "time_cut", "event_hash"):
        assert mixed.meta[name] is not None and mixed.meta[name] == narrow.meta[name]
    assert mixed.same_items(log.items)
    assert mixed.meta["parts"][2] == {"hash": groups.hash, "share": 0.2, "source": "categories"}
    other = InterestGraph.from_log(log)
    assert InterestGraph.mixed([narrow, other]).meta["event_hash"] is None
    assert InterestGraph.mixed([groups]).meta["event_hash"] is None
    mixed.save(tmp_path / "mixed.npz")
    assert InterestGraph.load(tmp_path / "mixed.npz").hash == mixed.hash
    for graph in (narrow, groups):
        graph.save(tmp_path / f"{graph.num_edges}.npz")
    files = [str(tmp_path / f"{graph.num_edges}.npz") for graph in (narrow, groups)]
    out = tmp_path / "both.npz"
    assert main(["graph", "mix", files[0], f"{files[1]}:0.5", "--top-k", "6", "--out", str(out)]) == 0
    assert InterestGraph.load(out).hash == InterestGraph.mixed([narrow, groups], [1, 0.5], top_k=6).hash
    assert main(["graph", "stats", str(out)]) == 0


def test_mixing_on_the_command_line_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "graph.npz"
    random_graph(np.random.default_rng(0), 5).save(file)
    before = file.read_bytes()
    assert main(["graph", "mix", f"{file}:much", "--out", str(tmp_path / "out.npz")]) != 0
    assert "expected a number" in capsys.readouterr().err
    assert main(["graph", "mix", str(file), "--out", str(file)]) != 0
    assert main(["graph", "mix", f"{file}:-1", "--out", str(tmp_path / "out.npz")]) != 0
    assert file.read_bytes() == before and not (tmp_path / "out.npz").exists()


def linked_log() -> InterestGraph:
    return random_graph(np.random.default_rng(0), 4)


@pytest.mark.parametrize(
    ("graphs", "options", "error", "message"),
    [
        (lambda g: g, {}, TypeError, "graphs: found InterestGraph; expected a list"),
        (lambda g: [], {}, ValueError, "graphs: found none"),
        (lambda g: [g, 3], {}, TypeError, r"graphs\[1\]: found int"),
        (lambda g: [g, g.with_link("average")], {}, ValueError, r"graphs\[1\]: holds 'average' weights"),
        (lambda g: [g.shift(0, 4)], {}, ValueError, r"graphs\[0\]: is shifted"),
        (lambda g: [g, random_graph(np.random.default_rng(0), 5)], {}, ValueError, "has 5 items, the first one 4"),
        (lambda g: [g, g], {"shares": [1]}, ValueError, "shares has 1 entries, expected 2"),
        (lambda g: [g], {"shares": [0]}, ValueError, r"shares\[0\] is 0.0, expected a finite number above 0"),
        (lambda g: [g], {"shares": [float("nan")]}, ValueError, r"shares\[0\] is nan"),
        (lambda g: [g], {"shares": ["a"]}, TypeError, "shares has dtype"),
        (lambda g: [g], {"top_k": 0}, ValueError, "top_k"),
    ],
)
def test_what_is_not_mixed(graphs: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        InterestGraph.mixed(graphs(linked_log()), **options)


def test_maps_that_differ_are_not_mixed() -> None:
    log, _ = rx.data.simulate(users=40, items=30, domains=3, events_per_user=(4, 6), seed=1)
    one, two = InterestGraph.from_log(log), InterestGraph.from_log(log)
    two.meta["ids"]["items"]["sha256"] = "0" * 64
    with pytest.raises(ValueError, match="number their items by different maps"):
        InterestGraph.mixed([one, two])


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.booleans())
@examples(40)
def test_categories(seed: int, top_k: int, padded: bool) -> None:
    rng = np.random.default_rng(seed)
    items = int(rng.integers(1, 12))
    category, popularity = rng.integers(-1, 3, items), rng.integers(0, 3, items)
    padding = 0 if padded else None
    graph = InterestGraph.from_categories(category, popularity, top_k=top_k, padding_idx=padding)
    for item in range(items):
        mates = [
            other
            for other in range(items)
            if other != item and other != padding and category[other] == category[item] >= 0 and item != padding
        ]
        expected = sorted(sorted(mates, key=lambda other: (-popularity[other], other))[:top_k])
        assert graph.neighbors[graph.indptr[item] : graph.indptr[item + 1]].tolist() == expected
    assert (graph.weights == 1).all()
    even = InterestGraph.from_categories(category, top_k=top_k)
    assert even.hash == InterestGraph.from_categories(category, np.zeros(items), top_k=top_k).hash


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
@examples(30)
def test_vectors(seed: int, top_k: int) -> None:
    rng = np.random.default_rng(seed)
    items = int(rng.integers(2, 12))
    vectors = rng.normal(size=(items, 5))
    vectors[rng.random(items) < 0.2] = 0
    graph = InterestGraph.from_vectors(torch.from_numpy(vectors), top_k=top_k, padding_idx=0)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
    unit[0] = 0
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, 0)
    for row in cosine:
        row[np.argsort(-row)[top_k:]] = 0
    np.testing.assert_allclose(dense_of(graph), np.maximum(cosine, 0), rtol=1e-4, atol=1e-6)
    assert graph.meta["source"] == "vectors" and graph.meta["event_hash"] is None


def test_many_vectors_are_compared_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(37, 4)).astype(np.float32)
    whole = InterestGraph.from_vectors(vectors, top_k=5)
    monkeypatch.setattr("resemb_ext.graph.made._BLOCK", 100)
    parts = InterestGraph.from_vectors(vectors, top_k=5)
    assert np.array_equal(whole.neighbors, parts.neighbors)
    np.testing.assert_allclose(whole.weights, parts.weights, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: InterestGraph.from_categories([]), ValueError, "category is empty"),
        (lambda: InterestGraph.from_categories([0.5]), TypeError, "category has dtype float64"),
        (lambda: InterestGraph.from_categories([0, 1], [1]), ValueError, "popularity has 1 entries, expected 2"),
        (lambda: InterestGraph.from_categories([0, 1], [1, -1]), ValueError, r"popularity\[1\] is -1"),
        (lambda: InterestGraph.from_categories([0], top_k=0), ValueError, "top_k"),
        (lambda: InterestGraph.from_vectors(np.zeros(3)), ValueError, r"vectors has shape \[3\]"),
        (lambda: InterestGraph.from_vectors(np.zeros((3, 2), int)), ValueError, "expected floats"),
        (lambda: InterestGraph.from_vectors(np.full((3, 2), np.nan)), ValueError, "not finite"),
    ],
)
def test_bad_input(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
