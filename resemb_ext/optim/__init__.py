"""Optimizers for row-sparse gradients: a step reads and writes the rows of the batch alone.

They take tables of ``ResEmbedding(sparse=True)`` and of plain ``nn.Embedding(sparse=True)``; parameters with
dense gradients beside them are handed to the torch.optim optimizer of that name.
"""

from .algorithms import SGD, Adagrad, Adam, AdamW, RowwiseAdagrad
from .average import average_gradients
from .base import RowSparseOptimizer
from .clip import clip_grad_norm_, clip_grad_value_
from .like import like
from .patched_clip import patch_clipping

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "RowSparseOptimizer",
    "RowwiseAdagrad",
    "average_gradients",
    "clip_grad_norm_",
    "clip_grad_value_",
    "like",
    "patch_clipping",
]
