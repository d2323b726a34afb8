"""Modules."""

from .base import ResEmbeddingBase
from .combining import graph_attributes
from .embedding import ResEmbedding
from .embedding_bag import ResEmbeddingBag
from .folded import folded_tables
from .kinds import combined, plain_class

__all__ = [
    "ResEmbedding",
    "ResEmbeddingBag",
    "ResEmbeddingBase",
    "combined",
    "folded_tables",
    "graph_attributes",
    "plain_class",
]
