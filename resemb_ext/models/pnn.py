"""PNN: an MLP over field vectors and their products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .batch import TorchBatch
from .factors import FieldModel
from .layers import MLP

_PRODUCTS = ("inner", "outer", "kernel")


class PNN(FieldModel):
    """Product-based neural network, Qu et al. 2016 (arXiv 1611.00144).

    The MLP's input is all field vectors side by side, then their products:

    - "inner" (IPNN): <f_i, f_j> for i < j, as in DeepCTR; the paper's sum has the squares i = j too;
    - "outer" (OPNN): the matrix s s^T of s = sum_i f_i, the paper's superposition of all outer
      products, as D^2 features;
    - "kernel": f_i^T K_ij f_j for i < j with a learned matrix a pair, the outer products seen
      through one filter each (Qu et al. 2018, arXiv 1807.00311); what DeepCTR calls outer.

    Args:
        item_embedding, category_embedding, user_embedding, context_embeddings, dense: see
            ``FieldModel``.
        product: "inner", "outer" or "kernel".
        hidden: sizes of the hidden layers.
        activation: "relu" (the paper's), "prelu", "dice" or "sigmoid".
        dropout: share of hidden activations dropped in training.

    Raises:
        ValueError: an unknown product.
    """

    first: Tensor
    second: Tensor

    def __init__(
        self,
        item_embedding: nn.Module,
        *,
        category_embedding: nn.Module | None = None,
        user_embedding: nn.Module | None = None,
        context_embeddings: Sequence[nn.Module] = (),
        dense: int = 0,
        product: str = "inner",
        hidden: Sequence[int] = (64, 32),
        activation: str = "prelu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(item_embedding, category_embedding, user_embedding, context_embeddings, dense)
        if product not in _PRODUCTS:
            raise ValueError(f"product must be one of {', '.join(_PRODUCTS)}, found {product!r}")
        self.product = product
        first, second = torch.triu_indices(self.fields, self.fields, 1)
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)
        pairs = first.numel()
        self.kernel = None
        if product == "kernel":
            self.kernel = nn.Parameter(torch.empty(pairs, self.dim, self.dim))
            nn.init.normal_(self.kernel, std=self.dim**-0.5)
        size = self.dim**2 if product == "outer" else pairs
        self.mlp = MLP(self.fields * self.dim + size, hidden, activation, dropout)

    def logits(self, batch: TorchBatch) -> Tensor:
        vectors = self.field_vectors(batch)
        return self.mlp(torch.cat([vectors.flatten(1), self.products(vectors)], dim=1))

    def products(self, vectors: Tensor) -> Tensor:
        """[B, fields, D] -> [B, pairs] or, for "outer", [B, D * D]."""
        if self.product == "outer":
            total = vectors.sum(1)
            return (total.unsqueeze(2) * total.unsqueeze(1)).flatten(1)
        left, right = vectors.index_select(1, self.first), vectors.index_select(1, self.second)
        if self.kernel is not None:
            left = torch.einsum("bpi,pij->bpj", left, self.kernel)
        return (left * right).sum(2)
