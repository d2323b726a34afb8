"""A group of one rank: the same numbers as without it, and what is refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import resemb_ext as rx
from tests.distributed.worlds import USERS, Case, D, H, Model, graph, train

if not dist.is_available() or not dist.is_gloo_available():
    pytest.skip("this torch has no gloo", allow_module_level=True)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("link", ["average", "attention", "given"])
@pytest.mark.parametrize("how", ["dealt", "whole"])
def test_trains_as_without(link: str, how: str, group: None, tmp_path: Path) -> None:
    case = Case(link, "Adagrad", shard={"graph": how})
    found = train(case, 5)
    dist.destroy_process_group()
    expected = train(case, 5)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'again'}", rank=0, world_size=1)
    assert found["losses"].tolist() == expected["losses"].tolist()
    for name, (rows, part) in found["tables"].items():
        assert rows.tolist() == list(range(len(expected["tables"][name])))
        torch.testing.assert_close(part, expected["tables"][name], rtol=0, atol=1e-6)


def test_without_a_group() -> None:
    with pytest.raises(RuntimeError, match=r"torch\.distributed is not initialized"):
        rx.distributed.shard(Model(Case()))


class Own(nn.Embedding):
    """A subclass, whose forward nobody knows."""


def _shared() -> nn.Module:
    model = nn.ModuleList([nn.Embedding(5, 2, sparse=True), nn.Embedding(5, 2, sparse=True)])
    model[1].weight = model[0].weight  # type: ignore[assignment]
    return model


def _hooked() -> nn.Module:
    model = nn.Embedding(5, 2, sparse=True)
    model.register_forward_hook(lambda *_: None)
    return nn.ModuleList([model])


def _stepped() -> nn.Module:
    model = nn.ModuleList([nn.Embedding(5, 2, sparse=True)])
    optimizer = rx.optim.SGD(model.parameters())
    optimizer.step_in_backward(model)
    model.optimizer = optimizer  # type: ignore[assignment]
    return model


def _on_meta() -> nn.Module:
    return nn.ModuleList([nn.Embedding(5, 2, sparse=True), nn.Linear(2, 2, device="meta")])


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (lambda: nn.Linear(2, 2), {}, ValueError, "model: holds no ResEmbedding.*DistributedDataParallel alone"),
        (lambda: nn.Embedding(5, 2), {}, ValueError, "model: holds no ResEmbedding"),
        (lambda: nn.ModuleList([Own(5, 2, sparse=True)]), {}, TypeError, "^0: found Own, a subclass; expected"),
        (lambda: nn.EmbeddingBag(5, 2, mode="max"), {}, ValueError, "holds no"),
        (lambda: nn.Embedding(5, 2, sparse=True, max_norm=1.0), {}, ValueError, "model: uses max_norm"),
        (_shared, {}, ValueError, "^1: its table is that of 0 too"),
        (_hooked, {}, ValueError, "^0: has hooks"),
        (_stepped, {}, ValueError, "^0: is stepped in backward already"),
        (_on_meta, {}, ValueError, "^1.weight: is on the meta device"),
        (lambda: Model(Case()), {"graph": "mapped"}, ValueError, "graph: found 'mapped'; expected 'dealt' or 'whole'"),
        (lambda: Model(Case()), {"rows_dtype": torch.int8}, ValueError, "rows_dtype: found torch.int8; expected None"),
    ],
)
def test_refused(make: Any, options: dict[str, Any], error: type[Exception], message: str, group: None) -> None:
    with pytest.raises(error, match=message):
        rx.distributed.shard(make(), **options)


def test_once(group: None) -> None:
    model = rx.distributed.shard(Model(Case()))
    with pytest.raises(ValueError, match="model: found ShardedModel; shard a model before it is wrapped, and once"):
        rx.distributed.shard(model)


def test_bad_ids(group: None) -> None:
    item = rx.distributed.shard(Model(Case())).module.item
    with pytest.raises(IndexError, match=rf"ids: id {H} at position 1 is out of range"):
        item(torch.tensor([0, H]))
    with pytest.raises(TypeError, match=r"ids: found torch\.float32"):
        item(torch.tensor([0.0]))
    with pytest.raises(ValueError, match="offsets: fall from 2 to 1"):
        item.bag(torch.tensor([1, 2, 3]), torch.tensor([0, 2, 1]))


def test_forms_of_ids(group: None) -> None:
    plain = Model(Case())
    expected = {
        "none": plain.item(torch.zeros(0, dtype=torch.int64)),
        "int32": plain.item(torch.tensor([[3, 0], [5, 3]], dtype=torch.int32)),
        "bag": plain.item.bag(torch.tensor([[3, 0], [5, 3]])),
        "ends": plain.item.bag(torch.tensor([3, 1, 5, 3]), torch.tensor([0, 2, 3]), include_last_offset=True),
    }
    nested = torch.nested.nested_tensor([torch.tensor([3, 0, 5]), torch.tensor([2])], layout=torch.jagged)
    expected["nested"] = plain.item(nested).values()
    item = rx.distributed.shard(plain).module.item
    found = {
        "none": item(torch.zeros(0, dtype=torch.int64)),
        "int32": item(torch.tensor([[3, 0], [5, 3]], dtype=torch.int32)),
        "bag": item.bag(torch.tensor([[3, 0], [5, 3]])),
        "ends": item.bag(torch.tensor([3, 1, 5, 3]), torch.tensor([0, 2, 3]), include_last_offset=True),
        "nested": item(nested).values(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6, msg=name)


def test_tables_and_state(group: None) -> None:
    plain = Model(Case())
    state = copy.deepcopy(plain.state_dict())
    model = rx.distributed.shard(plain)
    found = {table.name: table for table in rx.distributed.tables(model)}
    assert {name: table.shape for name, table in found.items()} == {
        "item.central": (H, D),
        "item.residual": (H, D),
        "user.weight": (USERS, 3),
        "tags.weight": (5, 3),
    }
    for name, table in found.items():
        assert torch.equal(table.part, state[name])
        with torch.no_grad():
            table.part.zero_()
    assert found["item.central"].load(torch.tensor([2, 1]), torch.ones(2, D)) == 2
    assert found["item.central"].part[1:3].sum() == 2 * D
    with pytest.raises(IndexError, match=r"rows: found 0 to 41; expected \[0, 41\)"):
        found["item.central"].load(torch.tensor([0, H]), torch.ones(2, D))
    with pytest.raises(ValueError, match=r"whole: found 3 rows for item\.central; expected 41"):
        found["item.central"].own(torch.zeros(3, D))
    model.module.load_state_dict(state)  # of one process
    assert torch.equal(found["item.residual"].part, state["item.residual"])
    saved = model.state_dict()
    assert saved["module.item._extra_state"].tolist() == [H, 1, 0]
    for copied in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            copied(model.module.item)


@pytest.mark.parametrize("items", [3, 17, 70_000])
def test_tables_on_the_meta_device_start_as_in_one_process(items: int, group: None) -> None:
    of_graph = rx.InterestGraph.from_csr(range(items + 1), range(items))
    torch.manual_seed(3)
    expected = rx.ResEmbedding(of_graph, 3, padding_idx=1, match_std=True)
    torch.manual_seed(3)
    with torch.device("meta"):
        module = rx.ResEmbedding(of_graph, 3, padding_idx=1, match_std=True)
    found = rx.distributed.shard(module).module
    assert torch.equal(found.central, expected.central) and torch.equal(found.residual, expected.residual)


def test_optimizers_know_dealt_tables(group: None) -> None:
    model = rx.distributed.shard(nn.ModuleList([nn.Embedding(5, 2, sparse=True)])).module
    model[0](torch.tensor([1, 2])).sum().backward()
    gradient = model[0].weight.grad
    assert gradient.is_sparse and gradient._indices().tolist() == [[1, 2]]
    rx.optim.average_gradients(model)
    assert model[0].weight.grad is gradient
    optimizer = rx.optim.SGD(model.parameters())
    with pytest.raises(RuntimeError, match="GradScaler: skips a step where this rank's gradients overflow"):
        optimizer.found_inf = torch.tensor(0.0)
        optimizer.step()
    assert optimizer._step_supports_amp_scaling


def test_old_optimizers_are_told(group: None) -> None:
    model = nn.ModuleList([nn.Embedding(5, 2, sparse=True)])
    optimizer = rx.optim.SGD(model.parameters())
    dealt = rx.distributed.shard(model)
    dealt.module[0](torch.tensor([1])).sum().backward()
    with pytest.warns(UserWarning, match="steps a table that has been replaced"):
        optimizer.step()


def test_a_model_of_tables_alone(group: None) -> None:
    model = rx.distributed.shard(nn.ModuleDict({"item": rx.ResEmbedding(graph(), D, sparse=True)}))
    with model.no_sync():
        model.module["item"](torch.tensor([3])).sum().backward()
    model.module["item"](torch.tensor([3])).sum().backward()
    gradient = model.module["item"].residual.grad.coalesce()
    assert gradient.indices().tolist() == [[3]] and gradient.values().tolist() == [[2.0] * D]
    assert model.traffic() == {"all": 0}


def test_modes(group: None) -> None:
    """Dropout of edges follows train and eval; without gradients nothing is kept."""
    plain = nn.Sequential(rx.ResEmbedding(graph(), D, "attention", edge_dropout=0.5), nn.Linear(D, 1))
    expected = plain.eval()(torch.arange(H))
    model = rx.distributed.shard(plain)
    assert not model._parallel[0].module[0].attention.training
    with torch.no_grad():
        found = model(torch.arange(H))
    assert not found.requires_grad
    torch.testing.assert_close(found, expected)
    model.train()
    assert not torch.allclose(model(torch.arange(H)), model(torch.arange(H)))
    assert "41, 6, rank 0 of 1 with 41 rows, link='attention'" in repr(model)


@pytest.mark.parametrize("sparse", [True, False])
def test_frozen_tables(sparse: bool, group: None) -> None:
    emb = rx.ResEmbedding(graph(), D, sparse=sparse)
    emb.central.requires_grad_(False)
    module = rx.distributed.shard(nn.ModuleList([emb])).module[0]
    module(torch.tensor([3, 4])).sum().backward()
    assert module.central.grad is None and not module.central.requires_grad
    assert module.residual.grad.is_sparse == sparse and module.residual.grad.to_dense().sum() == 2 * D


def test_no_second_derivative(group: None) -> None:
    module = rx.distributed.shard(nn.ModuleList([rx.ResEmbedding(graph(), D, sparse=True)])).module[0]
    out = module(torch.tensor([3])).square().sum()
    with pytest.raises(RuntimeError):
        (gradient,) = torch.autograd.grad(out, module.residual, create_graph=True)
        gradient.to_dense().sum().backward()


def test_tables_of_one_graph_share_its_numbers(group: None) -> None:
    """Two tables over as many items take turns with one array of slots."""
    plain = nn.ModuleList([rx.ResEmbedding(graph(), D, sparse=True) for _ in range(2)])
    expected = [table(torch.tensor([5, 7, 5])) for table in plain]
    module = rx.distributed.shard(plain).module
    assert module[0]._source.slots is module[1]._source.slots
    found = [table(torch.tensor([5, 7, 5])) for table in module]
    sum(vectors.sum() for vectors in found).backward()
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
