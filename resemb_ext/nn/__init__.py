"""Modules."""

from .base import ResEmbeddingBase
from .combining import graph_attributes
from .embedding import ResEmbedding
from .embedding_bag import ResEmbeddingBag
from .folded import folded_tables
from .kinds import combined, plain_class
from .smoothing import Smoothing

__all__ = [
    "ResEmbedding",
    "ResEmbeddingBag",
    "ResEmbeddingBase",
    "Smoothing",
    "combined",
    "folded_tables",
    "graph_attributes",
    "plain_class",
]
