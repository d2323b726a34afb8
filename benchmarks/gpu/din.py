"""DIN end to end on a device: ours against the gather form, samples a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import resemb_ext as rx
from benchmarks.cells import Case
from benchmarks.gpu.variants import embedding
from resemb_ext.models import DIN, TorchBatch

LR = 1e-3
OWN = "res, resemb_ext Adam in backward"
GATHER = ("res, gather, SparseAdam", "res, gather, dense fused Adam")


class Gathered(nn.Module):
    """(C[nbrs[ids]] * w[ids]).sum + R[ids] as a module, of tables of its own."""

    def __init__(self, case: Case, sparse: bool) -> None:
        super().__init__()
        self.embedding_dim, self.padding_idx, self.sparse = case.cell.dim, None, sparse
        self.neighbors, self.weights = case.neighbors, case.weights
        self.central = nn.Parameter(0.05 * case.central.detach())
        self.residual = nn.Parameter(0.005 * case.residual.detach())

    def forward(self, ids: Tensor) -> Tensor:
        rows = F.embedding(self.neighbors[ids], self.central, sparse=self.sparse)
        own = F.embedding(ids, self.residual, sparse=self.sparse)
        return (rows * self.weights[ids].unsqueeze(-1)).sum(-2) + own


def batches_of(case: Case, samples: int) -> list[TorchBatch]:
    """Samples with histories of equal length, of the case's batches."""
    length = case.cell.positions // samples
    device = case.central.device
    found = []
    for ids in case.batches:
        history = ids[: samples * length]
        found.append(
            TorchBatch(
                target=ids[torch.randperm(ids.numel(), device=device)[:samples]],
                history=history,
                offsets=torch.arange(samples, device=device) * length,
                label=torch.randint(0, 2, (samples,), device=device).float(),
            )
        )
    return found


def _parts(model: DIN) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    tables = list(model.item_embedding.parameters())
    return tables, [p for p in model.parameters() if all(p is not t for t in tables)]


def variants(case: Case) -> dict[str, Callable[[], tuple[DIN, list[torch.optim.Optimizer]]]]:
    """Models with their optimizers by name, made when their turn comes."""

    def own() -> tuple[DIN, list[torch.optim.Optimizer]]:
        model = DIN(embedding(case, sparse=True)).to(case.central.device)
        optimizer = rx.optim.Adam(model.parameters(), lr=LR)
        optimizer.step_in_backward(model)
        return model, [optimizer]

    def gathered(sparse: bool) -> tuple[DIN, list[torch.optim.Optimizer]]:
        model = DIN(Gathered(case, sparse)).to(case.central.device)
        tables, rest = _parts(model)
        if sparse:
            return model, [torch.optim.SparseAdam(tables, lr=LR), torch.optim.Adam(rest, lr=LR)]
        return model, [torch.optim.Adam(model.parameters(), lr=LR, fused=True)]

    return {OWN: own, GATHER[0]: lambda: gathered(True), GATHER[1]: lambda: gathered(False)}


def step_of(made: tuple[DIN, list[torch.optim.Optimizer]], batches: list[TorchBatch]) -> Callable[[int], Any]:
    model, optimizers = made

    def run(turn: int) -> None:
        batch = batches[turn % len(batches)]
        F.binary_cross_entropy_with_logits(model(batch), batch.label).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run
