"""DNN: mean-pooled history, target and an MLP; the base model of the CTR papers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .batch import TorchBatch
from .layers import MLP
from .pooling import embedding_bag


class DNN(nn.Module):
    """Embedding and MLP: the "BaseModel" of Zhou et al. 2018 (arXiv 1706.06978, section 4.2).

    The features of a sample are the mean of its history's vectors and the vector of its target,
    for the item and, where given, for the category. An empty history is a zero vector.

    Args:
        item_embedding: any module from ids to vectors, with ``embedding_dim``
            (``nn.Embedding``, ``ResEmbedding``, ...).
        category_embedding: the same for categories, or None to ignore them.
        hidden: sizes of the hidden layers.
        activation: "relu", "prelu" or "dice".
        dropout: share of hidden activations dropped in training.
        pooling: "mean" or "sum" over the history.
    """

    def __init__(
        self,
        item_embedding: nn.Module,
        *,
        category_embedding: nn.Module | None = None,
        hidden: Sequence[int] = (64, 32),
        activation: str = "prelu",
        dropout: float = 0.0,
        pooling: str = "mean",
    ) -> None:
        super().__init__()
        if pooling not in ("mean", "sum"):
            raise ValueError(f'pooling must be "mean" or "sum", found {pooling!r}')
        self.item_embedding = item_embedding
        self.category_embedding = category_embedding
        self.pooling = pooling
        self.mlp = MLP(
            2 * feature_size(item_embedding, category_embedding), hidden, activation, dropout
        )

    def forward(self, batch: Any) -> Tensor:
        """Scores a batch.

        Args:
            batch: a :class:`TorchBatch`, or an ``rx.data.Batch`` of NumPy arrays.

        Returns:
            logits [B].
        """
        batch = TorchBatch.of(batch)
        features = list(self._pooled(self.item_embedding, batch, batch.history, batch.target))
        if self.category_embedding is not None:
            history, target = categories(batch)
            features += self._pooled(self.category_embedding, batch, history, target)
        return self.mlp(torch.cat(features, dim=1))

    def _pooled(
        self, table: nn.Module, batch: TorchBatch, history: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        # One lookup per table and step: a target is a bag of one beside the histories' bags.
        rows, bags = target.numel(), batch.offsets.numel()
        single = torch.arange(rows, device=target.device) + history.numel()
        pooled = embedding_bag(
            table,
            torch.cat([history, target]),
            torch.cat([batch.offsets, single]),
            self.pooling,
        )
        history_vector, target_vector = pooled.split([bags, rows])
        if batch.history_row is not None:
            history_vector = history_vector.index_select(0, batch.history_row)
        return history_vector, target_vector


def feature_size(item_embedding: nn.Module, category_embedding: nn.Module | None) -> int:
    """Size of one event's vector: item and, where there is one, category.

    Raises:
        TypeError: an embedding module has no ``embedding_dim``.
    """
    size = 0
    for name, module in (
        ("item_embedding", item_embedding),
        ("category_embedding", category_embedding),
    ):
        if module is None:
            continue
        dim = getattr(module, "embedding_dim", None)
        if not isinstance(dim, int):
            raise TypeError(
                f"{name} must be an embedding module with an integer embedding_dim, "
                f"found {type(module).__name__}"
            )
        size += dim
    return size


def categories(batch: TorchBatch) -> tuple[Tensor, Tensor]:
    """History and target categories of a batch.

    Raises:
        ValueError: the batch has none, but the model has a category embedding.
    """
    if batch.history_category is None or batch.target_category is None:
        raise ValueError(
            "the model has a category_embedding, but the batch has no target_category and "
            "history_category: read the log with its category column"
        )
    return batch.history_category, batch.target_category
