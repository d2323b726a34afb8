"""A model, its graph and its input, and what a refused call must leave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor, nn

import resemb_ext as rx

ROWS, DIM = 12, 4


def ring(rows: int = ROWS, padding: bool = True) -> rx.InterestGraph:
    """Each item's neighbour is the next one; row 0 is empty where it is padding."""
    first = 1 if padding else 0
    items = np.arange(first, rows)
    indptr = np.r_[np.zeros(first, np.int64), np.arange(len(items) + 1)]
    return rx.InterestGraph.from_csr(indptr, np.roll(items, -1), np.ones(len(items)))


class Model(nn.Module):
    """A target and a history of items, and the table of a user."""

    def __init__(self, sparse: bool = False) -> None:
        super().__init__()
        self.tables = nn.ModuleDict(
            {
                "item": nn.Embedding(ROWS, DIM, padding_idx=0, sparse=sparse),
                "user": nn.Embedding(ROWS + 3, DIM, sparse=sparse),
            }
        )
        self.out = nn.Linear(3 * DIM, 1)

    def forward(self, user: Tensor, history: Tensor, target: Tensor) -> Tensor:
        item = self.tables["item"]
        parts = [self.tables["user"](user), item(history).sum(1), item(target)]
        return self.out(torch.cat(parts, 1)).sum()


def inputs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    ids = [torch.randint(0, ROWS, shape, generator=draw) for shape in ((6,), (6, 3), (6,))]
    return ids[0], ids[1], ids[2]


def identities(model: nn.Module, *optimizers: Any) -> list[Any]:
    """What a refused call must leave: every module with its class, every parameter, every place in an optimizer."""
    found: list[Any] = [(id(m), type(m), sorted(vars(m))) for m in model.modules()]
    found += [(name, id(p), p._version) for name, p in model.named_parameters(remove_duplicate=False)]
    for optimizer in optimizers:
        found += [[id(p) for p in group["params"]] for group in optimizer.param_groups]
        found += [sorted(id(p) for p in optimizer.state)]
    return found


def refused(error: type[Exception], match: str, model: nn.Module, tables: Any, **options: Any) -> None:
    given = options.get("optimizer")
    before = identities(model, *([given] if isinstance(given, torch.optim.Optimizer) else []))
    random = torch.get_rng_state()
    with pytest.raises(error, match=match):
        rx.replace_embeddings(model, tables, **options)
    assert identities(model, *([given] if isinstance(given, torch.optim.Optimizer) else [])) == before
    assert torch.equal(torch.get_rng_state(), random)
