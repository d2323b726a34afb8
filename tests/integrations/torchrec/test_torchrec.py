"""Res-embeddings in TorchRec's unsharded collections."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import resemb_ext as rx
from tests.docs.pages import DOCS, ROOT, run_page
from tests.integrations.conftest import framework

torchrec = framework("torchrec", __file__)

from torch.distributed.optim import _apply_optimizer_in_backward as in_backward  # noqa: E402
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, EmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor  # noqa: E402
from torchrec.modules.embedding_configs import DataType, PoolingType  # noqa: E402

from resemb_ext.integrations import torchrec as adapter  # noqa: E402

ITEMS, DIM = 12, 4


def identity() -> rx.InterestGraph:
    return rx.InterestGraph.from_csr(np.arange(ITEMS + 1), np.arange(ITEMS), np.ones(ITEMS))


def ring() -> rx.InterestGraph:
    return rx.InterestGraph.from_csr(np.arange(ITEMS + 1), np.roll(np.arange(ITEMS), -1), np.ones(ITEMS))


def features(seed: int = 0, weighted: bool = False, rows: int = 8) -> KeyedJaggedTensor:
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.cat([torch.randint(0, 4, (rows,), generator=draw), torch.ones(2 * rows, dtype=torch.long)])
    values = torch.randint(0, ITEMS, (int(lengths.sum()),), generator=draw)
    weights = torch.rand(len(values), generator=draw) if weighted else None
    return KeyedJaggedTensor.from_lengths_sync(["history", "item", "user"], values, lengths, weights)


def bags(pooling: Any = PoolingType.SUM, weighted: bool = False, dtype: Any = DataType.FP32) -> EmbeddingBagCollection:
    torch.manual_seed(1)
    item = {"embedding_dim": DIM, "num_embeddings": ITEMS, "pooling": pooling, "data_type": dtype}
    tables = [
        EmbeddingBagConfig(name="t_item", feature_names=["item", "history"], **item),
        EmbeddingBagConfig(name="t_user", feature_names=["user"], **item),
    ]
    return EmbeddingBagCollection(tables=tables, is_weighted=weighted)


def plain() -> EmbeddingCollection:
    torch.manual_seed(1)
    table = {"embedding_dim": DIM, "num_embeddings": ITEMS}
    return EmbeddingCollection(
        tables=[
            EmbeddingConfig(name="t_item", feature_names=["item", "history"], **table),
            EmbeddingConfig(name="t_user", feature_names=["user"], **table),
        ]
    )


class Model(nn.Module):
    def __init__(self, collection: nn.Module) -> None:
        super().__init__()
        self.collection = collection
        torch.manual_seed(2)
        self.over = nn.Linear(3 * DIM, 1)

    def forward(self, kjt: KeyedJaggedTensor) -> torch.Tensor:
        out = self.collection(kjt)
        if not isinstance(out, dict):
            return self.over(out.values()).squeeze(1)
        history = torch.segment_reduce(out["history"].values(), "sum", lengths=out["history"].lengths(), axis=0)
        return self.over(torch.cat([out["item"].values(), history, out["user"].values()], 1)).squeeze(1)


def train(model: Model, optimizer: Any, steps: int = 20, weighted: bool = False) -> list[float]:
    losses = []
    for step in range(steps):
        kjt = features(step % 4, weighted)
        wanted = (kjt["item"].values() % 2).float()
        loss = nn.functional.binary_cross_entropy_with_logits(model(kjt), wanted)
        if optimizer is not None:
            optimizer.zero_grad()
        loss.backward()
        if optimizer is not None:
            optimizer.step()
        losses.append(float(loss))
    return losses


MADE = {
    "sum": lambda: bags(PoolingType.SUM),
    "mean": lambda: bags(PoolingType.MEAN),
    "weighted": lambda: bags(PoolingType.SUM, weighted=True),
    "collection": plain,
}


@pytest.mark.parametrize("kind", MADE)
def test_an_identity_graph_changes_nothing(kind: str) -> None:
    models = [Model(MADE[kind]()), Model(MADE[kind]())]
    optimizers = [torch.optim.Adam(model.parameters(), lr=0.05) for model in models]
    report = adapter.replace_embeddings(models[1], {"t_item": identity()}, optimizer=optimizers[1])
    table = report.tables[0].module
    table.residual.requires_grad_(False)
    losses = [train(*both, weighted=kind == "weighted") for both in zip(models, optimizers, strict=True)]
    np.testing.assert_allclose(losses[1], losses[0], atol=1e-6)
    kjt = features(9, kind == "weighted")
    torch.testing.assert_close(models[1](kjt), models[0](kjt), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("sparse", [False, True])
def test_a_real_graph_trains_and_goes_on(kind: str, sparse: bool) -> None:
    def made() -> tuple[Model, Any]:
        model = Model(MADE[kind]())
        adapter.replace_embeddings(model, {"history": ring()}, sparse=sparse)
        return model, rx.optim.Adam(model.parameters(), lr=0.05)

    model, optimizer = made()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = train(model, optimizer, weighted=kind == "weighted")
    assert losses[-1] < losses[3]
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    other, its = made()
    for part, state in zip((other, its), torch.load(file), strict=True):
        part.load_state_dict(state)
    weighted = kind == "weighted"
    assert train(other, its, weighted=weighted) == train(model, optimizer, weighted=weighted)


def test_what_goes_in_and_out_stays() -> None:
    ours, kjt = bags(), features()
    wanted = ours(kjt)
    adapter.replace_embeddings(ours, {"t_item": ring()})
    table = ours.embedding_bags["t_item"]
    assert type(table) is rx.ResEmbeddingBag and type(ours.embedding_bags["t_user"]) is nn.EmbeddingBag
    out = ours(kjt)
    assert (out.keys(), out.length_per_key()) == (wanted.keys(), wanted.length_per_key())
    torch.testing.assert_close(out["history"], wanted["history"], atol=1e-6, rtol=1e-6)
    names = [name for name in ours.state_dict() if "t_item" in name and not name.endswith("_extra_state")]
    assert names == ["embedding_bags.t_item.central", "embedding_bags.t_item.residual"]


def test_half_precision_tables() -> None:
    ours, kjt = bags(dtype=DataType.FP16), features()
    wanted = ours(kjt).values()
    adapter.replace_embeddings(ours, {"t_item": ring()})
    assert ours.embedding_bags["t_item"].central.dtype == torch.float16
    torch.testing.assert_close(ours(kjt).values(), wanted, atol=2e-3, rtol=2e-3)


def test_reset_parameters_draws_the_vectors() -> None:
    ours, other = bags(), bags()
    adapter.replace_embeddings(ours, {"t_item": ring()})
    for one in (ours, other):
        torch.manual_seed(3)
        one.reset_parameters()
    torch.testing.assert_close(ours(features()).values(), other(features()).values(), atol=1e-6, rtol=1e-6)


def test_plain_tables_come_back_and_load() -> None:
    ours, fresh, kjt = bags(), bags(), features()
    adapter.replace_embeddings(ours, {"t_item": ring()})
    train(Model(ours), rx.optim.SGD(ours.parameters(), lr=0.1))
    wanted = ours(kjt).values()
    rx.restore_embeddings(ours)
    assert type(ours.embedding_bags["t_item"]) is nn.EmbeddingBag
    fresh.load_state_dict(ours.state_dict())
    torch.testing.assert_close(fresh(kjt).values(), wanted, atol=1e-6, rtol=1e-6)


def test_optimizers_in_backward_come_after() -> None:
    ours = bags()
    in_backward(torch.optim.SGD, ours.embedding_bags["t_item"].parameters(), {"lr": 0.1})
    with pytest.raises(ValueError, match="steps its table in backward; call apply_optimizer_in_backward after"):
        adapter.replace_embeddings(ours, {"t_item": ring()})
    assert type(ours.embedding_bags["t_item"]) is nn.EmbeddingBag
    models = [Model(bags()), Model(bags())]
    for model in models:
        adapter.replace_embeddings(model, {"t_item": ring()})
    in_backward(torch.optim.SGD, models[0].parameters(), {"lr": 0.1})
    losses = train(models[0], None), train(models[1], torch.optim.SGD(models[1].parameters(), lr=0.1))
    np.testing.assert_allclose(*losses, atol=1e-6)


def kjt_of(users: list[int], rows: list[list[int]], items: list[int]) -> KeyedJaggedTensor:
    values = torch.tensor([*[one for row in rows for one in row], *items, *users])
    lengths = torch.tensor([*map(len, rows), *[1] * (2 * len(rows))])
    return KeyedJaggedTensor.from_lengths_sync(["history", "item", "user"], values, lengths)


def test_the_graph_of_samples() -> None:
    """User 1 meets 0, 3, 4, 5, and user 2 meets 7, 8; id 0 is an item."""
    kjt = kjt_of([1, 1, 1, 2], [[0], [0, 3], [0, 3, 4], [7]], [3, 4, 5, 8])
    wanted = rx.InterestGraph.from_events(np.array([1, 1, 1, 1, 2, 2]), np.array([0, 3, 4, 5, 7, 8]), num_items=ITEMS)
    keys = {"history": "history", "item": "item", "user": "user"}
    got = adapter.item_graph(kjt, ITEMS, labels=torch.ones(4), **keys)
    assert np.array_equal(got.neighbors, wanted.neighbors) and np.array_equal(got.weights, wanted.weights)
    halves = [kjt_of([1, 1], [[0], [0, 3]], [3, 4]), kjt_of([1, 2], [[0, 3, 4], [7]], [5, 8])]
    again = adapter.item_graph(halves, ITEMS, labels=torch.ones(4), **keys)
    assert np.array_equal(again.neighbors, wanted.neighbors) and np.array_equal(again.weights, wanted.weights)
    less = adapter.item_graph(kjt, ITEMS, labels=[1, 1, 0, 0], **keys)
    assert less.num_edges < wanted.num_edges


def test_bad_arguments_are_named() -> None:
    kjt = features()
    with pytest.raises(TypeError, match="features: found int"):
        adapter.item_graph([3], ITEMS, history="history")
    with pytest.raises(ValueError, match="no key 'clicks'; found history, item, user"):
        adapter.item_graph(kjt, ITEMS, history="clicks")
    with pytest.raises(ValueError, match="labels: found None"):
        adapter.item_graph(kjt, ITEMS, history="history", item="item")
    with pytest.raises(ValueError, match="labels: found 3 values; expected 8"):
        adapter.item_graph(kjt, ITEMS, history="history", item="item", labels=[0, 1, 0])
    with pytest.raises(ValueError, match=r"history: found a sample with .* expected one id a sample"):
        adapter.item_graph(kjt, ITEMS, history="item", user="history")
    with pytest.raises(IndexError, match="history: found the id"):
        adapter.item_graph(kjt, 2, history="history")
    with pytest.raises(ValueError, match="max_gap: the events of a history have no times"):
        adapter.item_graph(kjt, ITEMS, history="history", max_gap=1)
    with pytest.raises(
        ValueError, match=r"'clicks' means 0 tables; found the tables \(features\) t_item \(item, history\)"
    ):
        adapter.replace_embeddings(bags(), {"clicks": ring()})
    with pytest.raises(ValueError, match="a table that another name means too"):
        adapter.replace_embeddings(bags(), {"item": ring(), "history": ring()})
    with pytest.raises(ValueError, match="no EmbeddingBagCollection"):
        adapter.replace_embeddings(nn.Linear(1, 1), {"item": ring()})
    with pytest.raises(TypeError, match="graphs: found InterestGraph"):
        adapter.replace_embeddings(bags(), ring())


@pytest.mark.moving("TorchRec", "weighted mean")
def test_weighted_mean() -> None:
    weighted = features(weighted=True)
    with pytest.raises((NotImplementedError, RuntimeError), match="per_sample_weights"):
        bags(PoolingType.MEAN, weighted=True)(weighted)
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import DenseTableBatchedEmbeddingBagsCodegen as Dense

    table = Dense([(3, 1)], pooling_mode=PoolingMode.MEAN, use_cpu=True)
    table.weights.data.copy_(torch.tensor([1.0, 2.0, 4.0]))
    ids, weights = torch.tensor([1, 2]), torch.tensor([1.0, 3.0])
    assert table(ids, torch.tensor([0, 2]), weights).item() == (1 * 2 + 3 * 4) / 2
    plain = nn.EmbeddingBag.from_pretrained(torch.tensor([[1.0], [2.0], [4.0]]), mode="mean")
    graph = rx.InterestGraph.from_csr(np.arange(4), np.arange(3), np.ones(3))
    for divisor, wanted in (("weights", 14 / 4), ("count", 14 / 2)):
        ours = rx.ResEmbeddingBag.from_embedding_bag(plain, graph, mean_divisor=divisor)
        assert ours(ids, torch.tensor([0]), weights).item() == pytest.approx(wanted)


@pytest.mark.moving("TorchRec", "gAUC")
def test_gauc() -> None:
    from torchrec.metrics.gauc import compute_gauc_3d

    def theirs(scores: list[list[float]], labels: list[list[float]]) -> float:
        one = torch.ones(1, len(scores), len(scores[0]))
        out = compute_gauc_3d(torch.tensor([scores]), torch.tensor([labels]), one)
        return float(out["auc_sum"] / out["num_samples"])

    two = [[0.1, 0.9, 0.2], [0.9, 0.1, 0.5]], [[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]
    assert theirs(*two) == pytest.approx(0.5)
    tied = [[0.5, 0.5, 0.1]]
    assert {theirs(tied, [[1.0, 0.0, 0.0]]), theirs(tied, [[0.0, 1.0, 0.0]])} == {0.5, 1.0}
    ours = rx.metrics.gauc([1, 0, 0], tied[0], [0, 0, 0])
    assert ours == pytest.approx(0.75)


@pytest.mark.moving("TorchRec", "padding row")
def test_padding_row() -> None:
    collection = bags()
    assert collection.embedding_bags["t_item"].padding_idx is None
    adapter.replace_embeddings(collection, {"t_item": ring()})
    assert collection.embedding_bags["t_item"].padding_idx is None
    assert collection.embedding_bags["t_item"](torch.tensor([[0]])).abs().sum() > 0


def test_the_page_runs() -> None:
    names = {"kjt": features(), "labels": torch.ones(8), "ITEMS": ITEMS, "torch": torch}
    left = run_page(DOCS / "integrations" / "torchrec.md", names)
    assert len(left["report"]) == 1


def test_the_example_trains() -> None:
    script = [sys.executable, str(ROOT / "examples" / "torchrec_ebc.py"), "--users", "40", "--items", "400"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*script, "--epochs", "1"], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line.split()[0] for line in done.stdout.splitlines() if "auc" in line] == ["plain", "res"]
