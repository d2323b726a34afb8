"""DNN: mean-pooled history, target and an MLP; the base model of the CTR papers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .batch import TorchBatch
from .fields import CTRModel
from .layers import MLP


class DNN(CTRModel):
    """Embedding and MLP: the "BaseModel" of Zhou et al. 2018 (arXiv 1706.06978, section 4.2).

    The features of a sample are the mean of its history's vectors and the vector of its target,
    for the item and, where given, for the category, then the profile's. An empty history is a
    zero vector.

    Args:
        item_embedding, category_embedding, user_embedding, context_embeddings, dense: see
            ``CTRModel``.
        hidden: sizes of the hidden layers.
        activation: "relu", "prelu", "dice" or "sigmoid".
        dropout: share of hidden activations dropped in training.
        pooling: "mean" or "sum" over the history.
    """

    def __init__(
        self,
        item_embedding: nn.Module,
        *,
        category_embedding: nn.Module | None = None,
        user_embedding: nn.Module | None = None,
        context_embeddings: Sequence[nn.Module] = (),
        dense: int = 0,
        hidden: Sequence[int] = (64, 32),
        activation: str = "prelu",
        dropout: float = 0.0,
        pooling: str = "mean",
    ) -> None:
        super().__init__(item_embedding, category_embedding, user_embedding, context_embeddings, dense)
        if pooling not in ("mean", "sum"):
            raise ValueError(f'pooling must be "mean" or "sum", found {pooling!r}')
        self.pooling = pooling
        self.mlp = MLP(2 * self.event_size + self.profile_size, hidden, activation, dropout)

    def logits(self, batch: TorchBatch) -> Tensor:
        features = self.pooled_events(batch, self.pooling) + self.profile(batch)
        return self.mlp(torch.cat(features, dim=1))
