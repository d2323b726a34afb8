"""replace_embeddings and restore_embeddings: numbers, names, aliases, copies."""

from __future__ import annotations

import copy
import io
import types
import warnings
from collections import deque
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.utils.prune
from torch import nn

import resemb_ext as rx
from tests.replace.models import DIM, ROWS, Model, inputs, refused, ring

pytestmark = pytest.mark.usefixtures("one_thread")


def test_vectors_stay_and_move_together() -> None:
    model = Model()
    plain = copy.deepcopy(model)
    item = model.tables["item"]
    report = rx.replace_embeddings(model, {"item": ring()})
    assert model.tables["item"] is item and type(item) is rx.ResEmbedding
    torch.testing.assert_close(model(*inputs()), plain(*inputs()))
    assert str(report) == ("1 table changed\ntables.item: Embedding -> ResEmbedding, 12 rows x 4, float32, 22 edges")
    with torch.no_grad():
        item.central[5] += 1
    moved = (model.tables["item"].weight - plain.tables["item"].weight).abs().sum(1) > 1e-6
    assert set(moved.nonzero().flatten().tolist()) == {4, 5}


def test_starts() -> None:
    table = torch.randn(ROWS, DIM)
    table[0] = 0
    weights = torch.zeros(ROWS, ROWS)
    for item in range(1, ROWS):
        weights[item, item] = weights[item, item % (ROWS - 1) + 1] = 0.5

    def started(start: str) -> nn.Module:
        plain = nn.Embedding.from_pretrained(table * 3, freeze=False, padding_idx=0)
        model = nn.ModuleDict({"item": plain})
        rx.replace_embeddings(model, {"item": ring()}, start=start)
        return model["item"]

    torch.testing.assert_close(started("exact").weight, table * 3)
    smoothed = started("smoothed")
    torch.testing.assert_close(smoothed.weight, weights @ (table * 3))
    assert not smoothed.residual.any()
    std = float((table[1:] * 3).std(correction=0))
    assert started("fresh").init_std == pytest.approx(std)

    wide = nn.ModuleDict({"item": nn.Embedding.from_pretrained(torch.randn(ROWS, 4000) * 0.02, False)})
    rx.replace_embeddings(wide, {"item": ring(padding=False)}, start="fresh")
    assert float(wide["item"].weight.std()) == pytest.approx(0.02, rel=0.05)


def test_no_random_numbers_are_drawn() -> None:
    model = Model()
    before = torch.get_rng_state()
    for start in ("exact", "smoothed"):
        rx.replace_embeddings(model, {"item": ring()}, start=start)
        rx.restore_embeddings(model)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("key", ["item", "tables.item", "module", "predicate"])
def test_keys(key: str) -> None:
    model = Model()
    keys = {"module": model.tables["item"], "predicate": lambda name, module: name.endswith("item")}
    report = rx.replace_embeddings(model, {keys.get(key, key): ring()})
    assert [table.path for table in report] == ["tables.item"]
    assert type(model.tables["user"]) is nn.Embedding


def test_one_graph_for_several_tables() -> None:
    model = nn.ModuleDict({"a": nn.Embedding(ROWS, 2), "b": nn.Embedding(ROWS, 3), "c": nn.Linear(1, 1)})
    report = rx.replace_embeddings(model, {lambda name, module: True: ring(padding=False)})
    assert [table.path for table in report] == ["a", "b"]
    assert len(report) == 2 and report["b"].dim == 3
    assert repr(report) == str(report)
    with pytest.raises(KeyError, match="expected one of a, b"):
        report["c"]


def test_one_call_after_another() -> None:
    model = Model()
    optimizer = torch.optim.Adam(model.parameters())
    plain = copy.deepcopy(model)
    rx.replace_embeddings(model, {"item": ring()}, optimizer=optimizer)
    rx.replace_embeddings(model, {"user": ring(ROWS + 3, padding=False)}, optimizer=optimizer, link="gcn", hops=2)
    torch.testing.assert_close(model(*inputs()), plain(*inputs()))
    names = [name for name, _ in model.named_parameters()]
    assert names[:4] == [f"tables.{table}.{part}" for table in ("item", "user") for part in ("central", "residual")]
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]
    for _ in range(2):
        assert len(rx.restore_embeddings(model, optimizer=optimizer)) == 2
        rx.replace_embeddings(
            model, {"item": ring(), "user": ring(ROWS + 3, padding=False)}, optimizer=optimizer, start="exact"
        )
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]
    torch.testing.assert_close(model(*inputs()), plain(*inputs()))


def test_a_model_that_is_an_embedding() -> None:
    model = nn.Embedding(ROWS, DIM)
    report = rx.replace_embeddings(model, {model: ring(padding=False)})
    assert type(model) is rx.ResEmbedding and report[""].module is model


class Shared(nn.Module):
    """One table under many names, some of which torch does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.item = nn.Embedding(ROWS, DIM)
        self.again = self.item
        self.layers = nn.ModuleList([nn.ModuleDict({"item": self.item})])
        self.fields = [{"item": self.item}, (self.item,), deque([self.item])]
        self.look_up = types.SimpleNamespace(table=self.item)
        self.hidden = [nn.Embedding(ROWS, 2), nn.Sequential(nn.Embedding(ROWS, 3))]
        self.loop = [self]


def test_aliases() -> None:
    model = Shared()
    report = rx.replace_embeddings(model, {"again": ring(padding=False)})
    assert (report.tables[0].path, *report.tables[0].aliases) == (
        "item",
        "again",
        "layers.0.item",
        "fields[0]['item']",
        "fields[1][0]",
        "fields[2][0]",
        "look_up.table",
    )
    assert "also known as again, layers.0.item" in str(report)
    assert type(model.fields[1][0]) is rx.ResEmbedding  # a tuple, which nobody can write


@pytest.mark.parametrize("key, path", [("hidden[0]", "hidden[0]"), ("hidden.1.0", "hidden[1].0")])
def test_tables_that_are_not_registered(key: str, path: str) -> None:
    model = Shared()
    assert rx.replace_embeddings(model, {key: ring(padding=False)}).tables[0].path == path


EVENTS = {"user": np.array([0, 0, 0, 1, 1]), "item": np.array([1, 2, 3, 2, 5]), "time": np.arange(5)}


@pytest.mark.parametrize(
    "kind", ["mapping", "frame", "tuple", "tensors", "no times", "long names", "arrow", "polars", "lazy"]
)
def test_events_become_a_graph(kind: str) -> None:
    events: Any = dict(EVENTS)
    if kind == "frame":
        events = pd.DataFrame(EVENTS)
    elif kind == "tuple":
        events = tuple(EVENTS.values())
    elif kind == "tensors":
        events = tuple(torch.from_numpy(array) for array in EVENTS.values())
    elif kind == "no times":
        del events["time"]
    elif kind == "long names":
        events = dict(zip(("user_id", "item_id", "timestamp"), EVENTS.values(), strict=True))
    elif kind == "arrow":
        events = pytest.importorskip("pyarrow").table(EVENTS)
    elif kind == "polars":
        events = pytest.importorskip("polars").DataFrame(EVENTS)
    elif kind == "lazy":
        events = pytest.importorskip("polars").DataFrame(EVENTS).lazy()
    model = Model()
    rx.replace_embeddings(model, {"item": events})
    want = rx.InterestGraph.from_events(*EVENTS.values(), num_items=ROWS, padding_idx=0).with_link(
        "average", padding_idx=0
    )
    assert model.tables["item"].graph.hash == want.hash


def test_a_log_becomes_a_graph() -> None:
    log, _ = rx.data.simulate(users=20, items=20, domains=2, events_per_user=(4, 6), seed=0)
    model = nn.ModuleDict({"item": nn.Embedding(log.num_items, DIM, padding_idx=0)})
    rx.replace_embeddings(model, {"item": log})
    assert model["item"].graph.meta["event_hash"] == log.content_hash
    split = rx.data.split(log, how="leave-last-out")
    rx.restore_embeddings(model)
    refused(TypeError, "item: .*split.train", model, {"item": split})


@pytest.mark.parametrize("link", ["average", "attention"])
def test_embeddings_with_one_weight_stay_so(link: str) -> None:
    model = nn.ModuleDict({"a": nn.Embedding(ROWS, DIM, padding_idx=0), "b": nn.Embedding(ROWS, DIM, padding_idx=0)})
    model["b"].weight = model["a"].weight
    plain = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters())
    refused(
        ValueError, "a: its weight is tied to b.weight.*in this call too", model, {"a": ring()}, optimizer=optimizer
    )
    other = rx.InterestGraph.from_csr(np.zeros(ROWS + 1, np.int64), [], [])
    refused(ValueError, "b: has the same weight as a, and another graph", model, {"a": ring(), "b": other})
    report = rx.replace_embeddings(model, {"a": ring(), "b": ring()}, optimizer=optimizer, link=link)
    assert len(report) == 2 and len(optimizer.param_groups[0]["params"]) == len(list(model.parameters()))
    assert model["a"].central is model["b"].central and model["a"].residual is model["b"].residual
    assert link == "average" or model["a"].attention.b is model["b"].attention.b
    ids = torch.arange(ROWS)
    torch.testing.assert_close(model["b"](ids), plain["b"](ids))
    rx.restore_embeddings(model, optimizer=optimizer)
    assert model["a"].weight is model["b"].weight is optimizer.param_groups[0]["params"][0]
    assert len(optimizer.param_groups[0]["params"]) == 1


def test_output_weights_read_at_the_call_follow() -> None:
    model = Model()
    plain = copy.deepcopy(model)
    rx.replace_embeddings(model, {"item": ring()})
    hidden = torch.randn(3, DIM)
    want = nn.functional.linear(hidden, plain.tables["item"].weight)
    torch.testing.assert_close(nn.functional.linear(hidden, model.tables["item"].weight), want)


def test_hooks_and_attributes_stay() -> None:
    model = Model()
    item = model.tables["item"]
    calls: list[str] = []
    handle = item.register_forward_hook(lambda *_: calls.append("after"))
    item.register_forward_pre_hook(lambda *_: calls.append("before"))
    item.field = "item_id"
    item.weight.no_decay = True
    item.register_parameter("scale", nn.Parameter(torch.ones(1)))
    item.register_buffer("seen", torch.zeros(ROWS))
    model.eval()
    rx.replace_embeddings(model, {"item": ring()})
    model.tables["item"](torch.tensor([1]))
    handle.remove()
    model.tables["item"](torch.tensor([1]))
    assert calls == ["before", "after", "before"]
    assert item.field == "item_id" and item.central.no_decay and item.residual.no_decay
    assert not item.training
    assert [name for name, _ in item.named_parameters()] == ["central", "residual", "scale"]
    assert "seen" in item.state_dict()
    item.train()
    rx.restore_embeddings(model)
    assert item.field == "item_id" and item.weight.no_decay and item.training
    assert [name for name, _ in item.named_parameters()] == ["weight", "scale"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("frozen", [False, True])
def test_dtypes_and_frozen_tables(dtype: torch.dtype, frozen: bool) -> None:
    model = Model().to(dtype)
    model.tables["item"].requires_grad_(not frozen)
    plain = copy.deepcopy(model)
    report = rx.replace_embeddings(model, {"item": ring()})
    item = model.tables["item"]
    assert report.tables[0].dtype == item.central.dtype == item.residual.dtype == dtype
    assert item.central.requires_grad == item.residual.requires_grad == (not frozen)
    rough = {torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(dtype, 1e-6)
    torch.testing.assert_close(item.materialize(), plain.tables["item"].weight.detach(), atol=rough, rtol=rough)
    rx.restore_embeddings(model)
    assert item.weight.requires_grad == (not frozen) and item.weight.dtype == dtype


def test_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = Model()
    rx.replace_embeddings(model, {"item": ring()})
    assert model.tables["item"].central.is_meta
    model.to_empty(device="cpu")
    model.tables["item"].reset_parameters()
    assert model.tables["item"](torch.tensor([1])).isfinite().all()


@pytest.mark.parametrize("start", ["exact", "smoothed", "fresh"])
def test_a_padding_row_that_is_not_zero_is_kept(start: str) -> None:
    model = Model()
    item = model.tables["item"]
    nn.init.normal_(item.weight)
    padding = item.weight.detach()[0].clone()
    report = rx.replace_embeddings(model, {"item": ring()}, start=start)
    assert "its padding row is not zero, and is kept" in str(report)
    torch.testing.assert_close(item(torch.tensor([0]))[0], padding)
    item(torch.tensor([0, 3])).sum().backward()
    assert not item.residual.grad[0].any() and item.residual.grad[3].all()
    rx.restore_embeddings(model)
    torch.testing.assert_close(item.weight.detach()[0], padding)


def test_a_padding_row_that_is_lost_is_told() -> None:
    model = Model()
    nn.init.ones_(model.tables["item"].weight)
    with pytest.warns(UserWarning, match="tables.item: .*padding"):
        rx.replace_embeddings(model, {"item": ring()}, keep_padding=False)
    assert not model.tables["item"](torch.tensor([0])).any()
    other = Model()
    nn.init.ones_(other.tables["item"].weight)
    rx.replace_embeddings(other, {"item": ring()}, padding_idx=None)
    assert other.tables["item"](torch.tensor([0])).all() and not other.tables["item"].keep_padding


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, lambda: torch.device("meta")])
def test_modes_of_the_caller(mode: Any) -> None:
    model = Model()
    plain = copy.deepcopy(model)
    with mode():
        rx.replace_embeddings(model, {"item": ring()})
    model(*inputs()).backward()
    assert model.tables["item"].central.grad.any()
    with mode():
        rx.restore_embeddings(model)
    model(*inputs()).backward()
    torch.testing.assert_close(model(*inputs()), plain(*inputs()))


def test_files_and_copies() -> None:
    model = Model()
    state = copy.deepcopy(model.state_dict())
    other = Model()
    rx.replace_embeddings(other, {"item": ring()})
    other.load_state_dict(state)
    torch.testing.assert_close(other(*inputs()), model(*inputs()))
    for change in (lambda: None, lambda: rx.restore_embeddings(other)):
        change()
        file = io.BytesIO()
        torch.save(other, file)
        file.seek(0)
        for again in (torch.load(file, weights_only=False), copy.deepcopy(other)):
            torch.testing.assert_close(again(*inputs()), model(*inputs()))
            assert type(again.tables["item"]) is type(other.tables["item"])
    assert list(other.state_dict()) == list(state)
    torch.testing.assert_close(other.state_dict()["tables.item.weight"], state["tables.item.weight"])


def test_restore_is_exact_and_leaves_a_plain_module() -> None:
    model = Model(sparse=True)
    plain = copy.deepcopy(model)
    rx.replace_embeddings(model, {"item": ring()}, link="attention", heads=2)
    table = model.tables["item"].materialize().detach().clone()
    report = rx.restore_embeddings(model)
    item = model.tables["item"]
    assert torch.equal(item.weight, table)
    assert type(item) is nn.Embedding and repr(item) == repr(plain.tables["item"])
    assert vars(item).keys() == vars(plain.tables["item"]).keys()
    assert item._modules == {} and item.sparse
    assert "ResEmbedding -> Embedding" in str(report)
    assert len(rx.restore_embeddings(model)) == 0
    script = torch.jit.script(nn.Sequential(item))
    torch.testing.assert_close(script(torch.tensor([1])), item(torch.tensor([1])))


def test_a_weight_of_a_module_outside_the_model_is_named() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.ModuleDict({"item": nn.Embedding(ROWS, DIM)})
            self.head = nn.Linear(DIM, ROWS, bias=False)
            self.head.weight = self.body["item"].weight

    whole = Whole()
    with pytest.warns(UserWarning, match=r"item: its weight is also weight of a Linear outside this model"):
        rx.replace_embeddings(whole.body, {"item": ring(padding=False)})
    gone = Whole()
    body = gone.body
    del gone
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rx.replace_embeddings(body, {"item": ring(padding=False)})


def test_fresh_leaves_out_a_padding_row_counted_from_the_end() -> None:
    table = nn.Embedding(ROWS, DIM)
    with torch.no_grad():
        table.weight[-1] = 100
    expected = table.weight[:-1].std(correction=0).item()
    alone = rx.InterestGraph.from_csr([0] * (ROWS + 1), [], [])
    rx.replace_embeddings(table, {table: alone}, start="fresh", padding_idx=-1)
    module: Any = table
    assert module.init_std == pytest.approx(expected)
