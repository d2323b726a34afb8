"""The variants of the comparison: item tables, the models around them, and which of them are run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from resemb_ext.graph import InterestGraph
from resemb_ext.nn import ResEmbedding
from resemb_ext.study.methods.controls import permuted_entries, permuted_labels, without_edges
from resemb_ext.study.methods.laplacian import GraphPenalty
from resemb_ext.train import RunConfig
from resemb_ext.train.building import make_model, plain_table, res_table

from .dataset import Dataset

#: Factor of the search that only the graph penalty has.
PENALTY = "graph_l2"

Maker = Callable[[Dataset, RunConfig, int], nn.Module]


@dataclass(frozen=True)
class ItemTable:
    """A kind of item table.

    Attributes:
        title: for people.
        make: the module for a log, options and seed; torch's generator is seeded.
        options: of the run, that go with it.
        penalty: the model gets a penalty along the graph.
    """

    title: str
    make: Maker
    options: Mapping[str, Any] = field(default_factory=dict)
    penalty: bool = False


def _plain(dataset: Dataset, config: RunConfig, seed: int) -> nn.Module:
    del seed
    return plain_table(dataset.log.num_items, config)


def _twice_as_wide(dataset: Dataset, config: RunConfig, seed: int) -> nn.Module:
    return _plain(dataset, replace(config, dim=2 * config.dim), seed)


def _item2vec(dataset: Dataset, config: RunConfig, seed: int) -> nn.Module:
    """Skip-gram vectors, scaled so that their entries' standard deviation is that of the start."""
    table = plain_table(dataset.log.num_items, config)
    vectors = torch.from_numpy(dataset.vectors(config.dim, seed))
    known = vectors.abs().sum(1) > 0
    with torch.no_grad():
        table.weight[known] = vectors[known] * (config.init_std / vectors[known].std())
    return table


def _centre(dataset: Dataset, config: RunConfig, seed: int) -> nn.Module:
    del seed
    table = res_table(dataset.graph, replace(config, residual_scale=0.0))
    table.residual.requires_grad_(False)
    return table


def _over(graph_of: Callable[[Dataset, int], InterestGraph]) -> Maker:
    def make(dataset: Dataset, config: RunConfig, seed: int) -> ResEmbedding:
        return res_table(graph_of(dataset, seed), config)

    return make


_res = _over(lambda dataset, seed: dataset.graph)

#: Item tables by name, in the order of the report. Two tables of the same size start alike.
TABLES: dict[str, ItemTable] = {
    "plain": ItemTable("plain", _plain),
    "centre": ItemTable("centre only", _centre),
    "res": ItemTable("res, average", _res),
    "gcn-1": ItemTable("res, gcn, 1 hop", _res, {"link": "gcn"}),
    "gcn-2": ItemTable("res, gcn, 2 hops", _res, {"link": "gcn", "hops": 2}),
    "attention": ItemTable("res, attention", _res, {"link": "attention"}),
    "plain-2d": ItemTable("plain, twice as wide", _twice_as_wide),
    "two-tables": ItemTable(
        "two plain tables summed", _over(lambda dataset, seed: without_edges(dataset.log.num_items))
    ),
    "item2vec": ItemTable("plain, started by item2vec", _item2vec),
    "laplacian": ItemTable("plain, graph-Laplacian penalty", _plain, penalty=True),
    "res-entries": ItemTable(
        "res, permuted neighbour entries", _over(lambda dataset, seed: permuted_entries(dataset.graph, seed))
    ),
    "res-labels": ItemTable(
        "res, permuted item labels", _over(lambda dataset, seed: permuted_labels(dataset.graph, seed))
    ),
}
MAIN = ("plain", "centre", "res", "gcn-1", "gcn-2", "attention")
CONTROLS = ("plain-2d", "two-tables", "item2vec", "laplacian", "res-entries", "res-labels")


def build_model(table: ItemTable, dataset: Dataset, config: RunConfig, seed: int, penalty: float | None) -> nn.Module:
    """A new model with an item table, a function of the seed.

    Args:
        table: makes the item table.
        dataset: of the log.
        config: the options of the run.
        seed: of the start, and of what the table draws.
        penalty: strength along the graph, for a table with one.
    """
    model = make_model(
        config,
        lambda options: table.make(dataset, options, seed),
        seed,
        num_items=dataset.log.num_items,
        num_categories=dataset.log.num_categories,
    )
    if table.penalty:
        assert penalty is not None
        return GraphPenalty(model, dataset.graph, penalty)
    return model


@dataclass(frozen=True, order=True)
class Group:
    """Variants that differ in the item table alone."""

    log: str
    model: str
    category: bool

    @property
    def key(self) -> str:
        return f"{self.log}-{self.model}" + ("-category" if self.category else "")

    @property
    def title(self) -> str:
        return f"{self.log}, {self.setting}"

    @property
    def setting(self) -> str:
        """Model and features, without the log."""
        return self.model.upper() + (" with category" if self.category else "")


@dataclass(frozen=True)
class Variant:
    """A variant: a group and an item table of ``TABLES``."""

    group: Group
    table: str

    @property
    def key(self) -> str:
        return f"{self.group.key}-{self.table}"

    @property
    def title(self) -> str:
        return f"{self.group.title}: {TABLES[self.table].title}"

    def beside(self, table: str) -> Variant:
        """The variant of another table."""
        return replace(self, table=table)

    def build(self, dataset: Dataset, config: RunConfig, seed: int, penalty: float | None) -> nn.Module:
        """A new model, as ``build_model``."""
        return build_model(TABLES[self.table], dataset, config, seed, penalty)


def variants_of(log: str, *, category: bool, tables: Iterable[str] | None = None) -> list[tuple[int, Variant]]:
    """The variants of a log, each with its rank: lower ones are run first.

    Args:
        log: its name.
        category: whether the log has categories.
        tables: these alone, with a DNN without category; None for all variants.
    """

    def group(model: str, with_category: bool, rank: int, tables: Iterable[str]) -> list:
        return [(rank, Variant(Group(log, model, with_category), table)) for table in tables]

    if tables is not None:
        return group("dnn", False, 8, tables)
    first, rest = ("plain", "res"), ("centre", "gcn-1", "gcn-2", "attention")
    registered = ("res-entries", "item2vec")
    found = group("dnn", True, 0, first) if category else []
    found += group("dnn", False, 1, (*first, *registered))
    found += group("dnn", True, 2, rest) if category else []
    found += group("dnn", False, 3, rest)
    found += group("din", True, 4, first) if category else []
    found += group("din", False, 5, first)
    found += group("din", True, 6, rest) if category else []
    found += group("din", False, 7, rest)
    others = [table for table in CONTROLS if table not in registered]
    return found + group("dnn", False, 6, others)
