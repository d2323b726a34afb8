"""Tables of embeddings over graphs kept as a whole while nothing trains them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from .fold import Fold
from .whole_table import WholeTable


@contextlib.contextmanager
def folded_tables(model: nn.Module) -> Iterator[None]:
    """Inside the block the embeddings of a model compute their tables once, and look up in those.

    For validation: ``emb(ids)``, ``emb.weight`` and ``materialize()`` in ``eval()`` mode without gradients give the
    same numbers, to the bit, without summing neighbours again. A table is computed at the first lookup, and
    again after its parameters were written in place, or an optimizer has stepped. Writes through ``parameter.data`` are not seen: make those
    outside. Pooled lookups (``bag``, ``ResEmbeddingBag``) and a module whose ``out_dtype`` is another than its
    tables' compute as before. Each table takes H D numbers more until the block ends.

    Args:
        model: an embedding, or a model that holds some.
    """
    found = [module for module in model.modules() if isinstance(module, WholeTable) and module._fold is None]
    folds = [Fold() for _ in found]
    for module, fold in zip(found, folds, strict=True):
        module._fold = fold

    def stepped(*_: object) -> None:
        for fold in folds:
            fold.forget()

    # Fused optimizers of torch write without counting it.
    hook = register_optimizer_step_post_hook(stepped)
    try:
        yield
    finally:
        hook.remove()
        for module in found:
            vars(module).pop("_fold", None)
