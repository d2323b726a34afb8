"""Res-embeddings in models of DeepCTR-Torch, by its own fit, evaluate and predict."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import resemb_ext as rx
from tests.integrations.conftest import framework

framework("deepctr_torch", __file__)

from deepctr_torch.callbacks import ModelCheckpoint  # noqa: E402
from deepctr_torch.inputs import SparseFeat, create_embedding_matrix  # noqa: E402
from deepctr_torch.models import WDL  # noqa: E402

from resemb_ext.integrations import deepctr  # noqa: E402
from tests.integrations.deepctr.sample import ITEMS, columns, fit, model, predicted, quiet, samples  # noqa: E402

MODELS = ["DIN", "DIEN", "DeepFM", "xDeepFM", "DCN"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def identity() -> rx.InterestGraph:
    """Every item its own neighbour alone."""
    rows = ITEMS + 1
    return rx.InterestGraph.from_csr(np.arange(rows + 1), np.arange(rows), np.ones(rows))


def real() -> rx.InterestGraph:
    x, y = samples()
    return deepctr.item_graph(columns(), x, y, user="user")


def evaluated(made: Any) -> dict[str, float]:
    with quiet():
        return made.evaluate(*samples("valid"), 256)


@pytest.mark.parametrize("name", MODELS)
def test_an_identity_graph_changes_nothing(name: str) -> None:
    plain, ours = model(name, l2_reg_embedding=1e-3), model(name, l2_reg_embedding=1e-3)
    deepctr.replace_embeddings(ours, identity(), item="item")
    table = ours.embedding_dict["item"]
    table.residual.requires_grad_(False)  # zero under this graph: C is the table
    np.testing.assert_allclose(predicted(ours), predicted(plain), atol=1e-6)
    theirs, own = fit(plain), fit(ours)
    for key in theirs:
        np.testing.assert_allclose(own[key], theirs[key], atol=1e-6, rtol=1e-6, err_msg=key)
    np.testing.assert_allclose(predicted(ours), predicted(plain), atol=1e-6)
    assert evaluated(ours) == pytest.approx(evaluated(plain), abs=1e-6)
    torch.testing.assert_close(table.materialize(), plain.embedding_dict["item"].weight, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_real_graph_trains(name: str) -> None:
    made = model(name)
    before = predicted(made)
    report = deepctr.replace_embeddings(made, real(), item="item")
    table = made.embedding_dict["item"]
    assert report["embedding_dict.item"].module is table and table.graph.num_edges > ITEMS
    np.testing.assert_allclose(predicted(made), before, atol=1e-6)
    start = table.central.detach().clone(), table.residual.detach().clone()
    loss = fit(made, epochs=4)["loss"]
    assert loss[-1] < loss[0]
    assert not torch.equal(table.central, start[0]) and not torch.equal(table.residual, start[1])


def test_the_penalty_acts_on_both_tables() -> None:
    made = model("DIN", l2_reg_embedding=0.5)
    user = made.embedding_dict["user"].weight.square().sum()
    report = deepctr.replace_embeddings(made, real())
    table = made.embedding_dict["item"]
    wanted = 0.5 * (user + table.central.square().sum() + table.residual.square().sum())
    torch.testing.assert_close(made.get_regularization_loss().squeeze(), wanted)
    assert report["embedding_dict.item"].mended == ("regularization_weight[0][0][1]",)
    rx.restore_embeddings(made, optimizer=made.optim)
    item = made.embedding_dict["item"].weight.square().sum()
    torch.testing.assert_close(made.get_regularization_loss().squeeze(), 0.5 * (user + item))


def test_the_linear_part_keeps_its_table_unless_asked() -> None:
    made = model("DeepFM")
    deepctr.replace_embeddings(made, real())
    assert type(made.linear_model.embedding_dict["item"]) is torch.nn.Embedding
    both = model("DeepFM")
    assert len(deepctr.replace_embeddings(both, real(), linear=True)) == 2
    assert isinstance(both.linear_model.embedding_dict["item"], rx.ResEmbedding)
    loss = fit(both, epochs=3)["loss"]
    assert loss[-1] < loss[0]


def test_a_model_before_compile() -> None:
    made = model("DIN")
    del made.optim
    deepctr.replace_embeddings(made, real())
    made.compile("adam", "binary_crossentropy", ["auc"])
    table = made.embedding_dict["item"]
    start = table.residual.detach().clone()
    fit(made, epochs=1)
    assert not torch.equal(table.residual, start)


@pytest.mark.parametrize("optimizer", ["own", "sparse", "in backward"])
def test_a_whole_model_is_saved_and_goes_on(optimizer: str, tmp_path: Path) -> None:
    made = model("DIN")
    deepctr.replace_embeddings(made, real(), optimizer=optimizer)
    path = tmp_path / "model.pt"
    fit(made, epochs=1, callbacks=[ModelCheckpoint(str(path), monitor="auc", save_best_only=False)])
    loaded = torch.load(path, weights_only=False)
    np.testing.assert_array_equal(predicted(loaded), predicted(made))
    assert fit(loaded, epochs=2, initial_epoch=1) == fit(made, epochs=2, initial_epoch=1)
    np.testing.assert_array_equal(predicted(loaded), predicted(made))


def test_weights_are_saved_and_loaded(tmp_path: Path) -> None:
    made, other = model("DIN"), model("DIN", seed=8)
    graph = real()
    for one in (made, other):
        deepctr.replace_embeddings(one, graph)
    fit(made, epochs=1)
    torch.save(made.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt"))
    np.testing.assert_array_equal(predicted(other), predicted(made))


def test_a_trained_model_is_restored() -> None:
    made = model("DIN")
    deepctr.replace_embeddings(made, real())
    fit(made, epochs=1)
    scores = predicted(made)
    rx.restore_embeddings(made, optimizer=made.optim)
    assert type(made.embedding_dict["item"]) is torch.nn.Embedding
    np.testing.assert_allclose(predicted(made), scores, atol=1e-6)
    plain = model("DIN", seed=8)
    plain.load_state_dict(made.state_dict())
    np.testing.assert_array_equal(predicted(plain), predicted(made))
    before = made.embedding_dict["item"].weight.detach().clone()
    fit(made, epochs=1)
    assert not torch.equal(made.embedding_dict["item"].weight, before)


def test_rows_alone_are_stepped() -> None:
    dense, rows = model("DIN", l2_reg_embedding=0.0), model("DIN", l2_reg_embedding=0.0)
    graph = real()
    deepctr.replace_embeddings(dense, graph)
    report = deepctr.replace_embeddings(rows, graph, optimizer="sparse")
    assert isinstance(rows.optim, rx.optim.Adam) and report["embedding_dict.item"].optimizers[0].optimizer is rows.optim
    table = rows.embedding_dict["item"]
    table(torch.tensor([3])).sum().backward()
    assert table.residual.grad.is_sparse
    rows.zero_grad()
    np.testing.assert_allclose(predicted(rows), predicted(dense), atol=1e-7)
    loss = fit(rows, epochs=4)["loss"]
    assert loss[-1] < loss[0]


def test_rows_alone_are_stepped_as_sgd_steps_all() -> None:
    """SGD without momentum leaves rows outside the batch alone anyway."""
    made = [model("DIN", l2_reg_embedding=0.0) for _ in range(3)]
    for one, optimizer in zip(made, ("own", "sparse", "in backward"), strict=True):
        one.compile(torch.optim.SGD(one.parameters(), lr=0.05), "binary_crossentropy", ["auc"])
        deepctr.replace_embeddings(one, real(), optimizer=optimizer)
        fit(one)
    np.testing.assert_allclose(predicted(made[1]), predicted(made[0]), atol=1e-6)
    np.testing.assert_array_equal(predicted(made[2]), predicted(made[1]))


def test_the_penalty_becomes_decay_of_rows() -> None:
    made = model("DIN", l2_reg_embedding=0.25)
    user = made.embedding_dict["user"].weight.square().sum()
    deepctr.replace_embeddings(made, real(), optimizer="sparse")
    table = made.embedding_dict["item"]
    torch.testing.assert_close(made.get_regularization_loss().squeeze(), 0.25 * user)
    own = [group for group in made.optim.param_groups if any(p is table.central for p in group["params"])]
    assert [(len(group["params"]), group["weight_decay"]) for group in own] == [(2, 0.5)]
    assert sum(len(group["params"]) for group in made.optim.param_groups) == len(list(made.parameters()))
    fit(made)


def test_what_cannot_step_rows_changes_nothing() -> None:
    made = model("DIN", l2_reg_embedding=0.25)
    made.compile(torch.optim.AdamW(made.parameters()), "binary_crossentropy")
    with pytest.raises(ValueError, match="AdamW"):
        deepctr.replace_embeddings(made, real(), optimizer="sparse")
    made.compile("rmsprop", "binary_crossentropy")
    with pytest.raises(TypeError, match="RMSprop"):
        deepctr.replace_embeddings(made, real(), optimizer="sparse")
    made.compile("adam", "binary_crossentropy")
    made.add_regularization_weight(made.embedding_dict["item"].weight, l1=0.1)
    with pytest.raises(ValueError, match="L1"):
        deepctr.replace_embeddings(made, real(), optimizer="sparse")
    del made.optim
    with pytest.raises(ValueError, match="found 'dense'; expected one of 'own'"):
        deepctr.replace_embeddings(made, real(), optimizer="dense")
    with pytest.raises(ValueError, match="sparse: found in the options"):
        deepctr.replace_embeddings(made, real(), sparse=True)
    with pytest.raises(ValueError, match="compile"):
        deepctr.replace_embeddings(made, real(), optimizer="sparse")
    assert type(made.embedding_dict["item"]) is torch.nn.Embedding


def test_its_own_initialisation_writes_the_vectors() -> None:
    """create_embedding_matrix calls nn.init.normal_(table.weight) on each table."""
    made = model("DIN")
    deepctr.replace_embeddings(made, real())
    drawn = create_embedding_matrix(columns(), init_std=0.3)["item"]
    assert type(drawn) is torch.nn.Embedding
    torch.manual_seed(5)
    for table in made.embedding_dict.values():
        torch.nn.init.normal_(table.weight, mean=0, std=0.3)
    table = made.embedding_dict["item"]
    torch.manual_seed(5)
    wanted = [torch.nn.init.normal_(torch.empty(t.num_embeddings, 4), std=0.3) for t in made.embedding_dict.values()]
    torch.testing.assert_close(table.materialize(), wanted[1], atol=1e-6, rtol=1e-6)


def test_it_moves_and_is_copied() -> None:
    made = model("DIN")
    deepctr.replace_embeddings(made, real())
    scores = predicted(made)
    copied = copy.deepcopy(made).to("cpu")
    np.testing.assert_array_equal(predicted(copied), scores)
    fit(copied, epochs=1)
    np.testing.assert_array_equal(predicted(made), scores)


def test_two_graphs_for_one_table_are_refused() -> None:
    features = [SparseFeat(name, ITEMS + 1, 4, embedding_name="item") for name in ("item", "last")]
    with quiet():
        made = WDL(features, features, dnn_hidden_units=(4,))
    with pytest.raises(ValueError, match="graph: 'last' shares a table with another name"):
        deepctr.replace_embeddings(made, {"item": real(), "last": identity()})
    assert type(made.embedding_dict["item"]) is torch.nn.Embedding


def test_bad_arguments_are_named() -> None:
    made = model("DeepFM")
    with pytest.raises(TypeError, match="model: found Linear"):
        deepctr.replace_embeddings(torch.nn.Linear(1, 1), real())
    with pytest.raises(ValueError, match=r"item: found 'movie'.*user, item"):
        deepctr.replace_embeddings(made, real(), item="movie")
    with pytest.raises(ValueError, match="found 'item' with a mapping"):
        deepctr.replace_embeddings(made, {"item": real()}, item="item")
    with pytest.raises(ValueError, match=r"embedding_dict\.user: the graph has 41 items; expected 61"):
        deepctr.replace_embeddings(made, {"item": real(), "user": real()})
    with pytest.raises(ValueError, match="linear: the linear part has no table of 'item'"):
        deepctr.replace_embeddings(model("DIN"), real(), linear=True)
    assert all(type(table) is torch.nn.Embedding for table in made.embedding_dict.values())
