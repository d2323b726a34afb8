"""RecBole's own training, evaluation and checkpoints with Res-embeddings in its models."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import resemb_ext as rx
from tests.integrations.conftest import framework

framework("recbole", __file__)

from recbole.data.transform import construct_transform  # noqa: E402
from recbole.quick_start import load_data_and_model  # noqa: E402
from recbole.utils import get_flops  # noqa: E402
from recbole.utils.case_study import full_sort_topk  # noqa: E402

from resemb_ext.integrations.recbole import item_graph, plain_checkpoint, replace_embeddings  # noqa: E402
from tests.integrations.recbole import sample  # noqa: E402

MODELS = ["SASRec", "GRU4Rec", "DIN", "BPR", "DeepFM", "FM", "BERT4Rec"]


def identity(num_items: int) -> rx.InterestGraph:
    return rx.InterestGraph.from_csr(np.arange(num_items + 1), np.arange(num_items), np.ones(num_items))


def tables(model: nn.Module) -> list[rx.ResEmbedding]:
    return [module for module in model.modules() if isinstance(module, rx.ResEmbedding)]


def run(data: SimpleNamespace, model: nn.Module, trainer: Any = None) -> dict[str, Any]:
    """Losses and metrics of RecBole's fit and evaluate."""
    trainer = trainer or sample.trainer_of(data, model)
    _, valid = trainer.fit(data.train, data.valid, verbose=False)
    test = trainer.evaluate(data.test)
    losses = {f"loss {epoch}": loss for epoch, loss in trainer.train_loss_dict.items()}
    return losses | {f"valid {k}": v for k, v in valid.items()} | {f"test {k}": v for k, v in test.items()}


def pair(model: str, folder: Path, **options: Any) -> tuple[list[dict[str, Any]], list[nn.Module]]:
    """Losses and metrics of the plain model and of one over an identity graph, and both models."""
    results, models = [], []
    for replaced in (False, True):
        data = sample.prepare(model, folder, **options)
        models.append(sample.build(data))
        if replaced:
            assert replace_embeddings(models[-1], data.train, identity(data.dataset.item_num))
            for table in tables(models[-1]):
                table.residual.requires_grad_(False)  # C and R would step alike, and E twice as far
        results.append(run(data, models[-1]))
    assert len(results[0]) >= 6
    return results, models


@pytest.mark.parametrize("model", MODELS)
def test_identity_graph_gives_the_metrics_of_the_plain_model(model: str, tmp_path: Path) -> None:
    """DIN under SGD: biases before its batch normalisation have a gradient of 0 but for rounding, which Adam lifts."""
    (plain, got), _ = pair(model, tmp_path, **({"learner": "sgd", "learning_rate": 1.0} if model == "DIN" else {}))
    assert got == pytest.approx(plain, abs=1e-6, rel=0)


def test_identity_graph_under_adam_gives_din_its_losses_and_weights(tmp_path: Path) -> None:
    (plain, got), models = pair("DIN", tmp_path)
    assert all(got[name] == pytest.approx(plain[name], rel=1e-6) for name in ("loss 0", "loss 1"))
    weights = [dict(model.named_parameters()) for model in models]
    for name, weight in weights[0].items():
        if name != "dnn_mlp_layers.mlp_layers.1.bias":
            other = weights[1].get(name, weights[1].get(name.replace("weight", "central")))
            torch.testing.assert_close(other, weight, atol=2e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("model", MODELS)
def test_real_graph_trains(model: str, tmp_path: Path) -> None:
    data = sample.prepare(model, tmp_path, epochs=4, learning_rate=0.01)
    replaced = sample.build(data)
    before = copy.deepcopy(replaced)
    report = replace_embeddings(replaced, data.train)
    assert [table.edges > data.dataset.item_num for table in report] == [True]
    with torch.no_grad():
        ids = torch.arange(report.tables[0].rows)
        old = before.get_submodule(report.tables[0].path)
        torch.testing.assert_close(report.tables[0].module(ids), old(ids))
    start = [copy.deepcopy(dict(table.named_parameters())) for table in tables(replaced)]
    got = run(data, replaced)
    assert got["loss 3"] < got["loss 0"]
    for table, first in zip(tables(replaced), start, strict=True):
        for name, parameter in table.named_parameters():
            assert (parameter - first[name]).abs().max() > 1e-3, name


@pytest.mark.parametrize("model", ["SASRec", "DIN", "BPR", "DeepFM"])
def test_training_resumes_from_the_checkpoint(model: str, tmp_path: Path) -> None:
    def start(epochs: int) -> tuple[SimpleNamespace, nn.Module, Any]:
        data = sample.prepare(model, tmp_path, epochs=epochs)
        replaced = sample.build(data)
        replace_embeddings(replaced, data.train)
        return data, replaced, sample.trainer_of(data, replaced)

    def second_epoch(data: SimpleNamespace, trainer: Any) -> None:
        data.train.generator.manual_seed(5)  # RecBole's checkpoints hold no state of random numbers
        sample.init_seed(5, True)
        trainer.fit(data.train, verbose=False, saved=False)

    data, whole, trainer = start(1)
    trainer.fit(data.train, verbose=False)
    saved = trainer.saved_model_file
    trainer.start_epoch, trainer.epochs = 1, 2
    second_epoch(data, trainer)

    data, resumed, trainer = start(2)
    trainer.resume_checkpoint(saved)
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in resumed.parameters()} <= held, "RecBole has put a copy into the model"
    second_epoch(data, trainer)
    for (name, value), expected in zip(resumed.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(value, expected), name


@pytest.mark.parametrize("model", ["SASRec", "DIN", "BPR", "DeepFM"])
def test_restored_model_evaluates_the_same_with_plain_tables(model: str, tmp_path: Path) -> None:
    data = sample.prepare(model, tmp_path, epochs=1)
    replaced = sample.build(data)
    replace_embeddings(replaced, data.train)
    trainer = sample.trainer_of(data, replaced)
    trainer.fit(data.train, verbose=False)
    sample.init_seed(3, True)
    before = trainer.evaluate(data.test)
    rx.restore_embeddings(replaced, optimizer=trainer.optimizer)
    assert not tables(replaced)
    sample.init_seed(3, True)
    assert trainer.evaluate(data.test, load_best_model=False) == pytest.approx(before, abs=1e-6)
    names = sample.build(data).state_dict().keys()
    assert replaced.state_dict().keys() == names
    trainer.fit(data.train, verbose=False, saved=False)


@pytest.mark.parametrize("model", ["SASRec", "DIN"])
def test_plain_checkpoint_opens_in_recbole(model: str, tmp_path: Path) -> None:
    data = sample.prepare(model, tmp_path, epochs=1)
    replaced = sample.build(data)
    replace_embeddings(replaced, data.train)
    trainer = sample.trainer_of(data, replaced)
    trainer.fit(data.train, verbose=False)
    file = tmp_path / "plain.pth"
    plain_checkpoint(trainer.saved_model_file, file, replaced)
    assert len(tables(replaced)) == 1
    _, plain, _, _, _, test = load_data_and_model(str(file))
    assert not tables(plain)
    replaced.eval()
    plain.eval()
    batch = next(iter(test))[0]
    with torch.no_grad():
        assert not torch.equal(plain.predict(batch), sample.build(data).eval().predict(batch))
        torch.testing.assert_close(plain.predict(batch), replaced.predict(batch))


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec", "BPR"])
def test_top_items_of_users_are_those_of_the_plain_table(model: str, tmp_path: Path) -> None:
    data = sample.prepare(model, tmp_path)
    replaced = sample.build(data)
    replace_embeddings(replaced, data.train)
    users = data.test.dataset.inter_feat["user_id"].unique()[:5].numpy()
    scores, items = full_sort_topk(users, replaced, data.test, k=10)
    rx.restore_embeddings(replaced)
    expected, order = full_sort_topk(users, replaced, data.test, k=10)
    torch.testing.assert_close(scores, expected)
    assert scores.shape == (5, 10)
    assert torch.equal(items, order)


@pytest.mark.parametrize("model", ["SASRec", "DIN", "DeepFM"])
def test_operations_are_counted(model: str, tmp_path: Path) -> None:
    data = sample.prepare(model, tmp_path)
    transform = construct_transform(data.config)

    def flops(graph: rx.InterestGraph | None) -> float:
        counted = sample.build(data)
        if graph is not None:
            replace_embeddings(counted, data.train, graph)
        return get_flops(counted, data.dataset, data.config["device"], counted.logger, transform)

    plain = flops(None)
    assert flops(identity(data.dataset.item_num)) == plain
    assert flops(item_graph(data.train)) > plain


def test_swap_after_the_trainer_takes_its_optimizer(tmp_path: Path) -> None:
    data = sample.prepare("DIN", tmp_path, epochs=1)
    replaced = sample.build(data)
    trainer = sample.trainer_of(data, replaced)
    with pytest.warns(UserWarning, match="optimizer"):
        replace_embeddings(replaced, data.train)
    table = tables(replaced)[0]
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert id(table.central) not in held

    replaced = sample.build(data)
    trainer = sample.trainer_of(data, replaced)
    report = replace_embeddings(replaced, data.train, optimizer=trainer.optimizer)
    table = tables(replaced)[0]
    before = table.central.detach().clone()
    trainer.fit(data.train, verbose=False, saved=False)
    assert (table.central - before).abs().max() > 1e-4
    assert "Adam: group 0" in str(report)


def test_other_fields_of_the_table_stay_plain_rows(tmp_path: Path) -> None:
    """DeepFM's table holds users, items and more behind one another; the graph lies at the items' rows."""
    data = sample.prepare("DeepFM", tmp_path)
    replaced = sample.build(data)
    graph = item_graph(data.train)
    replace_embeddings(replaced, data.train, graph)
    fm = replaced.token_embedding_table
    offset = int(fm.offsets[replaced.token_field_names.index("item_id")])
    assert 0 < offset < fm.embedding.num_embeddings - graph.num_items
    sizes = np.diff(fm.embedding.graph.indptr)
    own = np.diff(graph.indptr)
    assert (sizes[:offset] == 1).all()
    assert (sizes[offset + graph.num_items :] == 1).all()
    assert (sizes[offset : offset + graph.num_items] == np.maximum(own, 1)).all()
    assert type(replaced.first_order_linear.token_embedding_table.embedding) is nn.Embedding


def test_tables_by_name(tmp_path: Path) -> None:
    data = sample.prepare("DeepFM", tmp_path)
    replaced = sample.build(data)
    with pytest.raises(ValueError, match=r"tables: 'user' is no table of items; expected one of token_embedding_table"):
        replace_embeddings(replaced, data.train, tables=["user"])
    name = "first_order_linear.token_embedding_table"
    report = replace_embeddings(replaced, data.train, tables=["token_embedding_table", name])
    assert [table.path for table in report] == ["token_embedding_table.embedding", f"{name}.embedding"]


def test_graphs_over_other_items_are_refused(tmp_path: Path) -> None:
    data = sample.prepare("SASRec", tmp_path)
    plain = sample.build(data)
    items = data.dataset.item_num
    with pytest.raises(ValueError, match=rf"graph: found {items - 1} items; expected {items}: RecBole's"):
        replace_embeddings(plain, data.train, identity(items - 1))
    with pytest.raises(TypeError, match="graph: found int; expected an InterestGraph"):
        replace_embeddings(plain, data.train, 3)
    with pytest.raises(TypeError, match="does not tell training events"):
        replace_embeddings(plain, data.dataset)
    assert not tables(plain)


@pytest.mark.parametrize("model", ["SASRec", "DIN", "BPR", "DeepFM"])
def test_sparse_gradients_with_our_optimizer_and_clipping(model: str, tmp_path: Path) -> None:
    """Under SGD rows without a gradient do not move: dense and sparse training end at the same numbers."""
    ends = []
    for sparse in (False, True):
        clip = {"clip_grad_norm": {"max_norm": 0.1}}
        data = sample.prepare(model, tmp_path, learner="sgd", learning_rate=1.0, epochs=1, **clip)
        replaced = sample.build(data)
        replace_embeddings(replaced, data.train, sparse=sparse)
        trainer = sample.trainer_of(data, replaced)
        if sparse:
            trainer.optimizer = rx.optim.like(trainer.optimizer)
        with rx.optim.patch_clipping():
            trainer.fit(data.train, verbose=False, saved=False)
        ends.append((tables(replaced)[0].central.detach(), trainer.train_loss_dict[0]))
    torch.testing.assert_close(ends[0][0], ends[1][0], atol=1e-5, rtol=1e-5)
    assert ends[0][1] == pytest.approx(ends[1][1], rel=1e-5)
