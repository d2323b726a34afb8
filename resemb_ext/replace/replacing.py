"""Tables of any model become Res-embeddings, in place."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from resemb_ext._bags import normalize_padding_idx
from resemb_ext.graph import InterestGraph
from resemb_ext.nn import ResEmbedding, ResEmbeddingBag, ResEmbeddingBase
from resemb_ext.runtime.living import living

from . import optimizers, refuse
from .graphs import graph_of, named
from .names import Table, choose
from .plan import Plan
from .report import Replacement
from .swap import Swap, tables_of

_STARTS = ("exact", "smoothed", "fresh")
_BLOCK = 1 << 16


def replace_embeddings(
    model: nn.Module,
    tables: Mapping[Any, Any],
    *,
    optimizer: torch.optim.Optimizer | Iterable[torch.optim.Optimizer] | Any | None = None,
    start: str = "exact",
    sparse: bool | None = None,
    **options: Any,
) -> Replacement:
    """Turns nn.Embedding and nn.EmbeddingBag modules of a model into Res-embeddings over graphs.

    The modules change in place: each stays the same object, so that every name it has, its hooks, and attributes that
    others have set on it stay. All is checked before anything is changed; a call that raises leaves everything as it
    was. No random numbers are drawn but for ``start="fresh"``.

    Args:
        model: any nn.Module, also a compiled one, or an embedding itself.
        tables: which embeddings, and the graph of each. A key is the module's dotted path; or its last names, where
            only one path ends so; or the module; or a predicate (path, module) -> bool, whose embeddings share one
            graph. Modules in plain lists have names such as "tables[0]". A value is an ``InterestGraph`` over the
            table's rows; or events in row numbers, of which it is built with default options: a mapping or data frame
            with columns user, item and perhaps time, a tuple (users, items[, times]) of arrays, or a log. They must
            be training events.
        optimizer: one, or several, bare or wrapped by accelerate or Lightning. The old weight's place in its group is
            taken by C, R and the attention's parameters. All other parameters and their state stay; the old weight's
            state, as momentum, is dropped. Nothing is stepped.
        start: "exact": E = T, the old table, with C = T and R = T - W T; "smoothed": E = W T, with R = 0; "fresh":
            drawn anew, so that the entries of E have T's standard deviation.
        sparse: gradients of C and R as COO tensors of the touched rows; None: as the old module's.
        **options: of ``ResEmbedding``: link, residual_scale, hops, heads, ... ``keep_padding`` is true unless told
            otherwise where the padding row is not zero.

    Returns:
        What was replaced; printed, a short text.

    Raises:
        TypeError: no module, no mapping, a class or a kind of weight that cannot be replaced, another optimizer.
        ValueError: a key that means no table, or several; a graph that does not fit; a model in
            DistributedDataParallel or FSDP; max_norm, scale_grad_by_freq, mode="max"; a weight that another module
            shares; an optimizer that does not take the gradients.

    Warns:
        UserWarning: a living optimizer that was not given holds an old weight; so does a living module
            outside ``model``; a padding row that is not zero is lost by ``keep_padding=False``.

    Example:
        >>> model = nn.ModuleDict({"item": nn.Embedding(3, 8, padding_idx=0)})
        >>> graph = InterestGraph.from_csr([0, 0, 1, 2], [2, 1], [3.0, 3.0])
        >>> report = replace_embeddings(model, {"item": graph})
        >>> model["item"].central.shape
        torch.Size([3, 8])
    """
    with torch.inference_mode(False):  # what is made here must be able to learn
        if start not in _STARTS:
            raise ValueError(f"start: found {start!r}; expected 'exact', 'smoothed' or 'fresh'")
        refuse.check_model(model)
        given = optimizers.unwrapped(optimizer)
        chosen, found = choose(model, tables)
        wanted = [table for table, _ in chosen]
        for table in wanted:
            refuse.check_table(table)
        refuse.check_ties(wanted, found)
        alive = living()
        refuse.check_wrapped(wanted, alive.wrappers)
        for table in wanted:
            optimizers.check_ties(given, refuse.weight_of(table), table.name, alive.optimizers)
        prepared = [_swap(table, value, start, sparse, options, given) for table, value in chosen]
        plan = Plan([swap for swap, _ in prepared], found, given)
        for text in [text for _, texts in prepared for text in texts]:
            warnings.warn(text, stacklevel=2)
        for text in refuse.tied_outside(wanted, found, alive.modules):
            warnings.warn(text, stacklevel=2)
        forgotten = optimizers.forgotten(given, alive.optimizers, plan.swaps)
        optimizers.warn_of_forgotten(forgotten, found, "replace_embeddings")
        return plan.carry_out()


def _swap(
    table: Table,
    value: Any,
    start: str,
    sparse: bool | None,
    options: dict[str, Any],
    given: list[torch.optim.Optimizer],
) -> tuple[Swap, list[str]]:
    module: Any = table.module
    settings = {**options, **({} if sparse is None else {"sparse": sparse})}
    padding = settings.get("padding_idx", module.padding_idx)
    graph = graph_of(value, module.num_embeddings, padding, table.name)
    settings.setdefault("keep_padding", _shows_padding(refuse.weight_of(table), padding))
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            made = _made(module, graph, start, settings)
    except (TypeError, ValueError, IndexError) as error:
        raise named(error, table.name) from error
    old = {"weight": refuse.weight_of(table)}
    swap = Swap(table, made, type(made), old, tables_of(made), frozenset(), made.sparse, made.graph.num_edges)
    swap.notes = _notes(swap, given)
    swap.check()
    return swap, [f"{table.name}: {warning.message}" for warning in caught]


def _made(module: Any, graph: InterestGraph, start: str, options: dict[str, Any]) -> ResEmbeddingBase:
    weight: Tensor = module.weight
    bags = isinstance(module, nn.EmbeddingBag)
    begin = ResEmbeddingBag.from_embedding_bag if bags else ResEmbedding.from_embedding
    if start == "fresh":
        if not weight.is_meta:
            padding = options.get("padding_idx", module.padding_idx)
            options = {"match_std": True, "init_std": deviation(weight, padding), **options}
        made = begin(module, graph, exact=False, **options)
        kept = made.residual.detach()[made.padding_idx].clone() if made.keep_padding else None
        made.reset_parameters()
        if kept is not None:
            with torch.no_grad():
                made.residual[made.padding_idx] = kept
        return made
    return begin(module, graph, exact=start == "exact", **options)


def _shows_padding(table: Tensor, padding: int | None) -> bool:
    """Whether the padding row is there and not zero."""
    if padding is None or table.is_meta or not -len(table) <= padding < len(table):
        return False
    return bool(table.detach()[padding].any())


@torch.no_grad()
def deviation(table: Tensor, padding_idx: int | None) -> float:
    """Standard deviation of a table's entries, those of its padding row left out."""
    padding = normalize_padding_idx(padding_idx, len(table))
    count, total, squares = 0, 0.0, 0.0
    for first in range(0, len(table), _BLOCK):
        block = table[first : first + _BLOCK].double()
        if first <= padding < first + _BLOCK:
            block = torch.cat([block[: padding - first], block[padding - first + 1 :]])
        count += block.numel()
        total += float(block.sum())
        squares += float(block.square().sum())
    return math.sqrt(max(squares / count - (total / count) ** 2, 0.0)) if count else 0.0


def _notes(swap: Swap, given: list[torch.optim.Optimizer]) -> tuple[str, ...]:
    weight = next(iter(swap.old.values()))
    notes = ["its padding row is not zero, and is kept"] if getattr(swap.made, "keep_padding", False) else []
    if given and weight.requires_grad and not any(optimizers.holds(optimizer, swap) for optimizer in given):
        notes.append("no optimizer that was given holds it")
    if weight.grad is not None:
        notes.append("the gradient that its weight had is dropped")
    if weight._backward_hooks or getattr(weight, "_post_accumulate_grad_hooks", None):
        notes.append("hooks on its weight are gone; register them on central and residual")
    return tuple(notes)
