"""Deals the tables of a model over the ranks of a group."""

from __future__ import annotations

import datetime
import hashlib
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from resemb_ext._huge_pages import empty_table
from resemb_ext._ownership import owner_of, set_replaced
from resemb_ext.nn import ResEmbedding, ResEmbeddingBag, ResEmbeddingBase
from resemb_ext.nn.half import HalfEmbedding

from . import lists
from .batch import Source
from .deal import Deal
from .model import ShardedModel
from .modules import ShardedEmbedding, ShardedEmbeddingBag, ShardedLookup, ShardedResEmbedding, ShardedResEmbeddingBag
from .requests import Slots
from .start import drawn, state_of_draws
from .wire import Wire

_KINDS: dict[type[nn.Module], type[ShardedLookup]] = {
    ResEmbedding: ShardedResEmbedding,
    ResEmbeddingBag: ShardedResEmbeddingBag,
    nn.Embedding: ShardedEmbedding,
    HalfEmbedding: ShardedEmbedding,
    nn.EmbeddingBag: ShardedEmbeddingBag,
}
_TRAVELS = (None, torch.bfloat16, torch.float16, torch.float32)


def shard(
    model: nn.Module,
    group: dist.ProcessGroup | None = None,
    *,
    graph: str = "dealt",
    rows_dtype: torch.dtype | None = None,
    dense: bool = False,
    timeout: float | None = None,
    **ddp_options: Any,
) -> ShardedModel:
    """Deals the tables of a model over the ranks of a group, and puts the rest under DistributedDataParallel.

    Every ResEmbedding and ResEmbeddingBag, and every nn.Embedding and nn.EmbeddingBag with ``sparse=True``, is replaced
    in place by a module of which each rank holds the rows i with i % W = rank (W ranks). Call it on all ranks of the
    group, on the same model made from the same seed, before the optimizer is made. Tables on the meta device
    (``ResEmbedding(graph, 64, device="meta")``) are drawn here by each rank's generator, part by part: their whole
    never lies in memory, and they start as ``reset_parameters`` would let them in one process.

    A lookup sends each owner the distinct items that it wants, fetches their rows of R, and those of their neighbours
    of C, and runs the fused operator on them. Backward sends the sums of each row back to its owner. There they are
    added in the order of ranks and divided by W, as DistributedDataParallel does with gradients. Optimizers of
    ``rx.optim`` then step this rank's rows, in backward too.

    Every rank must look up and run backward as often as the others, in the same order, also where gradients are off. A
    rank may bring an empty batch.

    Args:
        model: changed in place.
        group: of gloo or NCCL; None for the default group. Its ranks hold the rows.
        graph: "dealt": each rank keeps the neighbour lists of its own rows alone, and sends them with the rows. "whole":
            each rank reads all lists itself, and they are not sent; load the graph with ``InterestGraph.load(path,
            mapped=True)``, and the ranks of a host share its memory.
        rows_dtype: in which rows and gradients travel, say torch.bfloat16. None: rows as tables hold them, gradients in
            the precision of sums, which loses nothing.
        dense: also deal nn.Embedding and nn.EmbeddingBag with dense gradients, which then are those of this rank's rows.
            Else they stay whole, under DistributedDataParallel.
        timeout: seconds that an exchange waits for the other ranks; None for that of the group's backend.
        **ddp_options: of DistributedDataParallel, for the other parameters.

    Returns:
        A wrapper to call as the model.

    Raises:
        TypeError: a subclass of nn.Embedding or nn.EmbeddingBag with sparse gradients.
        ValueError: options that do not fit; tables that are shared, hooked, already stepped in backward, or of mode
            "max"; tables, graphs, dtypes, sizes or seeds that differ between ranks. On every rank.
        RuntimeError: another rank raises one of these; without torch.distributed.

    Example:
        >>> model = rx.distributed.shard(model)  # doctest: +SKIP
        >>> optimizer = rx.optim.Adam(model.parameters(), lr=1e-3)  # doctest: +SKIP
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            "shard: torch.distributed is not initialized; call torch.distributed.init_process_group before"
        )
    if dist.get_rank(group) < 0:
        raise ValueError(f"group: rank {dist.get_rank()} is not in it; expected a group with the rank that calls")
    wait = None if timeout is None else datetime.timedelta(seconds=timeout)
    wire = Wire(group, _device_of(model), wait)
    found: dict[str, nn.Module] = {}
    try:
        _check_options(graph, rows_dtype)
        found = _found(model, dense)
        own: Any = {
            "": {"graph": graph, "rows_dtype": str(rows_dtype), "dense": dense},
            **{n: _described(m) for n, m in found.items()},
        }
    except (TypeError, ValueError) as error:
        wire.gather_objects(f"{type(error).__name__}: {error}")
        raise
    _compare(wire.gather_objects(own))
    slots: dict[int, Slots] = {}
    sharded: dict[int, ShardedLookup] = {}
    for number, (name, module) in enumerate(found.items()):
        items: int = module.num_embeddings  # type: ignore[assignment]
        if items not in slots:
            slots[items] = Slots(items)
        deal = Deal(items, wire.ranks, wire.rank)
        wire.names[number] = name
        sharded[id(module)] = _dealt(module, wire, deal, slots[items], number, graph, rows_dtype)
    model = _replaced(model, sharded)
    own_tables = [
        f"{name}.{table}" if name else table
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, ShardedLookup)
        for table, _ in module.named_parameters(recurse=False)
    ]
    return ShardedModel(model, wire, group, own_tables, ddp_options)


def _check_options(graph: str, rows_dtype: torch.dtype | None) -> None:
    if graph not in ("dealt", "whole"):
        raise ValueError(f"graph: found {graph!r}; expected 'dealt' or 'whole'")
    if rows_dtype not in _TRAVELS:
        raise ValueError(f"rows_dtype: found {rows_dtype}; expected None, torch.bfloat16, float16 or float32")


def _device_of(model: nn.Module) -> torch.device:
    for parameter in model.parameters():
        if not parameter.is_meta:
            return parameter.device
    return torch.device("cpu")


def _found(model: nn.Module, dense: bool) -> dict[str, nn.Module]:
    """The embeddings to deal, by name.

    Raises:
        TypeError, ValueError: as ``shard``.
    """
    found: dict[str, nn.Module] = {}
    holders: dict[int, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.parallel.DistributedDataParallel, ShardedModel, ShardedLookup)):
            raise ValueError(f"model: found {type(module).__name__}; shard a model before it is wrapped, and once")
        if not isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            continue
        over_graph = isinstance(module, ResEmbeddingBase)
        if not (over_graph or module.sparse or dense):
            continue
        place = name or "model"
        if type(module) not in _KINDS:
            raise TypeError(
                f"{place}: found {type(module).__name__}, a subclass; expected nn.Embedding, nn.EmbeddingBag, "
                "ResEmbedding or ResEmbeddingBag itself, as its own forward may need whole tables"
            )
        _check_module(module, place)
        for table in module.parameters(recurse=False):
            if id(table) in holders:
                raise ValueError(f"{place}: its table is that of {holders[id(table)]} too; expected one of its own")
            holders[id(table)] = place
        found[name] = module
    if not found:
        raise ValueError(
            "model: holds no ResEmbedding or ResEmbeddingBag, and no nn.Embedding with sparse=True; "
            "DistributedDataParallel alone serves it"
        )
    inside = {id(p) for m in found.values() for p in m.parameters(recurse=False)}
    for name, parameter in model.named_parameters():
        if parameter.is_meta and id(parameter) not in inside:
            raise ValueError(f"{name}: is on the meta device; expected only tables that are dealt there")
    return found


def _check_module(module: Any, place: str) -> None:
    if module.max_norm is not None or module.scale_grad_by_freq:
        raise ValueError(f"{place}: uses max_norm or scale_grad_by_freq, which are not supported")
    if getattr(module, "mode", "sum") not in ("sum", "mean"):
        raise ValueError(f"{place}: found mode={module.mode!r}; expected 'sum' or 'mean'")
    tables = list(module.parameters(recurse=False))
    expected = 2 if isinstance(module, ResEmbeddingBase) else 1
    if len(tables) != expected:
        raise ValueError(f"{place}: its tables are parametrized; remove the parametrization before")
    if any(owner_of(table) is not None for table in tables):
        raise ValueError(f"{place}: is stepped in backward already; call step_in_backward after shard")
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        raise ValueError(f"{place}: has hooks, which would be lost; register them after shard")
    if getattr(module, "graph_device", None) is not None:
        raise ValueError(f"{place}: keeps its graph in pinned memory; expected graph_device=None")


def _described(module: Any) -> dict[str, Any]:
    """What must be the same on all ranks."""
    tables = dict(module.named_parameters(recurse=False))
    of_graph = {}
    if isinstance(module, ResEmbeddingBase):
        link = module.attention
        of_graph = {
            "graph": module.graph.hash[:12],
            "link": module.link,
            "heads": None if link is None else (link.heads, link.dropout),
            "keep_padding": module.keep_padding,
            "out_dtype": str(module.out_dtype),
        }
    options = ("padding_idx", "sparse", "mode", "include_last_offset", "mean_divisor")
    start = {name: state_of_draws() if table.is_meta else _digest(table) for name, table in tables.items()}
    return {
        "kind": type(module).__name__,
        "num_embeddings": module.num_embeddings,
        "embedding_dim": module.embedding_dim,
        "dtype": str(next(iter(tables.values())).dtype),
        **of_graph,
        **{name: getattr(module, name) for name in options if hasattr(module, name)},
        "trained": [table.requires_grad for table in tables.values()],
        **{f"{name} at the start (another seed?)": value for name, value in start.items()},
    }


def _digest(table: Tensor) -> str:
    digest = hashlib.sha256()
    for block in table.detach().split(1 << 16):
        digest.update(block.cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]


def _compare(found: list[Any]) -> None:
    """
    Raises:
        RuntimeError: a rank has refused its model.
        ValueError: ranks have different models.
    """
    for rank, own in enumerate(found):
        if isinstance(own, str):
            raise RuntimeError(f"rank {rank}: {own}")
    first = found[0]
    for rank, own in enumerate(found):
        if own.keys() != first.keys():
            odd = sorted({*own} ^ {*first})
            raise ValueError(f"rank {rank}: holds other tables than rank 0: {', '.join(odd)} is not on both")
        for name, facts in own.items():
            for key, value in facts.items():
                if value != first[name].get(key):
                    place = f"{name}: " if name else ""
                    raise ValueError(
                        f"rank {rank}: {place}{key} is {value}; rank 0 has {first[name].get(key)}; expected the same on "
                        "every rank"
                    )


@torch.no_grad()
def _dealt(
    module: Any, wire: Wire, deal: Deal, slots: Slots, number: int, graph: str, rows_dtype: torch.dtype | None
) -> ShardedLookup:
    own_graph = None
    over_graph = isinstance(module, ResEmbeddingBase)
    if over_graph:
        if graph == "whole":
            own_graph = lists.whole(module.graph, module.link)
        else:
            own_graph = lists.dealt(module.graph, module.link, deal)
    bag = isinstance(module, nn.EmbeddingBag)
    keeps = module.keep_padding if over_graph else not bag
    apart = not (over_graph and module.link == "attention")
    source = Source(
        wire, deal, slots, number, own_graph, graph == "dealt", apart, module.padding_idx, keeps, rows_dtype
    )
    tables = {}
    for name, table in module.named_parameters(recurse=False):
        tables[name] = drawn(module, name, deal, wire.device) if table.is_meta else _copied(deal.own(table.detach()))
    made = _KINDS[type(module)](module, source, tables)
    for table in module.parameters(recurse=False):
        set_replaced(table, made)
    return made


def _copied(rows: Tensor) -> Tensor:
    return empty_table(rows.shape, dtype=rows.dtype, device=rows.device).copy_(rows)


def _replaced(model: nn.Module, sharded: dict[int, ShardedLookup]) -> nn.Module:
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if id(child) in sharded:
                module._modules[name] = sharded[id(child)]
    return sharded.get(id(model), model)
