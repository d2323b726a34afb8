"""Decay of whole tables, applied before a row is read: against the dense form of every step."""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

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
    "compact": (optim.Adam, {"lr": 0.01, "state": "compact"}),
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


@pytest.mark.parametrize("link", ["given", "plain"])
def test_loading_the_optimizer_alone_loses_nothing_pending(link: str) -> None:
    module, optimizer, expected = decaying(link)
    _, other, _ = decaying(link)
    optimizer.load_state_dict(other.state_dict())
    torch.testing.assert_close(module(torch.arange(H)).detach(), expected, rtol=1e-5, atol=1e-6)


def test_attach_does_not_take_other_modules() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.ones(H, D))

    module = Own()
    optimizer = optim.Adam(module.parameters(), weight_decay=0.1, decay="global")
    optimizer.attach(module)
    nn.functional.embedding(torch.tensor([[1]]), module.table, sparse=True).sum().backward()
    with pytest.raises(ValueError, match=r"it takes embeddings and bags of torch\.nn and of resemb_ext"):
        optimizer.step()


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


def decaying(link: str = "given") -> tuple[nn.Embedding, Any, Tensor]:
    """An embedding with decay pending on most rows, its optimizer, and the vectors that readers should see."""
    module = plain() if link == "plain" else res_embedding(link=link)
    optimizer = optim.SGD(module.parameters(recurse=False), lr=0.1, weight_decay=5.0, decay="global")
    optimizer.attach(module)
    for _ in range(2):
        optimizer.zero_grad()
        module(torch.tensor([1, 2])).square().sum().backward()
        optimizer.step()
    twin = copy.deepcopy(module)
    optimizer.zero_grad()
    module(torch.tensor([1, 2])).square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        for table, other in zip(module.parameters(recurse=False), twin.parameters(recurse=False), strict=True):
            decay = optimizer.state[table]["decayed"] - optimizer.state[table]["decay_log"]
            other.copy_(table * torch.exp(-decay)[:, None])
        return module, optimizer, twin(torch.arange(H))


WAYS = ["detached", "own", "half", "loaded in part", "exported", "vmap", "nested"]


@pytest.mark.parametrize(
    ("way", "link"),
    [*itertools.product(WAYS, ["given", "plain"]), ("drawn", "given")],  # nn.Embedding does not tell
)
def test_other_ways_to_read_and_write_a_table(way: str, link: str) -> None:
    module, _, expected = decaying(link)
    ids = torch.arange(H)
    with torch.no_grad():
        if way == "loaded in part":  # by a state without these tables
            nn.ModuleList([module, nn.Linear(1, 1)]).load_state_dict({"1.bias": torch.ones(1)}, strict=False)
            found = module(ids)
        elif way == "drawn":
            torch.manual_seed(5)
            module.reset_parameters()
            torch.manual_seed(5)
            fresh = res_embedding()
            torch.manual_seed(5)
            fresh.reset_parameters()
            found, expected = module(ids), fresh(ids)
        elif way == "exported":
            found = torch.export.export(module, (ids,), strict=False).module()(ids)
        elif way == "vmap":
            found = torch.func.vmap(module)(ids)
        elif way == "nested":
            found = module(torch.nested.nested_tensor([ids[:3], ids[3:]], layout=torch.jagged)).values()
        else:
            tensors = {name: p if way == "own" else p.detach() for name, p in module.named_parameters()}
            if way == "half":
                tensors.popitem()
            found = torch.func.functional_call(module, tensors, (ids,))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("link", ["given", "plain"])
def test_strict_export_takes_a_copy(link: str) -> None:
    module, _, expected = decaying(link)
    ids = torch.arange(H)
    with pytest.raises(Exception, match=r"export with strict=False, or export a copy\.deepcopy"):
        torch.export.export(module, (ids,), strict=True)
    found = torch.export.export(copy.deepcopy(module), (ids,), strict=True).module()(ids)
    torch.testing.assert_close(found.detach(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reads", ["attention", "samples"])
def test_a_lookup_after_another_leaves_its_backward_alone(reads: str) -> None:
    """Both save the tables; the second one's rows have decay pending."""
    module, optimizer, _ = decaying("attention" if reads == "attention" else "given")
    for _ in range(2):
        optimizer.zero_grad()
        samples = torch.ones(3, 1, requires_grad=True)
        one = module.bag(torch.tensor([[3], [4], [5]]), None, "sum", samples)
        two = module.bag(torch.tensor([[6], [7], [8]]), None, "sum", samples)
        (one * two).sum().backward()
        optimizer.step()
    assert samples.grad is not None


class TestAverages:
    def train(self, link: str, catch_up: bool, average: Callable[[nn.Module], Any], read: Any = None) -> list[str]:
        module, optimizer, _ = decaying(link)
        averaged = average(module)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            for _ in range(3):
                optimizer.zero_grad()
                module(torch.tensor([1, 2])).square().sum().backward()
                optimizer.step()
                if catch_up:
                    optimizer.catch_up()
                averaged.update_parameters(module)
        if catch_up:
            with torch.no_grad():
                assert not torch.equal(averaged(torch.arange(H)), module(torch.arange(H)))
        return [str(warning.message) for warning in found if warning.category is UserWarning]

    @pytest.mark.parametrize("link", ["given", "attention", "plain"])
    def test_of_rows_with_pending_decay_warn_once(self, link: str) -> None:
        (message,) = self.train(link, False, AveragedModel)
        assert "optimizer.catch_up() before" in message

    @pytest.mark.parametrize("link", ["given", "plain"])
    def test_after_catch_up_are_right(self, link: str) -> None:
        assert self.train(link, True, AveragedModel) == []

    def test_by_a_hook_of_the_optimizer_are_right(self) -> None:
        module, optimizer, _ = decaying()
        optimizer.register_step_post_hook(lambda *_: optimizer.catch_up())
        averaged = AveragedModel(module)
        optimizer.zero_grad()
        module(torch.tensor([1, 2])).square().sum().backward()
        optimizer.step()
        averaged.update_parameters(module)
        with torch.no_grad():
            assert torch.equal(averaged(torch.arange(H)), module(torch.arange(H)))

    @pytest.mark.parametrize("case", ["trained", "loaded", "idle", "tied"])
    def test_other_copies_do_not_warn(self, case: str) -> None:
        module, optimizer, _ = decaying()
        twin, own = copy.deepcopy((module, optimizer))
        if case != "tied":
            twin = copy.deepcopy(module)
            own = optim.SGD(twin.parameters(), lr=0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(3):
                for part, stepping in ((module, optimizer), (twin, own)):
                    if part is module or case in ("trained", "tied"):
                        stepping.zero_grad()
                        part(torch.tensor([1, 2])).square().sum().backward()
                        stepping.step()
                if case == "loaded":
                    twin.load_state_dict(module.state_dict())
                if case == "idle":
                    twin.requires_grad_(False)(torch.arange(H))
