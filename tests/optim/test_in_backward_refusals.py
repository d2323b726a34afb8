"""What steps in backward refuse, and that a refusal changes nothing."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from resemb_ext import optim

from .stepped import D, H, ids_of, linked, res_embedding


def unchanged(module: nn.Module, before: list[Tensor]) -> None:
    for p, b in zip(module.parameters(), before, strict=True):
        assert torch.equal(p, b)


@pytest.fixture(params=["res", "plain"])
def module(request: pytest.FixtureRequest) -> nn.Module:
    return res_embedding() if request.param == "res" else nn.Embedding(H, D, sparse=True)


def test_second_backward_of_one_graph(module: nn.Module) -> None:
    optimizer = optim.SGD(module.parameters(), lr=0.1)
    optimizer.step_in_backward(module)
    loss = module(ids_of(0)).sum()
    loss.backward(retain_graph=True)
    before = [p.detach().clone() for p in module.parameters()]
    with pytest.raises(RuntimeError, match="second backward of one graph"):
        loss.backward()
    unchanged(module, before)


def test_create_graph(module: nn.Module) -> None:
    optimizer = optim.SGD(module.parameters(), lr=0.1)
    optimizer.step_in_backward(module)
    before = [p.detach().clone() for p in module.parameters()]
    with pytest.raises(RuntimeError, match="create_graph"):
        module(ids_of(0)).square().sum().backward(create_graph=True)
    unchanged(module, before)


def test_a_table_of_two_optimizers(module: nn.Module) -> None:
    early = torch.optim.SGD(module.parameters(), lr=0.1)
    own = optim.SGD(module.parameters(), lr=0.1)
    own.step_in_backward(module)
    with pytest.raises(ValueError, match="another optimizer steps in backward; take it out"):
        optim.Adam(module.parameters())
    with pytest.raises(ValueError, match="stepped in backward already"):
        own.step_in_backward(module)
    with pytest.raises(RuntimeError, match="another optimizer steps in backward"):
        early.step()
    own.step()


def test_tables_of_others_and_dense_gradients() -> None:
    module = res_embedding()
    with pytest.raises(ValueError, match="not among this optimizer's parameters"):
        optim.SGD([module.central]).step_in_backward(module)
    dense = nn.Embedding(H, D)
    with pytest.raises(ValueError, match="sparse=True"):
        optim.SGD(dense.parameters()).step_in_backward(dense)


def test_a_penalty_on_the_table() -> None:
    module = nn.Embedding(H, D, sparse=True)
    optimizer = optim.SGD(module.parameters())
    optimizer.step_in_backward(module)
    with pytest.raises(RuntimeError, match="weight_decay"):
        (module(ids_of(0)).sum() + module.weight.square().sum()).backward()


@pytest.mark.parametrize("link", ["average", "attention", "plain"])
def test_reentrant_checkpoints(link: str) -> None:
    """They run a backward pass for each."""
    module = linked(link)
    optim.SGD(module.parameters(), lr=0.1).step_in_backward(module)
    before = [p.detach().clone() for p in module.parameters()]
    scale = torch.ones((), requires_grad=True)
    pieces = [checkpoint(lambda s, n=n: module(ids_of(n)) * s, scale, use_reentrant=True) for n in range(2)]
    with pytest.raises(RuntimeError, match="take use_reentrant=False"):
        torch.stack(pieces).sum().backward()
    unchanged(module, before)


def test_a_table_used_beside_its_lookup() -> None:
    module = linked("average")
    optim.SGD(module.parameters(), lr=0.1).step_in_backward(module)
    beside = nn.functional.embedding(ids_of(0), module.central, sparse=True)
    with pytest.raises(RuntimeError, match="used beside its embedding's lookup"):
        (module(ids_of(0)).sum() + beside.sum()).backward()


@pytest.mark.full
def test_more_than_one_rank(tmp_path: Any) -> None:
    mp.spawn(_two_ranks, (str(tmp_path / "store"),), nprocs=2)


def _two_ranks(rank: int, store: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    module = nn.Embedding(H, D, sparse=True)
    with pytest.raises(RuntimeError, match="2 ranks would each step"):
        optim.SGD(module.parameters()).step_in_backward(module)
    torch.distributed.destroy_process_group()
