"""Decay of whole tables, applied before a row is read: against the dense form of every step."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from resemb_ext import InterestGraph, ResEmbedding, optim
from resemb_ext.testing.problems import make_graph
from resemb_ext.testing.strategies import examples

H, D = 40, 12
OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (optim.SGD, {"lr": 0.1}),
    "momentum": (optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "adagrad": (optim.Adagrad, {"lr": 0.1}),
    "rowwise": (optim.RowwiseAdagrad, {"lr": 0.1}),
    "adam": (optim.Adam, {"lr": 0.01}),
    "adamw": (optim.AdamW, {"lr": 0.01}),
}


def res_embedding(seed: int = 0, link: str = "given") -> ResEmbedding:
    torch.manual_seed(seed)
    indptr, columns, weights = make_graph(np.random.default_rng(seed), H, 4, vary=True)
    graph = InterestGraph.from_csr(indptr, columns, weights)
    return ResEmbedding(graph, D, link=link, residual_scale=1.0, sparse=True)


def plain(seed: int = 0) -> nn.Embedding:
    torch.manual_seed(seed)
    return nn.Embedding(H, D, sparse=True)


class Dense:
    """The definition: at each step the whole table times (1 - lr_t wd), then the rows' own step."""

    def __init__(self, module: nn.Module, build: Any, options: dict[str, Any], decay: float) -> None:
        self.module, self.decay = module, decay
        self.optimizer = build(module.parameters(), **{**options, "weight_decay": 0.0})

    def step(self, ids: Tensor, upstream: Tensor) -> None:
        self.optimizer.zero_grad()
        self.module(ids).backward(upstream)
        with torch.no_grad():
            for group in self.optimizer.param_groups:
                for table in group["params"]:
                    table.mul_(1 - group["lr"] * self.decay)
        self.optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(res_embedding, marks=pytest.mark.operators("distinct_items", "distinct_neighbors", "decay_rows_")),
        plain,
    ],
)
@examples(15)
@given(data=st.data())
def test_equals_decaying_the_whole_table(kind: str, make: Callable[..., nn.Module], data: st.DataObject) -> None:
    """Under a schedule of lr, with reads of any rows between the steps."""
    build, options = OPTIMIZERS[kind]
    lazy_module, dense_module = make(), make()
    lazy = build(lazy_module.parameters(), weight_decay=0.5, decay="global", **options)
    lazy.attach(lazy_module)
    dense = Dense(dense_module, build, options, 0.5)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(o, 0.9) for o in (lazy, dense.optimizer)]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000), label="seed"))
    for _ in range(data.draw(st.integers(1, 6), label="steps")):
        count = data.draw(st.integers(1, 8), label="ids")
        ids = torch.randint(H, (count,), generator=generator)
        upstream = torch.randn(count, D, generator=generator)
        lazy.zero_grad()
        lazy_module(ids).backward(upstream)
        lazy.step()
        dense.step(ids, upstream)
        for schedule in schedules:
            schedule.step()
        read = torch.randint(H, (data.draw(st.integers(0, 3), label="read"),), generator=generator)
        with torch.no_grad():
            torch.testing.assert_close(lazy_module(read), dense_module(read), rtol=1e-5, atol=1e-5)
    for name, value in lazy_module.state_dict().items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(value, dense_module.state_dict()[name], rtol=1e-5, atol=1e-5)


def test_rows_idle_for_a_thousand_steps() -> None:
    module = plain()
    start = module.weight.detach().clone()
    optimizer = optim.SGD([module.weight], lr=0.1, weight_decay=0.05, decay="global")
    optimizer.attach(module)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    factor = 1.0
    for _ in range(1000):
        factor *= 1 - optimizer.param_groups[0]["lr"] * 0.05
        optimizer.zero_grad()
        module(torch.tensor([3])).sum().backward()
        optimizer.step()
        schedule.step()
    assert torch.equal(module.weight[7], start[7])  # by another way than a lookup: nothing was read
    torch.testing.assert_close(module(torch.tensor([7])).detach()[0], start[7] * factor, rtol=1e-5, atol=1e-7)
    assert 0.05 < factor < 0.1


@pytest.mark.parametrize("link", ["given", "attention"])
@pytest.mark.parametrize("read", ["lookup", "bag", "materialize", "weight", "to_embedding", "state"])
def test_every_way_to_read_a_table_sees_decayed_rows(read: str, link: str) -> None:
    module = res_embedding(link=link)
    tables = [module.central, module.residual]
    optimizer = optim.SGD(tables, lr=1e-30, weight_decay=1e29, decay="global")
    optimizer.attach(module)  # the step itself is nothing, the decay 0.9
    decayed = copy.deepcopy(module)
    decayed._read_hooks = []
    with torch.no_grad():
        if link == "attention":  # scores that follow C, so that its neighbours are read decayed too
            for part in (module, decayed):
                part.attention.a_src.copy_(torch.linspace(-1, 1, D))
                part.attention.a_dst.copy_(torch.linspace(1, -2, D))
        before = module.materialize()
        for part in (decayed.central, decayed.residual):
            part.mul_(0.9)
        table = decayed.materialize()
    assert not torch.allclose(table, before, atol=1e-2)
    module(torch.tensor([3])).sum().backward()
    optimizer.step()
    ids = torch.arange(H)
    with torch.no_grad():
        found = {
            "lookup": lambda: module(ids),
            "bag": lambda: module.bag(ids[:, None], mode="sum"),
            "materialize": module.materialize,
            "weight": lambda: module.weight,
            "to_embedding": lambda: module.to_embedding().weight,
            "state": lambda: _materialized(module.state_dict(), link),
        }[read]()
    torch.testing.assert_close(found, table, rtol=1e-5, atol=1e-6)


def _materialized(state: dict[str, Any], link: str) -> Tensor:
    other = res_embedding(link=link)
    other.load_state_dict(state)
    return other.materialize().detach()


def test_saving_and_loading_leave_nothing_pending_twice() -> None:
    """Optimizer saved before the module, and a table loaded over one with decay pending."""
    module = plain()
    optimizer = optim.Adam(module.parameters(), weight_decay=5.0, lr=0.1, decay="global")
    optimizer.attach(module)

    def step(module: nn.Module, optimizer: optim.Adam) -> None:
        optimizer.zero_grad()
        module(torch.tensor([1, 2])).sum().backward()
        optimizer.step()

    step(module, optimizer)
    saved_optimizer = copy.deepcopy(optimizer.state_dict())
    saved = copy.deepcopy(module.state_dict())
    assert saved_optimizer["state"][0]["decayed"].dtype == torch.float64

    restored = plain(1)
    other = optim.Adam(restored.parameters(), weight_decay=5.0, lr=0.1, decay="global")
    other.attach(restored)
    restored.load_state_dict(saved)
    other.load_state_dict(saved_optimizer)
    for _ in range(3):
        step(module, optimizer)
        step(restored, other)
    assert torch.equal(module.state_dict()["weight"], restored.state_dict()["weight"])

    step(module, optimizer)  # now decay is pending for the rows outside the batch
    module.load_state_dict(saved)
    assert torch.equal(module(torch.arange(H)), saved["weight"])


def test_dense_gradients_decay_the_whole_table_too() -> None:
    table = torch.randn(5, 3)
    results = []
    for build, options in ((optim.Adam, {"decay": "global"}), (torch.optim.AdamW, {})):
        parameter = nn.Parameter(table.clone())
        optimizer = build([parameter], lr=0.1, weight_decay=0.3, **options)
        parameter.grad = torch.ones(5, 3)
        optimizer.step()
        results.append(parameter.detach())
    torch.testing.assert_close(*results)


def test_without_attach_it_refuses_before_anything_is_written() -> None:
    module = plain()
    start = module.weight.detach().clone()
    optimizer = optim.Adam(module.parameters(), weight_decay=0.1, decay="global")
    module(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match=r"attach\(module\)"):
        optimizer.step()
    assert torch.equal(module.weight, start)
    assert not optimizer.state


def test_decay_that_would_empty_the_table() -> None:
    module = plain()
    optimizer = optim.SGD(module.parameters(), lr=2.0, weight_decay=0.5, decay="global")
    optimizer.attach(module)
    module(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="lr \\* weight_decay below 1"):
        optimizer.step()


def test_low_precision_tables_decay_with_random_rounding() -> None:
    module = nn.Embedding(2000, 8, sparse=True, dtype=torch.bfloat16)
    with torch.no_grad():
        module.weight.fill_(1.0)
    optimizer = optim.SGD(module.parameters(), lr=1.0, weight_decay=1e-3, decay="global", stochastic_rounding=True)
    optimizer.attach(module)
    for _ in range(20):  # read at every step: each factor is a quarter of a last place
        optimizer.zero_grad()
        (module(torch.arange(2000)) * 0).sum().backward()
        optimizer.step()
    assert math.isclose(float(module.weight.detach().float().mean()), 0.999**20, rel_tol=1e-3)
