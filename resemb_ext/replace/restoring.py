"""Res-embeddings of a model become plain tables again, in place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from resemb_ext.nn import ResEmbedding, ResEmbeddingBag, ResEmbeddingBase, plain_class
from resemb_ext.nn.combining import graph_attributes
from resemb_ext.runtime.living import living

from . import optimizers, refuse
from .names import Table, embeddings
from .plan import Plan
from .report import Replacement
from .swap import Swap, tables_of
from .walk import places


def restore_embeddings(
    model: nn.Module, *, optimizer: torch.optim.Optimizer | Iterable[torch.optim.Optimizer] | Any | None = None
) -> Replacement:
    """Turns every ResEmbedding and ResEmbeddingBag of a model into a plain module with the same vectors.

    The modules change in place, as in ``replace_embeddings``, and are ordinary modules of torch then, for tools that
    export, quantise or serve. A table learns as before where C or R did.

    Args:
        model: any nn.Module.
        optimizer: one, or several. The weight takes the place of C in its group; R and the attention's parameters are
            taken out, and the state of all of them is dropped.

    Returns:
        What was restored; no table where the model has no ResEmbedding. Its notes name optimizers that were not given
        and hold the old tables; one that goes on stepping warns then.

    Raises:
        TypeError: no module, or another optimizer.
        ValueError: a model in DistributedDataParallel or FSDP.
    """
    with torch.inference_mode(False):  # what is made here must be able to learn
        refuse.check_model(model)
        given = optimizers.unwrapped(optimizer)
        found = places(model)
        chosen = [table for table in embeddings(found) if isinstance(table.module, ResEmbeddingBase)]
        alive = living()
        refuse.check_wrapped(chosen, alive.wrappers)
        plan = Plan([_swap(table) for table in chosen], found, given)
        for optimizer, swap in optimizers.forgotten(given, alive.optimizers, plan.swaps):
            swap.notes += (f"{type(optimizer).__name__}, which was not given, holds its old tables",)
        return plan.carry_out()


def _swap(table: Table) -> Swap:
    module: Any = table.module
    # Without what a subclass adds, which stays where it is.
    own: Any = ResEmbedding if isinstance(module, ResEmbedding) else ResEmbeddingBag
    made = own.to_plain(module, freeze=not (module.central.requires_grad or module.residual.requires_grad))
    before: Any = type(module)
    kind, stale = plain_class(before), graph_attributes(before)
    new = {"weight": made.weight}
    swap = Swap(table, made, kind, tables_of(module), new, stale, made.sparse, module.graph.num_edges)
    swap.check()
    return swap
