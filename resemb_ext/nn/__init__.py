"""Modules."""

from .embedding import ResEmbedding

__all__ = ["ResEmbedding"]
