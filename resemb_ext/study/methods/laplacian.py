"""A model whose item table is drawn together along a graph by a penalty, as in manifold regularisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resemb_ext.graph import InterestGraph
from resemb_ext.train.building import PADDING

#: Rows sampled at each step.
PENALTY_ROWS = 1024


class GraphPenalty(nn.Module):
    """Adds (strength / 2) sum_ij w_ij |E_i - E_j|^2 to a model's loss (Belkin et al. 2006).

    w are the weights of the link average, so that rows of every degree are drawn alike, and
    ``strength`` has the unit of an L2: the gradient at E_i is strength times its distance to the mean
    of its neighbours, and the same from the rows that it is a neighbour of. Each step takes a sample of
    rows, drawn evenly by torch's generator and scaled up, so the penalty's expectation is the sum.

    Args:
        model: with ``item_embedding``, a plain table.
        graph: raw interest graph.
        strength: of the penalty, >= 0.
        rows: sampled at each step.
    """

    neighbors: Tensor
    weights: Tensor

    def __init__(self, model: nn.Module, graph: InterestGraph, strength: float, rows: int = PENALTY_ROWS) -> None:
        super().__init__()
        self.model, self.strength, self.rows = model, strength, rows
        linked = graph.with_link("average", padding_idx=PADDING)
        counts = np.diff(linked.indptr)
        row = np.repeat(np.arange(linked.num_items), counts)
        place = np.arange(linked.num_edges) - np.repeat(linked.indptr[:-1], counts)
        shape = (linked.num_items, int(counts.max()))
        neighbors = np.full(shape, PADDING, dtype=np.int64)
        weights = np.zeros(shape, dtype=np.float32)
        neighbors[row, place], weights[row, place] = linked.neighbors, linked.weights
        self.register_buffer("neighbors", torch.from_numpy(neighbors), persistent=False)
        self.register_buffer("weights", torch.from_numpy(weights), persistent=False)

    def forward(self, batch: Any) -> Tensor:
        """The model's logits [B]."""
        return self.model(batch)

    def auxiliary_loss(self) -> Tensor:
        """The penalty on a fresh sample of rows, a scalar."""
        count = self.neighbors.shape[0]
        rows = torch.randint(count, (self.rows,), device=self.neighbors.device)
        return self.penalty(rows) * (count / self.rows)

    def penalty(self, rows: Tensor) -> Tensor:
        """The part of the sum that ``rows`` have in it."""
        neighbors = self.neighbors[rows]
        vectors = self.model.get_submodule("item_embedding")(torch.cat([rows.unsqueeze(1), neighbors], dim=1))
        distance = (vectors[:, :1] - vectors[:, 1:]).square().sum(-1)
        return 0.5 * self.strength * (self.weights[rows] * distance).sum()
