"""Means of gradients over ranks: of gloo processes, against sums in float64 and against one process."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard

import resemb_ext as rx
from tests.processes import on_ranks

if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("this torch has no gloo", allow_module_level=True)

H, D, B = 30, 5, 12


def gradient_of(name: str, rank: int, dtype: torch.dtype) -> torch.Tensor | None:
    """What a rank brings; sparse gradients repeat rows, and have another number of them on each rank."""
    generator = torch.Generator().manual_seed(sum(map(ord, name)) + 100 * rank)
    rows = torch.randint(0, H, (1, 3 + 4 * rank), generator=generator)
    sparse = torch.sparse_coo_tensor(
        rows, torch.randn(rows.shape[1], D, generator=generator).to(dtype), (H, D), check_invariants=True
    )
    dense = torch.randn(H, D, generator=generator).to(dtype)
    return {
        "sparse": sparse,
        "dense": dense,
        "sparse, one rank without": None if rank == 1 else sparse,
        "dense, one rank without": None if rank == 0 else dense,
        "sparse and dense": sparse if rank == 0 else dense,
        "sparse, empty": torch.sparse_coo_tensor(
            torch.zeros(1, 0), torch.zeros(0, D, dtype=dtype), (H, D), check_invariants=True
        ),
        "sparse, empty on one": sparse
        if rank
        else torch.sparse_coo_tensor(torch.zeros(1, 0), torch.zeros(0, D, dtype=dtype), (H, D), check_invariants=True),
        "nowhere": None,
    }[name]


NAMES = [
    *("sparse", "dense", "sparse, one rank without", "dense, one rank without", "sparse and dense"),
    *("sparse, empty", "sparse, empty on one", "nowhere"),
]
DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def _averaged() -> dict[Any, Any]:
    rank, cases = torch.distributed.get_rank(), list(itertools.product(NAMES, DTYPES))
    parameters = [nn.Parameter(torch.zeros(H, D, dtype=dtype)) for _, dtype in cases]
    for parameter, case in zip(parameters, cases, strict=True):
        parameter.grad = gradient_of(case[0], rank, case[1])
    # One of another shape, and one of one dimension, in the same call.
    short, vector = nn.Parameter(torch.zeros(7)), nn.Parameter(torch.zeros(H))
    short.grad = torch.arange(7.0) * rank
    vector.grad = torch.sparse_coo_tensor(torch.tensor([[2, 5]]), torch.tensor([1.0, rank]), (H,))
    rx.optim.average_gradients([*parameters, short, vector, short])
    return {**dict(zip(cases, (p.grad for p in parameters), strict=True)), "short": short.grad, "vector": vector.grad}


@pytest.mark.full
@pytest.mark.parametrize("world", [2, 3])
def test_mean_of_all_kinds_of_gradients(world: int, tmp_path: Path) -> None:
    found = on_ranks(world, tmp_path, _averaged)
    for name, dtype in itertools.product(NAMES, DTYPES):
        means = [of_rank[name, dtype] for of_rank in found]
        if name == "nowhere":
            assert means == [None] * world
            continue
        given = [gradient_of(name, rank, dtype) for rank in range(world)]
        expected = sum(g.to_dense().double() for g in given if g is not None) / world
        kinds = {g.is_sparse for g in given if g is not None}
        tolerance = {torch.float32: 1e-6, torch.float64: 1e-15, torch.bfloat16: 0.008}[dtype]
        torch.testing.assert_close(means[0].to_dense().double(), expected, rtol=tolerance, atol=tolerance)
        for mean in means:
            assert mean.dtype == dtype and mean.is_sparse == (kinds == {True})
            assert torch.equal(mean.to_dense(), means[0].to_dense())  # to the bit
        if means[0].is_sparse:
            touched = torch.cat([g._indices()[0] for g in given if g is not None]).unique()
            assert torch.equal(means[0]._indices()[0], touched)
    torch.testing.assert_close(found[0]["short"], torch.arange(7.0) * (world - 1) / 2)
    expected = torch.zeros(H)
    expected[2], expected[5] = 1.0, (world - 1) / 2
    torch.testing.assert_close(found[-1]["vector"].to_dense(), expected)


def _refusals() -> list[str]:
    rank, said = torch.distributed.get_rank(), []
    parameter, kept = nn.Parameter(torch.zeros(H, D)), nn.Parameter(torch.zeros(2))
    kept.grad = torch.full((2,), float(rank))

    def call(*args: Any) -> None:
        try:
            rx.optim.average_gradients(*args)
        except (ValueError, RuntimeError) as error:
            said.append(f"{type(error).__name__}: {error}")

    parameter.grad = torch.eye(H, D).to_sparse() if rank == 0 else torch.ones(H, D)  # sparse over both dimensions
    call([kept, parameter])
    call([kept] if rank == 0 else [kept, parameter])
    call([kept], torch.distributed.new_group([0]))
    assert torch.equal(kept.grad, torch.full((2,), float(rank)))  # nothing was changed
    return said


@pytest.mark.full
def test_refusals_are_heard_on_all_ranks(tmp_path: Path) -> None:
    first, second = on_ranks(2, tmp_path, _refusals)
    assert "ValueError: parameter 1: its gradient has 2 sparse" in first[0]
    assert "RuntimeError: average_gradients: rank 0 of the group" in second[0]
    assert all("1, 2 of them on the ranks" in said[1] for said in (first, second))
    assert len(first) == 2 and "group: rank 1 is not in it" in second[2]


def test_alone_nothing_changes() -> None:
    table = nn.Embedding(H, D, sparse=True)
    table(torch.tensor([3, 3])).sum().backward()
    before = table.weight.grad
    rx.optim.average_gradients(table)
    assert table.weight.grad is before


class Model(nn.Module):
    def __init__(self, sparse: bool) -> None:
        super().__init__()
        ring = np.r_[np.arange(2, H), 1]
        graph = rx.InterestGraph.from_csr(np.r_[0, np.arange(H)], ring, np.ones(H - 1))
        self.item = rx.ResEmbedding(graph, D, padding_idx=0, sparse=sparse)
        self.top = nn.Sequential(nn.Linear(2 * D, 7), nn.Tanh(), nn.Linear(7, 1))

    def forward(self, history: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.top(torch.cat([self.item(history).mean(1), self.item(target)], 1))[:, 0]


def _train(sparse: bool, optimizer: str) -> dict[str, torch.Tensor]:
    """Parameters after 4 steps; a rank of several has its part of each batch."""
    torch.manual_seed(5)
    model = Model(sparse).double()
    world, rank = 1, 0
    if torch.distributed.is_initialized():
        world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
        fully_shard(model, ignored_params=set(model.item.parameters()))
    # A large eps: Adam would lift the noise of gradients that are zero but for rounding.
    options = {"eps": 1e-2} if optimizer == "Adam" else {}
    stepper = getattr(rx.optim, optimizer)(model.parameters(), lr=0.1, **options)
    patch = rx.optim.patch_clipping()
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        history, target = (torch.randint(0, H, shape, generator=generator) for shape in ((B, 3), (B,)))
        label = torch.rand(B, generator=generator, dtype=torch.float64) * 9
        part = slice(rank * B // world, (rank + 1) * B // world)
        stepper.zero_grad()
        nn.functional.mse_loss(model(history[part], target[part]), label[part]).backward()
        rx.optim.average_gradients(model)
        if sparse:
            assert model.item.central.grad.is_sparse
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        else:
            norm = rx.optim.clip_grad_norm_(model.parameters(), 2.0)
        stepper.step()
    patch.__exit__(None, None, None)
    found = {name: value.detach() for name, value in model.named_parameters()}
    return {"norm": norm, **{k: v.full_tensor() if hasattr(v, "full_tensor") else v for k, v in found.items()}}


def _trainings() -> dict[tuple[bool, str], dict[str, torch.Tensor]]:
    cases = itertools.product((True, False), ("SGD", "Adam", "Adagrad"))
    return {case: _train(*case) for case in cases}


@pytest.mark.full
def test_fsdp2_with_the_tables_left_out_is_as_one_process(tmp_path: Path) -> None:
    """Clipped as a whole too: sharded gradients beside those of the tables."""
    with rx.optim.patch_clipping():
        alone = {case: _train(*case) for case in itertools.product((True, False), ("SGD", "Adam", "Adagrad"))}
    ranks = on_ranks(2, tmp_path, _trainings)
    for case, expected in alone.items():
        assert expected["norm"] > 2  # was clipped
        for name, value in expected.items():
            torch.testing.assert_close(ranks[0][case][name], value, rtol=1e-9, atol=1e-9)
            assert torch.equal(ranks[0][case][name], ranks[1][case][name])
