"""Tables of embeddings over graphs kept as a whole while nothing trains them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from .fold import Fold
from .whole_table import WholeTable


@contextlib.contextmanager
def folded_tables(model: nn.Module) -> Iterator[None]:
    """Inside the block the embeddings of a model compute their tables once, and look up in those.

    For validation: ``emb(ids)``, ``emb.weight`` and ``materialize()`` in ``eval()`` mode without gradients give the
    same numbers, to the bit, without summing neighbours again. A table is computed at the first lookup, and
    again after its parameters were written in place. Writes through ``parameter.data`` are not seen: make those
    outside. Pooled lookups (``bag``, ``ResEmbeddingBag``) and a module whose ``out_dtype`` is another than its
    tables' compute as before. Each table takes H D numbers more until the block ends.

    Args:
        model: an embedding, or a model that holds some.
    """
    found = [module for module in model.modules() if isinstance(module, WholeTable) and module._fold is None]
    for module in found:
        module._fold = Fold()
    try:
        yield
    finally:
        for module in found:
            module._fold = None
