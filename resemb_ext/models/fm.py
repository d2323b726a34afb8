"""Factorization machine, and DeepFM, which adds an MLP over the same vectors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .batch import TorchBatch
from .factors import FieldModel, FirstOrder, pair_sum
from .layers import MLP


class FM(FieldModel):
    """Factorization machine of degree 2, Rendle 2010 (ICDM, doi 10.1109/ICDM.2010.127).

    logit = w_0 + sum_i w_i x_i + sum over i < j of <v_i, v_j> x_i x_j. A history of n events is
    one field of n features of value 1 / n; the pairs inside it are left out. Target and history have their
    vectors v_i from one item table, as the other models do, where a plain FM has one of each; their w_i are apart.

    Args:
        item_embedding, category_embedding, user_embedding, context_embeddings, dense: see
            ``FieldModel``; embedding modules need ``num_embeddings``.
    """

    def __init__(
        self,
        item_embedding: nn.Module,
        *,
        category_embedding: nn.Module | None = None,
        user_embedding: nn.Module | None = None,
        context_embeddings: Sequence[nn.Module] = (),
        dense: int = 0,
    ) -> None:
        super().__init__(item_embedding, category_embedding, user_embedding, context_embeddings, dense)
        self.first_order = FirstOrder(self)

    def logits(self, batch: TorchBatch) -> Tensor:
        return self.first_order(self, batch) + pair_sum(self.field_vectors(batch))


class DeepFM(FieldModel):
    """DeepFM, Guo et al. 2017 (arXiv 1703.04247): an FM and an MLP that share their vectors.

    logit = FM's + MLP of all field vectors side by side.

    Args:
        item_embedding, category_embedding, user_embedding, context_embeddings, dense: see
            ``FieldModel``; embedding modules need ``num_embeddings``.
        hidden: sizes of the hidden layers.
        activation: "relu", "prelu", "dice" or "sigmoid".
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
        self.first_order = FirstOrder(self)
        self.mlp = MLP(self.fields * self.dim, hidden, activation, dropout)

    def logits(self, batch: TorchBatch) -> Tensor:
        vectors = self.field_vectors(batch)
        linear = self.first_order(self, batch)
        return linear + pair_sum(vectors) + self.mlp(vectors.flatten(1))
