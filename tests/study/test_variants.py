"""The variants of the comparison: what each table is, and what its control keeps of the graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from resemb_ext.nn import ResEmbedding
from resemb_ext.study.compare import experiment as compare
from resemb_ext.study.compare import training as compare_training
from resemb_ext.study.compare.protocol import Setting
from resemb_ext.study.compare.variants import CONTROLS, MAIN, TABLES, Group, Variant, variants_of
from resemb_ext.study.harness.pieces import simulated_source
from resemb_ext.study.methods.controls import permuted_entries, permuted_labels, without_edges
from resemb_ext.study.methods.laplacian import GraphPenalty
from resemb_ext.train import fit
from resemb_ext.train.prepare import item_vectors

SOURCE = simulated_source("tiny", users=150, items=120, domains=4, seed=0)
DATASET = compare.dataset_of(SOURCE, Setting(eval_negatives=5))
START = {factor.name: factor.value(0) for factor in compare_training.factors_of("laplacian")}
GROUP = Group("tiny", "dnn", False)


pytestmark = pytest.mark.usefixtures("one_thread")


def _model(table: str, seed: int = 0, **changes: object) -> tuple[nn.Module, object]:
    variant = Variant(GROUP, table)
    config = compare_training.variant_options(variant, replace(DATASET.config, dim=8), compare.QUICK)
    config = compare_training.run_options(config, {**START, **changes})
    return variant.build(DATASET, config, seed, START["graph_l2"]), config


def _rows(graph):
    bounds = zip(graph.indptr[:-1], graph.indptr[1:], strict=True)
    return [(graph.neighbors[a:b], graph.weights[a:b]) for a, b in bounds]


def test_permuted_entries_keep_rows_weights_and_how_often_each_is_a_neighbour() -> None:
    graph = DATASET.graph
    other = permuted_entries(graph, 3)
    np.testing.assert_array_equal(other.indptr, graph.indptr)
    for number, ((a, u), (b, v)) in enumerate(zip(_rows(graph), _rows(other), strict=True)):
        np.testing.assert_array_equal(np.sort(u), np.sort(v))
        assert len(np.unique(b)) == len(b)
        assert (number in a) == (number in b)
        np.testing.assert_array_equal(u[a == number], v[b == number])
    counts = [np.bincount(g.neighbors, minlength=graph.num_items) for g in (graph, other)]
    np.testing.assert_array_equal(*counts)
    shared = np.mean(
        [len(np.intersect1d(a, b)) for (a, _), (b, _) in zip(_rows(graph)[1:], _rows(other)[1:], strict=True)]
    )
    assert shared < 4  # of 11; the own entry is one
    assert permuted_entries(graph, 3).hash == other.hash != permuted_entries(graph, 4).hash


def test_permuted_labels_are_the_same_graph_under_other_names() -> None:
    graph = DATASET.graph
    other = permuted_labels(graph, 3)
    before, after = graph.to_scipy().toarray(), other.to_scipy().toarray()
    assert not np.array_equal(before, after) and not after[0].any() and not after[:, 0].any()
    np.testing.assert_allclose(np.sort(before.sum(1)), np.sort(after.sum(1)), rtol=1e-6)
    np.testing.assert_allclose(np.sort(before.diagonal()), np.sort(after.diagonal()))
    # Isomorphic matrices have the same singular values.
    values = [np.linalg.svd(m, compute_uv=False) for m in (before, after)]
    np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-3)


def test_too_full_rows_cannot_be_permuted() -> None:
    from resemb_ext import InterestGraph

    full = InterestGraph.from_csr([0, 2, 4, 6], [1, 2, 0, 2, 0, 1])
    assert permuted_entries(full, 0).hash == full.hash  # the only one of its kind


def test_two_tables_are_their_sum() -> None:
    model, _ = _model("two-tables")
    table = model.get_submodule("item_embedding")
    assert isinstance(table, ResEmbedding) and table.graph.num_edges == table.num_embeddings - 1
    torch.testing.assert_close(table.materialize(), table.central + table.residual)
    assert without_edges(5).num_edges == 0


def test_centre_only_has_a_residual_of_zero_that_stays() -> None:
    model, config = _model("centre")
    table = model.get_submodule("item_embedding")
    before = table.central.detach().clone()
    fit(model, DATASET.train(0), DATASET.valid, config=config.fit_config(), epochs=1, progress=False)
    assert not table.residual.any() and not torch.equal(before, table.central)


def test_tables_have_the_sizes_that_they_are_compared_by() -> None:
    items, dim = DATASET.log.num_items, 8
    found = {}
    for name in TABLES:
        model, _ = _model(name)
        table = model.get_submodule("model.item_embedding" if name == "laplacian" else "item_embedding")
        found[name] = sum(p.numel() for p in table.parameters() if p.requires_grad)
    one = items * dim
    attention = found.pop("attention")
    assert 2 * one < attention < 2 * one + 3 * dim
    assert found == {
        "plain": one,
        "centre": one,
        "item2vec": one,
        "laplacian": one,
        "plain-2d": 2 * one,
        "res": 2 * one,
        "gcn-1": 2 * one,
        "gcn-2": 2 * one,
        "two-tables": 2 * one,
        "res-entries": 2 * one,
        "res-labels": 2 * one,
    }


@pytest.mark.one_in(5)
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("l2_of", compare_training.L2_MODES)
def test_every_table_trains_and_is_a_function_of_the_seed(table: str, l2_of: str) -> None:
    def trained(seed: int):
        model, config = _model(table, seed, l2_of=l2_of)
        done = fit(
            model, DATASET.train(seed), DATASET.valid, config=config.fit_config(), epochs=1, seed=seed, progress=False
        )
        return done.history[0]["loss"], done.valid["gauc"]

    first = trained(1)
    assert first == trained(1) and first != trained(2)
    assert first[0] < 0.75


def test_res_tables_differ_by_their_link_and_graph_alone() -> None:
    vectors = {}
    for name in ("res", "gcn-1", "gcn-2", "res-entries", "res-labels"):
        table = _model(name)[0].get_submodule("item_embedding")
        vectors[name] = item_vectors(table)
        torch.testing.assert_close(table.central, _model("res")[0].get_submodule("item_embedding").central)
    names = list(vectors)
    assert all(not np.allclose(vectors[a], vectors[b]) for i, a in enumerate(names) for b in names[:i])


def test_item2vec_starts_at_the_scale_of_the_others_and_knows_neighbours() -> None:
    model, _ = _model("item2vec", init_std=0.02)
    vectors = item_vectors(model.get_submodule("item_embedding"))
    known = DATASET.split.item_counts > 0
    assert vectors[known].std() == pytest.approx(0.02, rel=1e-3)
    assert not vectors[0].any()
    unit = vectors[known] / np.linalg.norm(vectors[known], axis=1, keepdims=True)
    domain = SOURCE.truth.domain[known]
    alike = (unit @ unit.T)[~np.eye(known.sum(), dtype=bool)].reshape(known.sum(), -1)
    same = (domain[:, None] == domain)[~np.eye(known.sum(), dtype=bool)].reshape(known.sum(), -1)
    assert alike[same].mean() > alike[~same].mean() + 0.05


def test_penalty_is_the_laplacian_form_and_its_sample_is_unbiased() -> None:
    model, _ = _model("laplacian")
    assert isinstance(model, GraphPenalty)
    weights = DATASET.graph.with_link("average", padding_idx=0).to_scipy().toarray()
    table = item_vectors(model.model.get_submodule("item_embedding")).astype(np.float64)
    square = ((table[:, None] - table[None]) ** 2).sum(-1)
    expected = 0.5 * START["graph_l2"] * (weights * square).sum()
    items = torch.arange(DATASET.log.num_items)
    assert model.penalty(items).item() == pytest.approx(expected, rel=1e-4)
    torch.manual_seed(0)
    sampled = np.mean([model.auxiliary_loss().item() for _ in range(200)])
    assert sampled == pytest.approx(expected, rel=0.02)


def test_fixed_training_sample_holds_the_same_events_for_every_seed() -> None:
    dataset = replace(DATASET, train_rows=200)
    one, other = dataset.train(1), dataset.train(2)
    assert len(one) == len(other) == 200
    positive = one.label == 1
    np.testing.assert_array_equal(one.target[positive], other.target[positive])
    np.testing.assert_array_equal(one.label, other.label)
    assert not np.array_equal(one.target[~positive], other.target[~positive])
    with pytest.raises(ValueError, match="rows must be"):
        replace(DATASET, train_rows=10**9).train(0)


def test_catalogue_holds_the_rows_that_the_issues_ask_for() -> None:
    variants = [variant for _, variant in variants_of("amazon-beauty", category=True)]
    assert len(set(variants)) == len(variants)
    have = {(r.group.model, r.group.category, r.table) for r in variants}
    assert have >= {(m, c, t) for m in ("dnn", "din") for c in (True, False) for t in MAIN}
    assert have >= {("dnn", False, t) for t in CONTROLS}
    assert set(MAIN) | set(CONTROLS) == set(TABLES)
    few = ("plain", "centre", "res")
    assert [variant for _, variant in variants_of("x", category=True, tables=few)] == [
        Variant(Group("x", "dnn", False), t) for t in few
    ]
    assert not any(variant.group.category for _, variant in variants_of("x", category=False))
