"""A small CTR model, its graph and generated samples, as each trainer's tests take them."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import resemb_ext as rx

H, D, N = 60, 8, 96


def graph(identity: bool = False) -> rx.InterestGraph:
    """A ring over the items behind padding; or each item alone."""
    items = np.arange(1, H)
    neighbors = items if identity else np.r_[items[1:], 1]
    return rx.InterestGraph.from_csr(np.r_[0, np.arange(H)], neighbors, np.ones(H - 1))


class CTR(nn.Module):
    """Mean of a history beside the target, and dense layers."""

    def __init__(self, sparse: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.item = nn.Embedding(H, D, padding_idx=0, sparse=sparse)
        self.top = nn.Sequential(nn.Linear(2 * D, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, history: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.top(torch.cat([self.item(history).mean(1), self.item(target)], 1))[:, 0]


def swapped(kind: str) -> CTR:
    """ "plain": torch's own; "identity": over a graph without neighbours; "res": over the ring. Both ours are sparse."""
    model = CTR()
    if kind != "plain":
        rx.replace_embeddings(model, {"item": graph(kind == "identity")}, sparse=True)
    return model


def samples() -> torch.utils.data.TensorDataset:
    """Labels that the items decide, so that a loss can fall."""
    generator = torch.Generator().manual_seed(0)
    history, target = torch.randint(0, H, (N, 4), generator=generator), torch.randint(1, H, (N,), generator=generator)
    return torch.utils.data.TensorDataset(history, target, (target % 3 == 0).float())


def loss_of(model: nn.Module, history: torch.Tensor, target: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return nn.functional.binary_cross_entropy_with_logits(model(history, target), label)
