"""What the factorization models share: first-order weights, and one vector of size D per field."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .batch import TorchBatch
from .fields import CTRModel, categories, embedding_size
from .pooling import pool_histories


class FirstOrder(nn.Module):
    """The linear part: a bias, a weight per id of each field, a weight per dense feature.

    An item (or category) has one weight as the target and another in a history, whose weights
    are averaged. All start at zero.

    Args:
        model: whose fields are weighted; its embedding modules tell ``num_embeddings``.

    Raises:
        TypeError: an embedding module has no ``num_embeddings``.
    """

    def __init__(self, model: CTRModel) -> None:
        super().__init__()
        # Two columns, target and history: one lookup a table for both.
        self.item = _weights("item_embedding", model.item_embedding, 2)
        self.category, self.user = None, None
        if model.category_embedding is not None:
            self.category = _weights("category_embedding", model.category_embedding, 2)
        if model.user_embedding is not None:
            self.user = _weights("user_embedding", model.user_embedding, 1)
        self.context = nn.ModuleList(
            _weights(f"context_embeddings[{column}]", module, 1)
            for column, module in enumerate(model.context_embeddings)
        )
        self.dense = nn.Parameter(torch.zeros(model.dense)) if model.dense else None
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, model: CTRModel, batch: TorchBatch) -> Tensor:
        """The linear part of the logits, [B]."""
        events = [(self.item, batch.history, batch.target)]
        if self.category is not None:
            events.append((self.category, *categories(batch)))
        total: Tensor = self.bias
        for table, history, target in events:
            pooled, single = pool_histories(table, batch, history, target)
            total = total + single[:, 0] + pooled[:, 1]
        tables = [] if self.user is None else [self.user]
        for table, (_, ids) in zip([*tables, *self.context], model.profile_ids(batch), strict=True):
            total = total + table(ids).squeeze(1)
        if self.dense is not None:
            total = total + model.dense_values(batch).to(self.dense.dtype) @ self.dense
        return total


def _weights(name: str, module: nn.Module, columns: int) -> nn.Embedding:
    rows = getattr(module, "num_embeddings", None)
    if not isinstance(rows, int):
        raise TypeError(
            f"{name} must have an integer num_embeddings, for a first-order weight per id; "
            f"{type(module).__name__} has none"
        )
    table = nn.Embedding(
        rows, columns, padding_idx=getattr(module, "padding_idx", None), sparse=bool(getattr(module, "sparse", False))
    )
    nn.init.zeros_(table.weight)
    return table


class FieldModel(CTRModel):
    """A model in which each field of a sample is one vector of the same size D.

    The fields: mean history and target item, mean history and target category, user, each
    context column, and each dense feature x_k as x_k v_k with a learned v_k.

    Args:
        item_embedding, category_embedding, user_embedding, context_embeddings, dense: see
            ``CTRModel``.

    Raises:
        ValueError: embedding modules differ in ``embedding_dim``.
    """

    def __init__(
        self,
        item_embedding: nn.Module,
        category_embedding: nn.Module | None = None,
        user_embedding: nn.Module | None = None,
        context_embeddings: Sequence[nn.Module] = (),
        dense: int = 0,
    ) -> None:
        super().__init__(item_embedding, category_embedding, user_embedding, context_embeddings, dense)
        #: D.
        self.dim = embedding_size("item_embedding", item_embedding)
        others = {"category_embedding": category_embedding, "user_embedding": user_embedding}
        others |= {f"context_embeddings[{c}]": m for c, m in enumerate(context_embeddings)}
        for name, module in others.items():
            if module is not None and embedding_size(name, module) != self.dim:
                raise ValueError(
                    f"{name} must have the embedding_dim of item_embedding, {self.dim}: products "
                    f"of fields need equal sizes; found {embedding_size(name, module)}"
                )
        #: Number of fields.
        self.fields = 2 + sum(module is not None for module in others.values()) + dense
        self.fields += category_embedding is not None
        self.dense_vectors = nn.Parameter(torch.empty(dense, self.dim)) if dense else None
        if self.dense_vectors is not None:
            nn.init.normal_(self.dense_vectors, std=0.05)

    def field_vectors(self, batch: TorchBatch) -> Tensor:
        """[B, fields, D]."""
        vectors = self.pooled_events(batch)
        vectors += [self.vectors(module, ids) for module, ids in self.profile_ids(batch)]
        stacked = torch.stack(vectors, dim=1)
        if self.dense_vectors is None:
            return stacked
        values = self.dense_values(batch).to(stacked.dtype)
        return torch.cat([stacked, values.unsqueeze(2) * self.dense_vectors], dim=1)


def pair_sum(vectors: Tensor) -> Tensor:
    """Sum of <v_i, v_j> over i < j, as (|sum v|^2 - sum |v|^2) / 2: [B, F, D] -> [B]."""
    return (vectors.sum(1).square() - vectors.square().sum(1)).sum(1) / 2
