"""Which class of embedding over a graph stands in for which plain class."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .base import ResEmbeddingBase
from .combining import Combined, combine
from .embedding import ResEmbedding
from .embedding_bag import ResEmbeddingBag


def combined(kind: type[nn.Module]) -> type[ResEmbeddingBase]:
    """The class whose instances are both: of a subclass K of a plain embedding, and embeddings over a graph.

    In it K comes first: its ``forward`` runs, and ``super().forward`` in it reaches that of ResEmbedding or
    ResEmbeddingBag. ``F.embedding`` and ``F.embedding_bag`` of ``self.weight`` are lookups over the graph too. It is not
    constructed: ``from_embedding`` and ``from_embedding_bag`` give such a module, and an object of K can become one by
    its ``__class__``. Copies and pickles refer to K. ``to_plain`` gives a module of K.

    Args:
        kind: K; nn.Embedding and nn.EmbeddingBag give ResEmbedding and ResEmbeddingBag themselves.

    Returns:
        The same class for the same K, as long as one of its instances lives.

    Raises:
        TypeError: no such class, or one that cannot be combined: scripted, computing its weight, with a pickling of
            its own, or with names that ResEmbedding uses for something else.

    Example:
        >>> class Scaled(nn.Embedding):
        ...     def forward(self, input):
        ...         return super().forward(input) * 8
        >>> issubclass(combined(Scaled), (Scaled, ResEmbedding))
        True
    """
    if isinstance(kind, type) and not issubclass(kind, (ResEmbeddingBase, torch.jit.ScriptModule)):
        for own in (ResEmbedding, ResEmbeddingBag):
            if issubclass(kind, own._plain_class):
                return combine(kind, own)
    found = kind.__name__ if isinstance(kind, type) else repr(kind)
    raise TypeError(
        f"kind: found {found}; expected nn.Embedding, nn.EmbeddingBag or a subclass, neither scripted nor ours"
    )


def plain_class(kind: Any) -> type[nn.Embedding | nn.EmbeddingBag]:
    """The class that an embedding over a graph stands in for: K of ``combined(K)``, or that of torch.nn.

    Raises:
        TypeError: another class.
    """
    if isinstance(kind, type) and issubclass(kind, ResEmbeddingBase):
        return kind._combines[0] if issubclass(kind, Combined) else kind._plain_class  # type: ignore[return-value]
    found = kind.__name__ if isinstance(kind, type) else repr(kind)
    raise TypeError(f"kind: found {found}; expected ResEmbedding, ResEmbeddingBag or a class combined with one of them")
