"""What replace_embeddings makes of a FuxiCTR model: optimizers, regulariser, clipping, initial weights."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest

from tests.integrations.conftest import framework

framework("fuxictr", __file__)
import torch  # noqa: E402
from fuxictr.features import FeatureMap  # noqa: E402
from fuxictr.pytorch.layers import FeatureEmbeddingDict  # noqa: E402
from fuxictr.pytorch.torch_utils import seed_everything  # noqa: E402
from torch import nn  # noqa: E402

import resemb_ext as rx  # noqa: E402
from resemb_ext.integrations import fuxictr  # noqa: E402

from . import models, sample  # noqa: E402

DIN = models.Case(models.DIN, models.sequential, {"hidden_units": (16,)})
DEEPFM = models.Case(models.DeepFM, models.pooled, {})


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def data(tmp_path):
    return models.sequential(tmp_path / "data")


def replaced(data, case=DIN, options=None, **changes):
    model = case.build(data, **changes)
    report = fuxictr.replace_embeddings(model, data.graph(), **(options or {}))
    return model, report.tables[0].module


def fit(model, data, **options):
    seed_everything(1)
    loader = data.load("train", shuffle=True)
    model.fit(loader, validation_data=data.load("valid"), epochs=2, **options)
    return model.evaluate(data.load("test"))


def batch(data):
    return next(iter(data.load("train")))


@pytest.mark.parametrize("kind", ["sparse", "in backward"])
@pytest.mark.parametrize("rule", ["SGD", "Adagrad"])
def test_sparse_gradients_train_as_dense_ones(data, rule, kind):
    """Of rules that leave rows without gradients alone."""
    changes = {"optimizer": rule, "learning_rate": 0.1}
    own, _ = replaced(data, **changes)
    wanted = fit(own, data, max_gradient_norm=1e6)
    model, table = replaced(data, options={"optimizer": kind}, **changes)
    assert isinstance(model.optimizer, getattr(rx.optim, rule))
    assert table.sparse
    got = fit(model, data, max_gradient_norm=1e6)
    assert got == pytest.approx(wanted, abs=1e-6)
    assert table.weight.std() > 5e-4  # has moved from 1e-4


def test_adam_in_backward_is_adam_on_rows(data):
    results = []
    for kind in ("sparse", "in backward"):
        model, table = replaced(data, options={"optimizer": kind})
        results.append((fit(model, data, max_gradient_norm=1e6), table.central.detach().clone()))
    assert results[0][0] == results[1][0]
    torch.testing.assert_close(results[0][1], results[1][1], rtol=0, atol=0)


def test_sparse_gradients_are_clipped_as_dense_ones(data):
    changes = {"optimizer": "SGD", "learning_rate": 1.0}
    own, table = replaced(data, **changes)
    wanted = fit(own, data, max_gradient_norm=0.01)
    model, other = replaced(data, options={"optimizer": "sparse"}, **changes)
    assert fit(model, data, max_gradient_norm=0.01) == pytest.approx(wanted, abs=1e-6)
    torch.testing.assert_close(other.weight.detach() + 0, table.weight.detach() + 0, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["sparse", "in backward"])
def test_l2_becomes_decay_of_the_rows_of_the_batch(data, kind):
    changes = {"optimizer": "SGD", "learning_rate": 0.1, "embedding_regularizer": 0.5}
    own, dense = replaced(data, **changes)
    model, sparse = replaced(data, options={"optimizer": kind}, **changes)
    start = sparse.residual.detach().clone()
    for one in (own, model):
        one._max_gradient_norm = 1e6
        one.train()
        one.train_step(batch(data))
    ids = torch.unique(torch.cat([batch(data)["item"].flatten(), batch(data)["history"].flatten()])).long()
    ids = ids[ids != 0]
    others = np.setdiff1d(np.arange(len(start)), ids)
    torch.testing.assert_close(sparse.residual[ids], dense.residual[ids], rtol=1e-5, atol=1e-9)
    assert torch.equal(sparse.residual[others], start[others])  # theirs shrinks every row
    assert not torch.equal(dense.residual[others], start[others])
    rest = [p for p in own.embedding_layer.parameters() if p is not dense.central and p is not dense.residual]
    assert float(model.regularization_loss()) == pytest.approx(sum(0.25 * float(p.norm() ** 2) for p in rest))
    assert sparse.central.requires_grad and sparse.residual.requires_grad


def test_the_regulariser_reads_both_tables_by_name(data):
    model, table = replaced(data, embedding_regularizer="l1_l2(0.1,0.2)")
    users = model.embedding_layer.embedding_layers["user"].weight
    wanted = sum(0.1 * p.abs().sum() + 0.1 * p.square().sum() for p in (table.central, table.residual, users))
    assert model.regularization_loss().item() == pytest.approx(wanted.item(), rel=1e-5)


def test_reset_parameters_draws_the_table_anew(data):
    for start in ("exact", "smoothed", "fresh"):
        model, table = replaced(data, options={"start": start})
        with torch.no_grad():
            table.central.fill_(1.0)
            table.residual.fill_(1.0)
        seed_everything(3)
        model.reset_parameters()
        vectors = table.weight.detach() + 0
        assert torch.equal(vectors[0], torch.zeros(8))
        share = 1.0 if start != "smoothed" else 0.5  # a mean of neighbours varies less
        assert vectors[1:].std().item() == pytest.approx(1e-4 * share, rel=0.35), start
        if start == "smoothed":
            assert table.residual.abs().max() == 0


def test_tables_replaced_one_after_the_other_are_both_drawn_anew(data):
    model, table = replaced(data)
    users = model.embedding_layer.embedding_layers["user"].num_embeddings
    graph = rx.InterestGraph.from_csr(np.arange(users + 1), np.arange(users), np.ones(users))
    (other,) = (t.module for t in fuxictr.replace_embeddings(model, {"user": graph}))
    with torch.no_grad():
        for one in (table, other):
            one.central.fill_(1.0)
            one.residual.fill_(1.0)
    model.reset_parameters()
    assert table.weight.abs().max() < 0.01 and other.weight.abs().max() < 0.01


def test_a_shared_table_stays_shared_and_one_without_sharing_is_replaced_too(data):
    model, table = replaced(data)
    layers = model.embedding_layer.embedding_layers
    assert layers["item"] is layers["history"] is table
    assert table.padding_idx == 0 and table.num_embeddings == data.feature_map.features["item"]["vocab_size"]


def test_weights_of_logistic_regression_are_left_out_unless_asked_for(tmp_path):
    data = models.pooled(tmp_path / "data")
    for linear, count in ((False, 1), (True, 3)):
        model = DEEPFM.build(data)
        report = fuxictr.replace_embeddings(model, data.graph(), linear=linear)
        assert [t.dim for t in report] == [8] + [1] * (count - 1)
        assert fit(model, data)["AUC"] > 0


def test_training_goes_on_from_a_checkpoint(data, tmp_path):
    for kind in ("own", "sparse", "in backward"):

        def epoch(model):
            model._max_gradient_norm = 10.0
            model.train()
            seed_everything(4)
            for rows in data.load("train", shuffle=True):
                model.train_step(rows)

        through, _ = replaced(data, options={"optimizer": kind})
        epoch(through)
        through.save_weights(str(tmp_path / "w"))
        torch.save(through.optimizer.state_dict(), tmp_path / "o")
        epoch(through)
        resumed, _ = replaced(data, options={"optimizer": kind}, seed=9)
        resumed.load_weights(str(tmp_path / "w"))
        resumed.optimizer.load_state_dict(torch.load(tmp_path / "o"))
        epoch(resumed)
        for name, value in through.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[name]), (kind, name)


def test_weights_of_the_plain_model_load(data, tmp_path):
    plain = DIN.build(data)
    wanted = fit(plain, data)
    plain.save_weights(str(tmp_path / "plain"))
    model, _ = replaced(data, seed=7)
    model.load_weights(str(tmp_path / "plain"))
    assert model.evaluate(data.load("test")) == pytest.approx(wanted, abs=1e-6)


def test_compile_again(data):
    model, table = replaced(data)
    model.compile("adam", "binary_crossentropy", 1e-2)
    before = table.central.detach().clone()
    fit(model, data)
    assert not torch.equal(before, table.central)
    model, _ = replaced(data, options={"optimizer": "sparse"})
    model.compile("adam", "binary_crossentropy", 1e-2)
    with pytest.raises(RuntimeError, match=r"resemb_ext\.optim"):
        fit(model, data)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copied_model_regularises_and_resets_its_own_tables(data, copied):
    model, table = replaced(data, options={"optimizer": "sparse"}, embedding_regularizer=0.5)
    other = copied(model)
    copy_table = other.embedding_layer.embedding_layers["item"]
    assert copy_table is not table and isinstance(copy_table, rx.ResEmbedding)
    before = table.central.detach().clone()
    other.reset_parameters()
    assert torch.equal(table.central, before) and not torch.equal(copy_table.central, before)
    with torch.no_grad():
        copy_table.central.fill_(100.0)
    assert float(other.regularization_loss()) < 1.0


def pretrained(folder, usage, freeze=False):
    fmap = FeatureMap("pre", str(folder))
    spec = {"type": "categorical", "source": "", "padding_idx": 0, "vocab_size": 12, "oov_idx": 10}
    spec |= {"pretrained_emb": "emb.npz", "pretrain_dim": 4, "pretrain_usage": usage, "freeze_emb": freeze}
    fmap.features["item"] = spec
    fmap.labels = ["label"]
    vocab = {"__PAD__": 0, **{str(i): i for i in range(1, 10)}, "__OOV__": 10, "new": 11}
    (folder / "feature_vocab.json").write_text(json.dumps({"item": vocab, "other": {}}))
    np.savez(folder / "emb.npz", key=np.array([str(i) for i in range(1, 10)]), value=np.ones((9, 4), np.float32))
    return fmap


class Pretrained(models._Small):
    def __init__(self, feature_map, **kwargs):
        super().__init__(feature_map, **kwargs)
        self.embedding_layer = FeatureEmbeddingDict(feature_map, 4)
        self.out = nn.Linear(4, 1)
        self.finish(1e-2, kwargs)

    def forward(self, inputs):
        return {"y_pred": self.out(self.embedding_layer(self.get_inputs(inputs))["item"]).sigmoid()}


@pytest.mark.filterwarnings("ignore:.*its padding, is not zero")
@pytest.mark.parametrize("usage", ["sum", "concat", "init"])
def test_pretrained_tables(tmp_path, usage):
    fmap = pretrained(tmp_path, usage)
    model = Pretrained(fmap, **sample.params(tmp_path))
    graph = rx.InterestGraph.from_events([1, 1, 1], [1, 2, 3], num_items=12, padding_idx=0)
    rows = {"item": torch.arange(12), "label": torch.arange(12) % 2}
    before = model.predict([rows])
    report = fuxictr.replace_embeddings(model, {"item": graph})
    (table,) = report
    assert table.path.endswith("pretrain_embedding" if usage == "init" else "id_embedding")
    np.testing.assert_allclose(model.predict([rows])[1:], before[1:], atol=1e-6)  # padding of init is not zero there
    model._max_gradient_norm = 10.0
    start = table.module.central.detach().clone()
    model.train_step(rows)
    assert not torch.equal(start, table.module.central)
    model.reset_parameters()
    if usage != "init":
        assert (table.module.weight.detach() + 0)[10:].abs().max() == 0  # as FuxiCTR has it


@pytest.mark.moving("FuxiCTR", "padding of pretrained tables")
def test_padding_of_a_trained_pretrained_table_counts_in_the_mean_of_a_history(tmp_path):
    fmap = pretrained(tmp_path, "init")
    sequence = {"type": "sequence", "max_len": 4, "share_embedding": "item"}
    fmap.features["history"] = {**fmap.features["item"], **sequence, "feature_encoder": "layers.MaskedAveragePooling()"}
    model = Pretrained(fmap, **sample.params(tmp_path))
    rows = {"history": torch.tensor([[3, 0, 0, 0]])}
    vector = torch.ones(1, 4)
    torch.testing.assert_close(model.embedding_layer(rows)["history"], vector / 4, atol=1e-3, rtol=0)
    graph = rx.InterestGraph.from_events([1], [3], num_items=12, padding_idx=0)
    fuxictr.replace_embeddings(model, graph)
    torch.testing.assert_close(model.embedding_layer(rows)["history"], vector / 4, atol=1e-3, rtol=0)  # exact start


def test_a_frozen_pretrained_table_is_refused(tmp_path):
    model = Pretrained(pretrained(tmp_path, "init", freeze=True), **sample.params(tmp_path))
    with pytest.raises(ValueError, match="item: its pretrained table is frozen"):
        fuxictr.replace_embeddings(model, {"item": rx.InterestGraph.from_events([1], [1], num_items=12, padding_idx=0)})


@pytest.mark.parametrize(
    ("changes", "options", "error", "words"),
    [
        ({}, {"optimizer": "torch"}, ValueError, "optimizer: found 'torch'; expected one of 'own', 'sparse'"),
        ({}, {"sparse": True}, ValueError, 'say optimizer="sparse"'),
        ({}, {"graph": {"nothing": None}}, ValueError, "item: found 'nothing'; expected a field with ids"),
        ({}, {"graph": {"item": "graph", "history": "graph"}}, ValueError, "'history' shares the table of 'item'"),
        ({}, {"graph": 3}, TypeError, "graph: found int"),
        ({}, {"link": "nothing"}, ValueError, "link"),
        ({"optimizer": "RMSprop"}, {"optimizer": "sparse"}, TypeError, "RMSprop"),
        ({"embedding_regularizer": "l1(0.1)"}, {"optimizer": "sparse"}, ValueError, "L1 has dense gradients"),
        ({}, {"optimizer": "sparse", "link": "nothing"}, ValueError, "link"),
    ],
)
def test_what_is_refused_leaves_the_model_as_it_was(data, changes, options, error, words):
    model = DIN.build(data, **changes)
    optimizer, before = model.optimizer, copy.deepcopy(model.state_dict())
    options = {"graph": data.graph(), **options}
    with pytest.raises(error, match=words):
        fuxictr.replace_embeddings(model, options.pop("graph"), **options)
    assert model.optimizer is optimizer
    assert type(model.embedding_layer.embedding_layers["item"]) is nn.Embedding
    assert "regularization_loss" not in vars(model) and "init_weights" not in vars(model.embedding_layer)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_no_model_of_fuxictr():
    with pytest.raises(TypeError, match="model: found Linear; expected a model of FuxiCTR"):
        fuxictr.replace_embeddings(nn.Linear(2, 2), None)
