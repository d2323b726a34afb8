"""Copies and pickles of optimizers go on as the optimizer would have."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resemb_ext import InterestGraph, ResEmbedding, optim

H, D = 12, 5
ALL: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (optim.SGD, {}),
    "momentum": (optim.SGD, {"momentum": 0.9}),
    "adagrad": (optim.Adagrad, {"lr_decay": 0.1}),
    "rowwise": (optim.RowwiseAdagrad, {}),
    "adam": (optim.Adam, {"bias_correction": "row"}),
    "adamw": (optim.AdamW, {}),
    "compact": (optim.Adam, {"state": "compact"}),
}


def saved_and_loaded(objects: Any) -> Any:
    file = io.BytesIO()
    torch.save(objects, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda objects: pickle.loads(pickle.dumps(objects)),
    "torch.save": saved_and_loaded,
}


def make(dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    torch.manual_seed(0)
    ring = InterestGraph.from_csr(list(range(H + 1)), [(i + 1) % H for i in range(H)], [1.0] * H)
    return nn.Sequential(ResEmbedding(ring, D, sparse=True, dtype=dtype), nn.Linear(D, 1, dtype=dtype))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        optimizer.zero_grad()
        ids = torch.randint(H, (6,), generator=torch.Generator().manual_seed(seed))
        model(ids).float().square().sum().backward()
        optimizer.step()


@pytest.mark.one_in(5)
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("kind", ALL)
def test_a_copy_of_model_and_optimizer_goes_on(kind: str, way: str, steps: int) -> None:
    """Before the first step and later; with the seed, which rounds low-precision tables."""
    build, options = ALL[kind]
    model = make()
    optimizer = build(model.parameters(), lr=0.05, seed=7, stochastic_rounding=True, **options)
    train(model, optimizer, range(steps))
    other, copied = COPIES[way]((model, optimizer))
    for a, b in ((model, optimizer), (other, copied)):
        train(a, b, range(steps, steps + 3))
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a is not b
    assert optimizer.state_dict().keys() == copied.state_dict().keys()


@pytest.mark.parametrize("way", COPIES)
def test_an_optimizer_alone(way: str) -> None:
    """Its parameters come with it, and its public attributes."""
    table = nn.Parameter(torch.ones(H, D))
    optimizer = optim.Adam([table], lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    table.grad = torch.sparse_coo_tensor([[1]], torch.ones(1, D), (H, D), check_invariants=True)
    optimizer.step()
    schedule.step()
    copied = COPIES[way](optimizer)
    assert public(copied) == public(optimizer)
    (own,) = copied.param_groups[0]["params"]
    for p, o in ((table, optimizer), (own, copied)):
        p.grad = torch.ones(H, D)
        o.step()
        o.catch_up()
        o.state_dict()
    assert torch.equal(own, table)


def public(optimizer: torch.optim.Optimizer) -> set[str]:
    return {name for name in vars(optimizer) if not name.startswith("_") and name != "step"}


@pytest.mark.parametrize("kind", ALL)
def test_an_older_pickle_goes_on(kind: str) -> None:
    """One of 0.1, which held groups, state and defaults alone, and no options of later versions."""
    build, options = ALL[kind]
    model = make(torch.float32)
    optimizer = build(model.parameters(), lr=0.05, **options)
    train(model, optimizer, range(2))
    twin, old = copy.deepcopy((model, optimizer))
    state = {key: old.__getstate__()[key] for key in ("defaults", "state", "param_groups")}
    for place in (state["defaults"], *state["param_groups"]):
        del place["capturable"], place["foreach"]
    restored = build.__new__(build)
    restored.__setstate__(state)
    train(model, optimizer, range(2, 4))
    train(twin, restored, range(2, 4))
    restored.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_subclass_of_a_user() -> None:
    class Own(optim.Adam):
        def step(self, closure: Any = None) -> Tensor | None:
            return super().step(closure)

    table = nn.Parameter(torch.ones(H, D))
    copied = copy.deepcopy(Own([table]))
    copied.param_groups[0]["params"][0].grad = torch.ones(H, D)
    copied.step()
