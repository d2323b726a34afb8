"""What all groups share: embeddings over graphs beside plain ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from resemb_ext import InterestGraph, ResEmbedding, ResEmbeddingBag

Cases = dict[str, Callable[[], None]]

# Name of a graph with its link: a table alone, and rows that share.
LINKS = {"identity": "given", "average": "average", "gcn": "gcn", "attention": "attention"}


def graph(name: str, rows: int, padding_idx: int | None = None) -> InterestGraph:
    """Every item its only neighbour; or a ring, from which padding is left out."""
    items = np.array([row for row in range(rows) if row != padding_idx], np.int64)
    neighbors = items if name == "identity" else np.roll(items, 1)
    degree = np.zeros(rows, np.int64)
    degree[items] = 1
    return InterestGraph.from_csr(np.concatenate([[0], np.cumsum(degree)]), neighbors, np.ones(len(items)))


def over_graph(plain: Any, name: str, **options: Any) -> Any:
    """A Res-embedding with a plain module's vectors; an attention link is no longer at its start."""
    start = ResEmbeddingBag.from_embedding_bag if isinstance(plain, nn.EmbeddingBag) else ResEmbedding.from_embedding
    padding = options.get("padding_idx", plain.padding_idx)
    module = start(plain, graph(name, plain.num_embeddings, padding), link=LINKS[name], **options)
    if module.attention is not None:
        table = module.weight.detach().clone()
        for parameter in module.attention.parameters():
            nn.init.normal_(parameter)
        module.weight.data.copy_(table)
    return module


def weight_gradient(module: Any) -> torch.Tensor:
    """The gradient of each vector as a dense table: that of R, since dE/dR is the identity."""
    gradient = module.residual.grad if hasattr(module, "residual") else module.weight.grad
    return gradient.to_dense()
