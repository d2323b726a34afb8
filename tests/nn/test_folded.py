"""Tables computed once while nothing trains them: the same numbers, and none that are out of date."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import resemb_ext as rx
from resemb_ext.nn import folded_tables

H, D = 40, 6
IDS = torch.tensor([[0, 3, 3], [39, 7, 1]])


def embedding(link: str = "average", **options: Any) -> rx.ResEmbedding:
    torch.manual_seed(0)
    ring = np.r_[np.arange(2, H), 1]
    graph = rx.InterestGraph.from_csr(np.r_[0, np.arange(H)], ring, np.ones(H - 1))
    return rx.ResEmbedding(graph, D, link, padding_idx=0, **options)


def computed(module: rx.ResEmbedding, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one each time that the table is computed."""
    calls: list[int] = []
    compute = type(module)._compute
    monkeypatch.setattr(type(module), "_compute", lambda self: calls.append(1) or compute(self))
    return calls


@pytest.mark.parametrize(
    "options", [{}, {"dtype": torch.bfloat16}, {"dtype": torch.bfloat16, "out_dtype": torch.float32}, {"sparse": True}]
)
@pytest.mark.parametrize("link", ["average", "gcn", "attention"])
def test_the_same_numbers(link: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    module = embedding(link, **options).eval()
    model = nn.Sequential(module)
    with torch.no_grad():
        expected, table, bags = module(IDS), module.materialize(), module.bag(IDS)
        calls = computed(module, monkeypatch)
        with folded_tables(model):
            for ids in (IDS, IDS.int(), IDS):
                assert torch.equal(module(ids), expected) and module(ids).dtype == expected.dtype
            assert torch.equal(module.weight, table)
            module.materialize().zero_()
            assert torch.equal(module.materialize(), table)
            assert torch.equal(module.bag(IDS), bags)
            assert len(calls) == 1
            with pytest.raises(IndexError):
                module(torch.tensor([H]))
        module(IDS)
        assert len(calls) == 1


def test_learning_and_training_modes_compute() -> None:
    module = embedding()
    with folded_tables(module):
        module.eval()(IDS).sum().backward()
        assert module.central.grad is not None
        with torch.no_grad():
            kept = module(IDS)
        optimizer = rx.optim.SGD(module.parameters(), lr=1.0)
        optimizer.step()
        with torch.no_grad():
            assert not torch.equal(module(IDS), kept)
            assert torch.equal(module(IDS), module.train()(IDS))


@pytest.mark.parametrize("decay", ["touched", "global"])
@pytest.mark.parametrize("in_backward", [False, True])
def test_no_table_is_out_of_date(decay: str, in_backward: bool) -> None:
    module = embedding(sparse=True).eval()
    optimizer = rx.optim.Adam(module.parameters(), lr=0.1, weight_decay=0.1, decay=decay)
    optimizer.attach(module)
    if in_backward:
        optimizer.step_in_backward(module)
    with folded_tables(module):
        for _ in range(3):
            optimizer.zero_grad()
            module(IDS).square().sum().backward()
            optimizer.step()
            with torch.no_grad():
                found = module(IDS.flip(0)), module.weight[5].clone()
                expected = copy.deepcopy(module)
                assert torch.equal(found[0], expected(IDS.flip(0))) and torch.equal(found[1], expected.weight[5])
        with torch.no_grad():
            module.load_state_dict(embedding().state_dict())
            assert torch.equal(module(IDS), embedding()(IDS))
            module.weight[5] = 2.0
            assert (module(torch.tensor(5)) - 2).abs().max() < 1e-6
        assert "_fold" not in vars(copy.deepcopy(module))


def test_blocks_may_be_nested_and_end_by_an_exception() -> None:
    module = embedding().eval()
    with pytest.raises(KeyError), folded_tables(module), torch.no_grad():
        with folded_tables(module):
            module(IDS)
        assert module._fold is not None
        raise KeyError
    assert module._fold is None


@pytest.mark.full
def test_compiled_lookups_are_as_before() -> None:
    module = embedding().eval()
    with torch.no_grad(), folded_tables(module):
        assert torch.equal(torch.compile(module, backend="eager", fullgraph=True)(IDS), module(IDS))


def test_steps_of_fused_optimizers_are_seen() -> None:
    emb = embedding()
    optimizer = torch.optim.Adam(emb.parameters(), lr=0.1, fused=True)
    with folded_tables(emb):
        with torch.no_grad():
            before = emb.eval()(IDS)
        emb.train()(IDS).sum().backward()
        optimizer.step()
        with torch.no_grad():
            found = emb.eval()(IDS)
    with torch.no_grad():
        assert torch.equal(found, emb(IDS))
    assert not torch.equal(found, before)


def test_another_dtype_is_seen() -> None:
    emb = embedding().eval()
    with torch.no_grad(), folded_tables(emb):
        emb(IDS)
        emb.double()
        found = emb(IDS)
        assert found.dtype == emb.weight.dtype == torch.float64
    assert torch.equal(found, emb(IDS))


def test_nothing_stays_in_the_module() -> None:
    emb = embedding()
    before = set(vars(emb))
    with folded_tables(emb):
        pass
    assert set(vars(emb)) == before
