"""A small embedding over a ring of items."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import resemb_ext as rx
from resemb_ext import ResEmbedding

H, D = 9, 6
PADDING = 0


def make_graph() -> rx.InterestGraph:
    """A ring over items 1 to 8; item 0 has no neighbours."""
    items = np.arange(1, H)
    return rx.InterestGraph.from_csr(np.concatenate([[0, 0], items]), np.roll(items, 1), np.full(H - 1, 2.0))


def make(link: str = "average", padding_idx: int | None = PADDING, cls: type = ResEmbedding, **options) -> Any:
    return cls(make_graph(), D, link=link, padding_idx=padding_idx, **options)


def table(emb: nn.Module) -> Tensor:
    with torch.no_grad():
        return emb.materialize()
