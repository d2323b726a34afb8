"""Res-embeddings whose tables are those of a TorchRec EmbeddingCollection, which DistributedModelParallel shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec import EmbeddingCollection, EmbeddingConfig, JaggedTensor, KeyedJaggedTensor
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
from torchrec.distributed.types import ShardingPlan
from torchrec.modules.embedding_configs import DataType

from resemb_ext import functional
from resemb_ext._ownership import distinct_items
from resemb_ext.distributed.deal import Deal
from resemb_ext.distributed.lists import Graph, Lists, whole
from resemb_ext.distributed.requests import Slots
from resemb_ext.graph import InterestGraph
from resemb_ext.nn import ResEmbedding
from resemb_ext.nn.attention import AttentionLink

CENTRAL, RESIDUAL = "_central", "_residual"


@dataclass(frozen=True)
class _Batch:
    """What one table's features ask of it, in numbers of the batch.

    Attributes:
        ids: int32 [P].
        lists: of the distinct ones, int64 [U] ``looked_up``.
        items: int64 [L], of each number.
        looked_up, central: int64 [U], [V]: the numbers whose rows of R and of C are read.
    """

    ids: Tensor
    lists: Lists
    items: Tensor
    looked_up: Tensor
    central: Tensor


class ResEmbeddingCollection(nn.Module):
    """As ``EmbeddingCollection``, with a Res-embedding in place of each table: E[i] = sum_j w_ij C[j] + R[i].

    C and R of a table NAME are the tables ``NAME_central`` and ``NAME_residual`` of the collection ``tables``, the only
    thing that TorchRec shards. A call fetches the distinct rows of R, and the distinct neighbours' rows of C, by one
    lookup of that collection, and runs the fused operator on them. So attention links and their gradients work, and
    TorchRec's fused optimizers step the rows. Every rank keeps the graphs whole; load them memory-mapped to share them
    on a host.

    Args:
        tables: one a Res-embedding, in float32, without init_fn.
        graphs: of each table, by its name.
        link: as of ``ResEmbedding``.
        residual_scale, init_std: C is drawn from N(0, init_std^2), R with ``residual_scale`` times that deviation.
        heads, edge_dropout: of link="attention".
        device: of the tables; "meta" leaves drawing to TorchRec.

    Raises:
        TypeError: something else than configurations or graphs.
        ValueError: names that do not fit, another number of items, a dtype or options that are not taken.
    """

    def __init__(
        self,
        tables: Sequence[EmbeddingConfig],
        graphs: Mapping[str, InterestGraph],
        *,
        link: str = "average",
        residual_scale: float = 0.1,
        init_std: float = 1.0,
        heads: int = 1,
        edge_dropout: float = 0.0,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        _check(tables, graphs)
        if link != "attention" and (heads != 1 or edge_dropout != 0):
            raise ValueError(
                f"heads, edge_dropout: found {heads} and {edge_dropout} with link={link!r}; they are of attention"
            )
        self.link = link
        self.features = {config.name: list(config.feature_names) for config in tables}
        self.graphs = {config.name: graphs[config.name].with_link(link) for config in tables}
        place = torch.device("cpu" if device is None else device)
        # As attributes of no module: they are no parameters, and DDP would send buffers at every step.
        self._lists: dict[str, Graph] = {}
        self._slots: dict[str, Slots] = {}
        stds = {CENTRAL: init_std, RESIDUAL: init_std * residual_scale}
        self.tables = EmbeddingCollection(
            tables=[
                EmbeddingConfig(
                    name=config.name + part,
                    num_embeddings=config.num_embeddings,
                    embedding_dim=config.embedding_dim,
                    feature_names=[config.name + part],
                    init_fn=partial(nn.init.normal_, std=std),
                )
                for config in tables
                for part, std in stds.items()
            ],
            device=place,
        )
        self.attention = nn.ModuleDict()
        if link == "attention":
            for config in tables:
                self.attention[config.name] = AttentionLink(config.embedding_dim, heads, edge_dropout)

    def forward(self, features: KeyedJaggedTensor) -> dict[str, JaggedTensor]:
        """The vectors of each feature's ids: values [P, D], with the feature's lengths.

        Raises:
            ValueError: a feature that a table wants and ``features`` lacks.
            IndexError: an id that is no row of its table.
        """
        given = features.to_dict()
        batches = {name: self._batch(name, given) for name in self.features}
        asked: dict[str, Tensor] = {}
        for name, batch in batches.items():
            asked[name + CENTRAL] = batch.items[batch.central]
            asked[name + RESIDUAL] = batch.items[batch.looked_up]
        lengths = torch.tensor([len(items) for items in asked.values()])
        place = features.device()
        rows = self.tables(KeyedJaggedTensor(list(asked), torch.cat([*asked.values()]), lengths=lengths.to(place)))
        found: dict[str, JaggedTensor] = {}
        for name, batch in batches.items():
            values = self._vectors(name, batch, rows[name + CENTRAL].values(), rows[name + RESIDUAL].values())
            own = [given[feature] for feature in self.features[name]]
            pieces = values.split([len(feature.values()) for feature in own])
            for feature, part, piece in zip(self.features[name], own, pieces, strict=True):
                found[feature] = JaggedTensor(piece, lengths=part.lengths(), offsets=part.offsets())
        return found

    def to_res_embedding(self, name: str) -> ResEmbedding:
        """A table as a ``ResEmbedding`` with its own copy of the rows, say to serve; not of a sharded collection.

        Raises:
            ValueError: no such table, or it is sharded.
        """
        if name not in self.features:
            raise ValueError(f"name: no table {name!r}; found {', '.join(self.features)}")
        if not isinstance(self.tables, EmbeddingCollection):
            raise ValueError(
                f"{name}: its rows are sharded; load the state of the sharded model into a collection of one process"
            )
        link: Any = self.attention[name] if self.link == "attention" else None
        central, residual = (self.tables.embeddings[name + part].weight.detach() for part in (CENTRAL, RESIDUAL))
        options = {} if link is None else {"heads": link.heads, "edge_dropout": link.dropout}
        made = ResEmbedding(self.graphs[name], central.shape[1], self.link, device=central.device, **options)
        with torch.no_grad():
            made.central.copy_(central)
            made.residual.copy_(residual)
            if made.attention is not None:
                made.attention.load_state_dict(link.state_dict())
        return made

    def _batch(self, name: str, given: Mapping[str, JaggedTensor]) -> _Batch:
        missing = [feature for feature in self.features[name] if feature not in given]
        if missing:
            raise ValueError(f"features: no key {missing[0]!r} for the table {name}; found {', '.join(given)}")
        ids = torch.cat([given[feature].values() for feature in self.features[name]])
        graph = self.graphs[name]
        if name not in self._slots:
            self._lists[name] = whole(graph, self.link)
            self._slots[name] = Slots(graph.num_items)
        slots, looked_up = self._slots[name], distinct_items(ids, graph.num_items).cpu().numpy()
        lists = self._lists[name].lists(looked_up)
        numbering = slots.number(looked_up, lists, Deal(graph.num_items, 1, 0))
        # The attention link scores an item by its own row of C too.
        everywhere = numbering.read is None or self.link == "attention"
        central = np.arange(len(numbering.items)) if everywhere else numbering.read
        parts = (numbering.items, numbering.looked_up, central)
        return _Batch(slots.numbers_of(ids), lists, *(torch.from_numpy(part).to(ids.device) for part in parts))

    def _vectors(self, name: str, batch: _Batch, central: Tensor, residual: Tensor) -> Tensor:
        ids, lists, height, place = batch.ids, batch.lists, len(batch.items), central.device

        def placed(rows: Tensor, places: Tensor) -> Tensor:
            return rows if len(rows) == height else rows.new_zeros(height, rows.shape[1]).index_copy(0, places, rows)

        indptr = torch.zeros(height + 1, dtype=torch.int64, device=place)
        indptr[1:].index_copy_(0, batch.looked_up, torch.from_numpy(lists.lengths).to(place))
        neighbors, weights = (torch.from_numpy(part).to(place) for part in (lists.neighbors, lists.weights))
        graph = (indptr.cumsum_(0), neighbors, weights)
        tables = (placed(central, batch.central), placed(residual, batch.looked_up))
        if self.link != "attention":
            return functional.res_embedding(ids, *tables, *graph)
        link: Any = self.attention[name]
        seed = link.draw_seed(central.device)
        return functional.attention_embedding(
            ids,
            *tables,
            *graph,
            link.a_src,
            link.a_dst,
            link.b,
            seed=seed,
            dropout=0.0 if seed is None else link.dropout,
        )


def row_wise_plan(model: nn.Module, *, compute_kernel: str | None = None, device: str = "cpu") -> ShardingPlan:
    """The plan by which DistributedModelParallel deals the tables of every ResEmbeddingCollection by rows.

    Every rank of the default group must call it, with the same collections.

    Args:
        model: given to DistributedModelParallel afterwards, as ``DistributedModelParallel(model, plan=plan)``.
        compute_kernel: of TorchRec, such as "fused"; None is its choice.
        device: type of the devices that hold the rows.

    Raises:
        RuntimeError: no default group.
        ValueError: the model has no ResEmbeddingCollection, or some rank's differ from rank 0's; every rank raises.
    """
    if not dist.is_initialized():
        raise RuntimeError("row_wise_plan: no process group; call torch.distributed.init_process_group first")
    parts = {path: part for path, part in model.named_modules() if isinstance(part, ResEmbeddingCollection)}
    own = [
        (path, name, config.num_embeddings, config.embedding_dim, part.link, part.graphs[name].hash)
        for path, part in parts.items()
        for config in part.tables.embedding_configs()
        for name in [config.name.removesuffix(CENTRAL).removesuffix(RESIDUAL)]
    ]
    all_of: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(all_of, own)
    if not all_of[0]:
        raise ValueError("model: found no ResEmbeddingCollection on rank 0")
    for rank, other in enumerate(all_of):
        if other != all_of[0]:
            first = next((pair for pair in zip(other, all_of[0], strict=False) if pair[0] != pair[1]), None)
            said = "another number of tables" if first is None else f"{first[0]} where rank 0 has {first[1]}"
            raise ValueError(f"model: rank {rank} has {said}; expected the same tables and graphs on all ranks")
    plan = ShardingPlan(plan={})
    for path, part in parts.items():
        names = [config.name for config in part.tables.embedding_configs()]
        plan.plan[f"{path}.tables" if path else "tables"] = construct_module_sharding_plan(
            part.tables, {name: row_wise(compute_kernel=compute_kernel) for name in names}, device_type=device
        )
    return plan


def _check(tables: Sequence[EmbeddingConfig], graphs: Mapping[str, InterestGraph]) -> None:
    wrong = [config for config in tables if not isinstance(config, EmbeddingConfig)]
    if wrong or not tables:
        raise TypeError(f"tables: found {type(wrong[0]).__name__ if wrong else 'none'}; expected EmbeddingConfig")
    names = [config.name for config in tables]
    if sorted(names) != sorted(graphs):
        raise ValueError(f"graphs: found graphs of {sorted(graphs)}; expected one of each table, {sorted(names)}")
    features = [feature for config in tables for feature in config.feature_names]
    repeated = sorted({feature for feature in features if features.count(feature) > 1})
    if repeated:
        raise ValueError(f"tables: feature {repeated[0]!r} is of several tables; expected each of one")
    for config in tables:
        graph = graphs[config.name]
        if not isinstance(graph, InterestGraph):
            raise TypeError(f"graphs: found {type(graph).__name__} for {config.name}; expected InterestGraph")
        if graph.num_items != config.num_embeddings:
            raise ValueError(
                f"{config.name}: its graph has {graph.num_items} items and its table {config.num_embeddings} rows"
            )
        if config.data_type != DataType.FP32:
            raise ValueError(f"{config.name}: data_type: found {config.data_type}; expected FP32")
        given = [key for key in ("weight_init_max", "weight_init_min") if getattr(config, key) is not None]
        # Without one, EmbeddingConfig sets a uniform draw itself.
        if not (isinstance(config.init_fn, partial) and config.init_fn.func is nn.init.uniform_):
            given.append("init_fn")
        if given:
            raise ValueError(
                f"{config.name}: {given[0]}: not taken; init_std and residual_scale say how rows are drawn"
            )
