"""DIN: deep interest network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .batch import TorchBatch
from .dnn import categories, feature_size
from .layers import MLP
from .layers import activation as make_activation
from .pooling import segment_ids, segment_sum


class LocalActivation(nn.Module):
    """Attention of DIN: one score per (target, history position), from an MLP.

    The MLP's input is [q, k, q - k, q * k]; its first layer is a linear map of four parts, so
    ``W [q, k, q - k, q * k] = (W1 + W3) q + (W2 - W3) k + W4 (q * k)``: the part in q is computed
    once per sample and the concatenation is never built.

    Args:
        features: size D of q and k.
        hidden: sizes of the hidden layers; at least one.
        activation: "prelu" or "dice" (the paper's two), or "relu".
    """

    def __init__(self, features: int, hidden: Sequence[int], activation: str) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("attention_hidden must name at least one layer, found ()")
        self.first = nn.Linear(4 * features, hidden[0])
        self.activation = make_activation(activation, hidden[0])
        self.rest = MLP(hidden[0], hidden[1:], activation)

    def forward(self, query: Tensor, keys: Tensor, row: Tensor, key_row: Tensor | None) -> Tensor:
        """Scores of the pairs.

        Args:
            query: [B, D].
            keys: [P, D], each history vector once.
            row: int64 [Q], the sample of each pair.
            key_row: int64 [Q], the key of each pair; None when pair p has key p.

        Returns:
            [Q].
        """
        w_query, w_key, w_diff, w_product = self.first.weight.chunk(4, dim=1)
        by_query = torch.addmm(self.first.bias, query, (w_query + w_diff).t())
        by_key = keys @ (w_key - w_diff).t()
        if key_row is not None:
            by_key, keys = by_key.index_select(0, key_row), keys.index_select(0, key_row)
        product = query.index_select(0, row) * keys
        hidden = by_key + by_query.index_select(0, row) + product @ w_product.t()
        return self.rest(self.activation(hidden))


class DIN(nn.Module):
    """Deep Interest Network, Zhou et al. 2018 (arXiv 1706.06978).

    The history is pooled with weights that depend on the target: the output of an MLP on
    [q, k, q - k, q * k], where q is the target's vector and k a history item's. As in the paper
    the weights are not normalised; ``softmax=True`` does so. Histories stay jagged, so there is
    no padding to mask: padding ids inside a history are dropped, and an empty history is a zero
    vector.

    Args:
        item_embedding: any module from ids to vectors, with ``embedding_dim``.
        category_embedding: the same for categories, or None. q and k are item and category side
            by side.
        hidden: sizes of the output MLP's hidden layers.
        attention_hidden: sizes of the attention MLP's hidden layers.
        activation: "relu", "prelu" or "dice", in both MLPs.
        dropout: share of the output MLP's hidden activations dropped in training.
        softmax: normalise the weights of a history to sum to 1.
    """

    def __init__(
        self,
        item_embedding: nn.Module,
        *,
        category_embedding: nn.Module | None = None,
        hidden: Sequence[int] = (64, 32),
        attention_hidden: Sequence[int] = (36,),
        activation: str = "prelu",
        dropout: float = 0.0,
        softmax: bool = False,
    ) -> None:
        super().__init__()
        self.item_embedding = item_embedding
        self.category_embedding = category_embedding
        self.softmax = softmax
        size = feature_size(item_embedding, category_embedding)
        self.attention = LocalActivation(size, attention_hidden, activation)
        self.mlp = MLP(2 * size, hidden, activation, dropout)

    def forward(self, batch: Any) -> Tensor:
        """Scores a batch.

        Args:
            batch: a :class:`TorchBatch`, or an ``rx.data.Batch`` of NumPy arrays.

        Returns:
            logits [B].
        """
        batch = TorchBatch.of(batch)
        positions, rows = batch.history.numel(), batch.target.numel()
        # One lookup per table and step, on targets and histories together.
        vectors = self.item_embedding(torch.cat([batch.history, batch.target]))
        if self.category_embedding is not None:
            both = torch.cat(categories(batch))
            vectors = torch.cat([vectors, self.category_embedding(both)], dim=1)
        keys, query = vectors.split([positions, rows])
        row, key_row = _pairs(batch)
        padding = getattr(self.item_embedding, "padding_idx", None)
        if padding is not None:
            real = batch.history != padding
            if key_row is None:
                # all() is one small reduction; the copy below is seldom needed.
                if not bool(real.all()):
                    key_row = real.nonzero().squeeze(1)
                    row = row[key_row]
            else:
                kept = real[key_row]
                row, key_row = row[kept], key_row[kept]
        weight = self.attention(query, keys, row, key_row)
        if self.softmax:
            weight = _segment_softmax(weight, row, rows)
        chosen = keys if key_row is None else keys.index_select(0, key_row)
        interest = segment_sum(chosen * weight.unsqueeze(1), row, rows)
        return self.mlp(torch.cat([interest, query], dim=1))


def _pairs(batch: TorchBatch) -> tuple[Tensor, Tensor | None]:
    """Sample and key of each (target, history position) pair of a batch."""
    if batch.history_row is None:
        return segment_ids(batch.offsets, batch.history.numel()), None
    lengths = batch.lengths().index_select(0, batch.history_row)
    start = batch.offsets.index_select(0, batch.history_row)
    first = torch.cumsum(lengths, 0) - lengths
    row = segment_ids(first, int(lengths.sum()))
    within = torch.arange(row.numel(), device=row.device) - first.index_select(0, row)
    return row, start.index_select(0, row) + within


def _segment_softmax(score: Tensor, segments: Tensor, count: int) -> Tensor:
    """Softmax of ``score`` [P] within each segment."""
    top = score.new_full((count,), float("-inf"))
    top = top.scatter_reduce(0, segments, score.detach(), "amax")
    power = torch.exp(score - top.index_select(0, segments))
    return power / segment_sum(power, segments, count).index_select(0, segments)
