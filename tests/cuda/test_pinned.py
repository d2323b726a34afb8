"""A graph in pinned host memory: the same bits as one on the device; what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import resemb_ext as rx
from resemb_ext import functional
from resemb_ext.nn import graph_tensors
from resemb_ext.testing import make_problem

H, D = 3000, 24


def module(**options: Any) -> rx.ResEmbedding:
    p = make_problem(num_items=H, dim=1, positions=1, neighbors=12, seed=1)
    graph = rx.InterestGraph.from_csr(p.indptr.numpy(), p.neighbors.numpy(), p.weights.numpy())
    torch.manual_seed(0)
    return rx.ResEmbedding(graph, D, **options)


def ids() -> torch.Tensor:
    return make_problem(num_items=H, dim=1, positions=5000, neighbors=1).ids.cuda()


@pytest.mark.cuda
@pytest.mark.parametrize("options", [{}, {"link": "attention", "heads": 2}], ids=str)
@pytest.mark.parametrize("sparse", [False, True])
def test_the_bits_are_those_of_a_graph_on_the_device(options: dict[str, Any], sparse: bool) -> None:
    results = []
    for place in (None, "pinned"):
        emb = module(graph_device=place, sparse=sparse, **options).cuda()
        assert emb._neighbors.is_cuda == (place is None)
        out = emb(ids())
        out.square().sum().backward()
        gradients = [p.grad.to_dense() for p in emb.parameters()]  # type: ignore[union-attr]
        bags = emb.bag(ids(), torch.arange(0, 5000, 100, device="cuda"))
        results.append([out, bags, emb.materialize(), *gradients])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.cuda
def test_steps_in_backward_copies_and_compiles() -> None:
    emb = module(graph_device="pinned", sparse=True).cuda()
    twin = copy.deepcopy(emb)
    assert twin._neighbors.is_pinned()
    for one in (emb, twin):
        rx.optim.Adam(one.parameters(), lr=0.1).step_in_backward(one)
        one(ids()).sum().backward()
    assert torch.equal(emb.central, twin.central)
    plain = module(graph_device="pinned").cuda()
    compiled = torch.compile(plain, fullgraph=True)
    torch.testing.assert_close(compiled(ids()), plain(ids()))


@pytest.mark.cuda
def test_unpinned_host_memory_is_refused() -> None:
    p = make_problem(num_items=50, dim=8, positions=20, neighbors=3)
    call = (p.ids.cuda(), p.central.cuda(), p.residual.cuda())
    with pytest.raises(ValueError, match="indptr: is in host memory that is not pinned"):
        functional.res_embedding(*call, p.indptr, p.neighbors, p.weights)
    pinned = [t.pin_memory() for t in (p.indptr, p.neighbors)]
    weights = p.weights.pin_memory().requires_grad_()
    with pytest.raises(ValueError, match="no gradient of link weights in pinned host memory"):
        functional.res_embedding(*call, *pinned, weights).sum().backward()


def test_places_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="graph_device: found 'host'"):
        module(graph_device="host")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="'pinned' is for CUDA"):
        module(graph_device="pinned")


def test_a_pinned_graph_stays_where_the_tables_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_tensors, "check_place", lambda place: None)
    monkeypatch.setattr(graph_tensors, "_empty", lambda array, pinned: torch.from_numpy(array.copy()))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    emb = module(graph_device="pinned")
    neighbors = emb._neighbors
    expected = module()(torch.arange(H))
    assert torch.equal(emb(torch.arange(H)), expected)
    emb.to("meta")
    assert emb.central.is_meta and emb._neighbors is neighbors
    assert "pinned" in repr(emb)
    assert module().to("meta")._neighbors.is_meta
