"""Modules."""

from resemb_ext.nn.embedding import ResEmbedding

__all__ = ["ResEmbedding"]
