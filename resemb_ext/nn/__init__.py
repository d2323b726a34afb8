"""Modules."""

from .base import ResEmbeddingBase
from .embedding import ResEmbedding
from .embedding_bag import ResEmbeddingBag

__all__ = ["ResEmbedding", "ResEmbeddingBag", "ResEmbeddingBase"]
