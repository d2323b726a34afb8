"""Wide & Deep: a linear model beside an MLP over embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .batch import TorchBatch
from .factors import FirstOrder
from .fields import CTRModel
from .layers import MLP


class WideDeep(CTRModel):
    """Wide & Deep, Cheng et al. 2016 (arXiv 1606.07792).

    logit = linear model of the raw features + MLP of their vectors and the dense features. The
    paper's cross-product features of the wide part are for the user to make: as columns of
    ``context``.

    Args:
        item_embedding, category_embedding, user_embedding, context_embeddings, dense: see
            ``CTRModel``; embedding modules need ``num_embeddings``.
        hidden: sizes of the hidden layers.
        activation: "relu" (the paper's), "prelu", "dice" or "sigmoid".
        dropout: share of hidden activations dropped in training.
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
    ) -> None:
        super().__init__(item_embedding, category_embedding, user_embedding, context_embeddings, dense)
        self.wide = FirstOrder(self)
        self.mlp = MLP(2 * self.event_size + self.profile_size, hidden, activation, dropout)

    def logits(self, batch: TorchBatch) -> Tensor:
        features = torch.cat(self.pooled_events(batch) + self.profile(batch), dim=1)
        return self.wide(self, batch) + self.mlp(features)
