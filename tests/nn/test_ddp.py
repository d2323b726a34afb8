"""DistributedDataParallel on two gloo processes: gradients and steps as of one process on the joined batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from resemb_ext import InterestGraph, ResEmbedding
from tests.processes import on_ranks

if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("this torch has no gloo", allow_module_level=True)

H, D, B, WORLD = 30, 5, 8, 2


class Model(nn.Module):
    """Lookup and bag share the tables; the dense layers make the upstream gradient non-trivial."""

    def __init__(self, sparse: bool, one_lookup: bool, link: str = "average") -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        dense = np.triu(rng.integers(0, 4, (H, H)) * (rng.random((H, H)) < 0.2), 1)
        dense[0] = 0
        dense = (dense + dense.T).astype(np.float32)
        rows, columns = np.nonzero(dense)
        indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=H))])
        graph = InterestGraph.from_csr(indptr, columns, dense[rows, columns])
        self.item = ResEmbedding(graph, D, link, padding_idx=0, sparse=sparse)
        self.top = nn.Sequential(nn.Linear(2 * D, 7), nn.Tanh(), nn.Linear(7, 1))
        self.one_lookup = one_lookup

    def forward(self, target: torch.Tensor, history: torch.Tensor) -> torch.Tensor:
        if self.one_lookup:
            rows = self.item(torch.cat([target[:, None], history], 1))
            one, pooled = rows[:, 0], rows[:, 1:].sum(1)
        else:
            one, pooled = self.item(target), self.item.bag(history, mode="sum")
        return self.top(torch.cat([one, pooled], 1))[:, 0]


def batches() -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Batches of both ranks joined, rank 0 first; in the last one rank 1 sees padding alone."""
    generator = torch.Generator().manual_seed(1)
    joined = []
    for _ in range(3):
        target = torch.randint(0, H, (B,), generator=generator)
        history = torch.randint(0, H, (B, 4), generator=generator)
        joined.append((target, history, torch.rand(B, generator=generator)))
    joined[-1][0][B // WORLD :] = 0
    joined[-1][1][B // WORLD :] = 0
    return joined


def make_model(*case) -> Model:
    torch.manual_seed(7)
    return Model(*case).double()


def train(model: nn.Module, part: slice, names: list[str]) -> dict[str, torch.Tensor]:
    """Gradients of every step (dense) and the parameters after the last."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    seen = {}
    for step, (target, history, label) in enumerate(batches()):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(target[part], history[part]), label[part].double())
        loss.backward()
        for name, parameter in zip(names, model.parameters(), strict=True):
            assert parameter.grad is not None
            seen[f"{step} {name}"] = parameter.grad.to_dense().clone()
        optimizer.step()
    for name, parameter in zip(names, model.parameters(), strict=True):
        seen[name] = parameter.detach().clone()
    return seen


# Two lookups add two sparse gradients of one table; one lookup hands DDP the operator's own buffers.
CASES = [(True, True), (True, False), (False, False), (True, True, "attention")]


def train_parts() -> list[dict[str, Any]]:
    """What one process of the two sees of every case."""
    return [train_part(torch.distributed.get_rank(), case) for case in CASES]


def train_part(rank: int, case: tuple) -> dict[str, Any]:
    """What one process sees of a case."""
    share = B // WORLD
    model = make_model(*case)
    names = [name for name, _ in model.named_parameters()]
    if rank == 1:
        with torch.no_grad():
            model.item.central.zero_()  # DDP starts every process from rank 0's parameters
    wrapped = nn.parallel.DistributedDataParallel(model)
    seen = train(wrapped, slice(rank * share, (rank + 1) * share), names)
    forms = {p.grad.is_sparse for p in (model.item.central, model.item.residual)}
    return {"seen": seen, "state": wrapped.state_dict(), "sparse": forms}


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """What both processes saw; starting them takes most of the time, so once for all cases."""
    return on_ranks(WORLD, tmp_path_factory.mktemp("ddp"), train_parts)


@pytest.mark.full
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_one_process_on_the_joined_batch(case: tuple, of_ranks: list[list[dict[str, Any]]]) -> None:
    single = make_model(*case)
    expected = train(single, slice(0, B), [name for name, _ in single.named_parameters()])
    assert expected["0 item.central"].abs().sum() > 0.01
    for parts in of_ranks:
        found = parts[CASES.index(case)]
        assert found["sparse"] == {case[0]}
        assert found["seen"].keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found["seen"][name], value, rtol=1e-9, atol=1e-12)
        assert list(found["state"]) == [f"module.{name}" for name in single.state_dict()]
        restored = make_model(*case)
        restored.load_state_dict({k.removeprefix("module."): v for k, v in found["state"].items()})
        assert torch.equal(restored.item.central, found["seen"]["item.central"])
