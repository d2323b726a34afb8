"""Ties between modules and optimizers: copies and pickles of either and of both, and tables that were replaced."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from resemb_ext import InterestGraph, ResEmbedding, optim
from resemb_ext.testing.problems import make_graph
from tests.processes import start

H, D = 40, 6
KINDS = ("in backward", "attached", "both")
LINKS = ("average", "attention", "plain")


def saved(thing: Any) -> Any:
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "save": saved,
}


def graph() -> InterestGraph:
    return InterestGraph.from_csr(*make_graph(np.random.default_rng(0), H, 4))


def embedding(link: str) -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(H, D, sparse=True) if link == "plain" else ResEmbedding(graph(), D, link=link, sparse=True)


def tied(kind: str, link: str) -> tuple[nn.Module, Any]:
    """A model that has been trained for a step, with decay pending where that is the kind."""
    model = nn.Sequential(embedding(link), nn.Linear(D, 1))
    options = {} if kind == "in backward" else {"weight_decay": 1.0, "decay": "global"}
    optimizer = optim.AdamW(model.parameters(), lr=0.1, **options)
    if kind != "in backward":
        optimizer.attach(model)
    if kind != "attached":
        optimizer.step_in_backward(model)
    step(model, optimizer, 0)
    return model, optimizer


def ids_of(number: int) -> Tensor:
    return torch.randint(H, (5,), generator=torch.Generator().manual_seed(number))


def step(model: nn.Module, optimizer: Any, number: int) -> None:
    optimizer.zero_grad()
    model(ids_of(number)).square().sum().backward()
    optimizer.step()


def vectors(model: Any) -> Tensor:
    with torch.no_grad():
        return model(torch.arange(H))


def tables(model: Any) -> list[Tensor]:
    return list(model[0].parameters(recurse=False))


@pytest.mark.one_in(4)
@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("link", LINKS)
class TestAModelAlone:
    def test_its_copy_is_an_ordinary_module(self, link: str, kind: str, way: str) -> None:
        model, optimizer = tied(kind, link)
        twin = COPIES[way](model)
        for table in tables(twin):
            assert not [o for o in gc.get_referrers(table) if isinstance(o, optim.base.RowSparseOptimizer)]
        before, state = vectors(model), copy.deepcopy(optimizer.state_dict())
        assert torch.equal(vectors(twin), before)
        assert all(torch.equal(a, b) for a, b in zip(tables(twin), tables(model), strict=True))
        for _ in range(2):  # and once more through two lookups
            (twin(ids_of(1)).sum() + twin(ids_of(2)).sum()).backward()
            assert all(table.grad is not None for table in tables(twin))
            own = optim.SGD(twin.parameters(), lr=0.1)
            own.step()
            own.zero_grad()
        assert not torch.equal(vectors(twin), before)
        assert torch.equal(vectors(model), before)
        after = optimizer.state_dict()["state"]
        for number, entry in state["state"].items():
            assert all(torch.equal(value, after[number][key]) for key, value in entry.items())

    def test_the_first_one_goes_on(self, link: str, kind: str, way: str) -> None:
        """And so does a copy tied to an optimizer of its own."""
        model, optimizer = tied(kind, link)
        other, undisturbed = tied(kind, link)
        twin = COPIES[way](model)
        for number in (1, 2):
            step(model, optimizer, number)
            step(other, undisturbed, number)
        torch.testing.assert_close(vectors(model), vectors(other))
        own = type(optimizer)(twin.parameters(), lr=0.1)
        own.step_in_backward(twin)
        step(twin, own, 3)
        assert all(table.grad is None and own.state[table]["step"] == 1 for table in tables(twin))


@pytest.mark.one_in(4)
@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("first", ["model", "optimizer"])
def test_copied_together_they_stay_tied(first: str, link: str, kind: str, way: str) -> None:
    model, optimizer = tied(kind, link)
    if first == "model":
        twin, own = COPIES[way]((model, optimizer))
    else:
        own, twin = COPIES[way]((optimizer, model))
    for number in (1, 2):
        step(model, optimizer, number)
        step(twin, own, number)
        if kind != "attached":
            assert all(table.grad is None for table in tables(twin))
    torch.testing.assert_close(vectors(twin), vectors(model))
    for ours, theirs in zip(tables(twin), tables(model), strict=True):
        assert own.state[ours]["step"] == optimizer.state[theirs]["step"] == 3
    kept = [weakref.ref(tables(twin)[0]), weakref.ref(own)]
    del twin, own, ours
    gc.collect()
    assert [reference() for reference in kept] == [None, None]


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_alone_are_plain_tensors(kind: str) -> None:
    model, _ = tied(kind, "average")
    file = io.BytesIO()
    torch.save(dict(model.named_parameters()), file)
    file.seek(0)
    for table in torch.load(file, weights_only=True).values():
        assert not vars(table)


@pytest.mark.parametrize("link", ["average", "attention"])
def test_transforms_of_torch_func_take_a_copy(link: str) -> None:
    model, _ = tied("in backward", link)

    def sum_of(part: nn.Module) -> dict[str, Tensor]:
        tensors = {name: p.detach() for name, p in part.named_parameters()}
        return torch.func.grad(lambda p: torch.func.functional_call(part, p, (ids_of(0),)).sum())(tensors)

    with pytest.raises(RuntimeError, match=r"look up in a copy\.deepcopy of the module"):
        sum_of(model[0])
    gradients = sum_of(copy.deepcopy(model[0]))
    torch.testing.assert_close(gradients, sum_of(embedding_like(model[0], link)))


def embedding_like(module: nn.Module, link: str) -> nn.Module:
    fresh = embedding(link)
    fresh.load_state_dict(module.state_dict())
    return fresh


@pytest.mark.full
def test_another_process_trains_a_copy() -> None:
    model, _ = tied("both", "average")
    start(_train_alone, (model,), 1)


def _train_alone(rank: int, model: nn.Module) -> None:
    model(ids_of(1)).sum().backward()
    assert all(table.grad is not None for table in tables(model))


def test_an_average_trains_nothing_and_equals_its_model() -> None:
    model, optimizer = tied("in backward", "average")
    average = AveragedModel(model)
    for number in range(3):
        step(model, optimizer, number)
    average.update_parameters(model)
    assert torch.equal(vectors(average), vectors(model))
    assert sum(p.numel() for p in average.parameters()) == sum(p.numel() for p in model.parameters())


class TestReplacedTables:
    def swapped(self) -> tuple[nn.Sequential, ResEmbedding]:
        """The old model's embedding, and what takes its place."""
        model = nn.Sequential(nn.Embedding(H, D), nn.Linear(D, 1))
        return model, ResEmbedding.from_embedding(model[0], graph())

    def train(self, model: nn.Module, *optimizers: torch.optim.Optimizer) -> list[str]:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            for number in range(2):
                for optimizer in optimizers:
                    optimizer.zero_grad()
                model(ids_of(number)).square().sum().backward()
                for optimizer in optimizers:
                    optimizer.step()
        return [str(warning.message) for warning in found if warning.category is UserWarning]

    @pytest.mark.parametrize("build", [torch.optim.Adam, torch.optim.SGD, optim.Adam])
    def test_an_optimizer_made_before_the_swap(self, build: Any) -> None:
        model, new = self.swapped()
        optimizer = build(model.parameters(), lr=0.1)
        model[0] = new
        (message,) = self.train(model, optimizer)
        assert message.startswith(f"{build.__name__}: steps a table that has been replaced")
        assert repr(new) in message and "add_param_group" in message

    def test_tables_that_were_loaded_by_assignment(self) -> None:
        model = nn.Sequential(embedding("average"), nn.Linear(D, 1))
        model[0].sparse = False
        optimizer = torch.optim.Adam(model.parameters())
        model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
        (message,) = self.train(model, optimizer)
        assert "no optimizer holds" in message

    @pytest.mark.parametrize("case", ["after", "added", "two", "frozen", "evaluated", "other", "gone"])
    def test_no_false_alarm(self, case: str) -> None:
        model, new = self.swapped()
        old = torch.optim.Adam(model.parameters())
        optimizers: list[torch.optim.Optimizer] = [old]
        if case == "after":
            model[0] = new
            optimizers = [torch.optim.Adam(model.parameters())]
        elif case == "added":
            old.add_param_group({"params": new.parameters()})
            model[0] = new
        elif case == "two":  # the one that has the old table steps first
            optimizers.append(torch.optim.Adam(new.parameters()))
            model[0] = new
        elif case == "frozen":
            model[0] = new.requires_grad_(False)
        elif case == "evaluated":
            vectors(new)
        elif case == "other":
            model[0] = nn.Embedding(H, D)
        elif case == "gone":
            del new
        assert self.train(model, *optimizers) == []

    def test_the_warning_is_placed_at_the_step(self) -> None:
        model, new = self.swapped()
        optimizer = torch.optim.Adam(model.parameters())
        new(ids_of(0)).sum().backward()
        with pytest.warns(UserWarning, match="has been replaced") as found:
            optimizer.step()
        assert found[0].filename == __file__
