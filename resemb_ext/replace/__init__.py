"""Tables of a model replaced by Res-embeddings, and put back."""

from .replacing import replace_embeddings
from .report import OptimizerChange, ReplacedTable, Replacement
from .restoring import restore_embeddings

__all__ = ["OptimizerChange", "ReplacedTable", "Replacement", "replace_embeddings", "restore_embeddings"]
