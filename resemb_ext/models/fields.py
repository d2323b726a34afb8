"""What every model shares: the fields of a sample and the vectors they give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .batch import TorchBatch
from .pooling import pool_histories, widened

_TABLES = ("item_embedding", "category_embedding", "user_embedding", "context_embeddings")


class CTRModel(nn.Module):
    """A model over the fields of a sample.

    An event is an item and, with ``category_embedding``, its category: the target is one, and so
    is each history position. The profile is what else is known of a sample: user, categorical
    context, numbers.

    Vectors of bfloat16 and float16 tables join the layers behind them in those layers' dtype.

    Args:
        item_embedding: any module from ids to vectors, with ``embedding_dim`` (``nn.Embedding``,
            ``ResEmbedding``, ...).
        category_embedding: the same for categories, or None to ignore them.
        user_embedding: the same for users, or None to ignore them.
        context_embeddings: one module for each column of ``batch.context``.
        dense: number of columns of ``batch.dense``.

    Raises:
        TypeError: an embedding module has no ``embedding_dim``.
        ValueError: ``dense`` is negative.
    """

    def __init__(
        self,
        item_embedding: nn.Module,
        category_embedding: nn.Module | None = None,
        user_embedding: nn.Module | None = None,
        context_embeddings: Sequence[nn.Module] = (),
        dense: int = 0,
    ) -> None:
        super().__init__()
        if dense < 0:
            raise ValueError(f"dense must be the number of dense features, found {dense}")
        self.item_embedding = item_embedding
        self.category_embedding = category_embedding
        self.user_embedding = user_embedding
        self.context_embeddings = nn.ModuleList(context_embeddings)
        self.dense = dense
        #: Size of an event's vector.
        self.event_size = embedding_size("item_embedding", item_embedding)
        if category_embedding is not None:
            self.event_size += embedding_size("category_embedding", category_embedding)
        #: Size of ``profile``.
        self.profile_size = dense
        if user_embedding is not None:
            self.profile_size += embedding_size("user_embedding", user_embedding)
        for column, module in enumerate(self.context_embeddings):
            self.profile_size += embedding_size(f"context_embeddings[{column}]", module)

    def forward(self, batch: Any) -> Tensor:
        """Scores a batch.

        Args:
            batch: a ``TorchBatch``, or an ``rx.data.Batch`` of NumPy arrays.

        Returns:
            logits [B].
        """
        return self.logits(TorchBatch.of(batch))

    def logits(self, batch: TorchBatch) -> Tensor:
        """Logits [B] of a batch: what a subclass defines."""
        raise NotImplementedError

    @property
    def padding_idx(self) -> int | None:
        """The item id that is no event."""
        return getattr(self.item_embedding, "padding_idx", None)

    @property
    def tower_dtype(self) -> torch.dtype | None:
        """The dtype of the layers behind the embeddings; None where there are none."""
        for name, module in self.named_children():
            if name not in _TABLES:
                for parameter in module.parameters():
                    return parameter.dtype
        return None

    def vectors(self, module: nn.Module, ids: Tensor) -> Tensor:
        """What an embedding module gives for ids, in ``tower_dtype`` where its table is of 16 bits."""
        return widened(module(ids), self.tower_dtype)

    def pooled_events(self, batch: TorchBatch, mode: str = "mean") -> list[Tensor]:
        """Pooled history and target of the items, and then of the categories.

        Args:
            batch: B samples.
            mode: of pooling, "mean" or "sum".

        Returns:
            Two tensors [B, D] of items; two more where the model has a category embedding.

        Raises:
            ValueError: the batch has no categories, but the model has a category embedding.
        """
        history, target, dtype = batch.history, batch.target, self.tower_dtype
        vectors = [*pool_histories(self.item_embedding, batch, history, target, mode, dtype)]
        if self.category_embedding is not None:
            history, target = categories(batch)
            vectors += pool_histories(self.category_embedding, batch, history, target, mode, dtype)
        return vectors

    def events(self, batch: TorchBatch, negatives: bool = False) -> list[Tensor]:
        """Vectors of events: of history [P, E], target [B, E] and, if asked, negatives [P, E].

        One lookup a table.

        Args:
            batch: B samples with P history positions; E is ``event_size``.
            negatives: give vectors of ``history_negative`` as well.

        Raises:
            ValueError: the batch has no categories, but the model has a category embedding.
        """
        ids = [batch.history.reshape(-1), batch.target]
        if negatives:
            assert batch.history_negative is not None
            ids.append(batch.history_negative.reshape(-1))
        sizes = [i.shape[0] for i in ids]
        vectors = self.vectors(self.item_embedding, torch.cat(ids))
        if self.category_embedding is not None:
            history, target = categories(batch)
            ids = [history.reshape(-1), target]
            if negatives:
                if batch.history_negative_category is None:
                    raise ValueError(
                        "the model has a category_embedding, but the batch has history_negative "
                        "without history_negative_category"
                    )
                ids.append(batch.history_negative_category.reshape(-1))
            vectors = torch.cat([vectors, self.vectors(self.category_embedding, torch.cat(ids))], dim=1)
        return list(vectors.split(sizes))

    def profile(self, batch: TorchBatch) -> list[Tensor]:
        """User, context and dense features: [B, ...] each, ``profile_size`` columns in all."""
        parts = [self.vectors(module, ids) for module, ids in self.profile_ids(batch)]
        if self.dense:
            parts.append(self.dense_values(batch).to(self.item_dtype(parts)))
        return parts

    def item_dtype(self, parts: list[Tensor]) -> torch.dtype:
        """The type that dense features join: that of the vectors beside them."""
        if parts:
            return parts[0].dtype
        parameter = next(self.parameters(), None)
        return torch.float32 if parameter is None else parameter.dtype

    def profile_ids(self, batch: TorchBatch) -> list[tuple[nn.Module, Tensor]]:
        """The user's and the context's modules, each with its ids [B].

        Raises:
            ValueError: the batch lacks a field that the model has a module for.
        """
        found: list[tuple[nn.Module, Tensor]] = []
        if self.user_embedding is not None:
            if batch.user is None:
                raise ValueError("the model has a user_embedding, but the batch has no user")
            found.append((self.user_embedding, batch.user))
        columns = len(self.context_embeddings)
        if columns:
            if batch.context is None or batch.context.shape[1] != columns:
                raise ValueError(
                    f"context must have {columns} columns, one for each of context_embeddings, "
                    f"found {_columns(batch.context)}"
                )
            found += zip(self.context_embeddings, batch.context.unbind(1), strict=True)
        return found

    def dense_values(self, batch: TorchBatch) -> Tensor:
        """The numbers of a sample, [B, F].

        Raises:
            ValueError: the batch has none or another number of them.
        """
        if batch.dense is None or batch.dense.shape[1] != self.dense:
            raise ValueError(f"dense must have {self.dense} columns, found {_columns(batch.dense)}")
        return batch.dense


def _columns(values: Tensor | None) -> str:
    return "none" if values is None else str(values.shape[1])


def embedding_size(name: str, module: nn.Module) -> int:
    """``module.embedding_dim``.

    Raises:
        TypeError: it has none.
    """
    dim = getattr(module, "embedding_dim", None)
    if not isinstance(dim, int):
        raise TypeError(
            f"{name} must be an embedding module with an integer embedding_dim, found {type(module).__name__}"
        )
    return dim


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
