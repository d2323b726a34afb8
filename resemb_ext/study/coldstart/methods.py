"""Vectors of held-out items: by growth, from a plain table, and by training anew."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from resemb_ext import metrics
from resemb_ext.data import Samples
from resemb_ext.graph import InterestGraph
from resemb_ext.nn import ResEmbedding
from resemb_ext.nn.starts import starts_of
from resemb_ext.study.compare.dataset import Dataset
from resemb_ext.train import fit, predict
from resemb_ext.train.building import PADDING, make_model

from .cut import Cut
from .protocol import GIVEN

#: Sets of candidates, the primary one first.
CANDIDATES = {"held-out": True, "all": False}


def measured(cut: Cut) -> dict[str, Any]:
    """gAUC of every method on both sets of candidates."""
    samples = {name: cut.samples(among) for name, among in CANDIDATES.items()}
    graphs = {given: cut.graph(given) for given in GIVEN}
    gauc: dict[str, dict[str, float]] = {name: {} for name in CANDIDATES}
    epochs: dict[str, int] = {}
    for arm in ("plain", "res"):
        model, epochs[arm] = trained(cut.warm, arm, cut.seed)
        grown = plain_tables if arm == "plain" else grown_tables
        for method, ready in grown(model, graphs, cut):
            _score(gauc, method, ready, samples, cut)
        method = f"retrained {arm}"
        model, epochs[method] = trained(cut.everything, arm, cut.seed)
        _score(gauc, method, model, samples, cut)
    return {
        "seed": cut.seed,
        "held_out_items": len(cut.held_out),
        "test_events": len(cut.tested),
        "gauc": gauc,
        "epochs": epochs,
        "without_neighbour": {str(given): _alone(graph, cut.first_cold) for given, graph in graphs.items()},
    }


def _score(
    gauc: dict[str, dict[str, float]], method: str, model: nn.Module, samples: dict[str, Samples], cut: Cut
) -> None:
    for name, rows in samples.items():
        scores = predict(model, rows, batch_size=cut.config.eval_batch_size)
        gauc[name][method] = metrics.gauc(rows.label, scores, rows.user)


def trained(dataset: Dataset, arm: str, seed: int) -> tuple[nn.Module, int]:
    """A model at its best epoch, and the number of that."""
    config = dataset.config
    model = make_model(config, arm, seed, num_items=dataset.log.num_items, graph=dataset.graph)
    done = fit(model, dataset.train(seed), dataset.valid, config=config.fit_config(), seed=seed, progress=False)
    return model, done.best_epoch


def grown_tables(model: nn.Module, graphs: dict[int, InterestGraph], cut: Cut) -> Iterator[tuple[str, nn.Module]]:
    """A model over warm items with more rows: by the out-of-vocabulary row, and grown over each graph."""
    table = model.item_embedding
    assert isinstance(table, ResEmbedding)
    yield "res oov", with_table(model, by_oov(table.materialize().detach(), cut))
    for given, graph in graphs.items():
        ready = copy.deepcopy(model)
        assert isinstance(ready.item_embedding, ResEmbedding)
        ready.item_embedding.grow(graph)
        yield f"grown {given}", ready


def plain_tables(model: nn.Module, graphs: dict[int, InterestGraph], cut: Cut) -> Iterator[tuple[str, nn.Module]]:
    """The same of a plain table: the means of neighbours where growth takes those of C."""
    table = by_oov(model.item_embedding.weight.detach(), cut)  # type: ignore[union-attr, operator]
    yield "oov", with_table(model, table)
    fresh = np.arange(cut.first_cold, cut.log.items.oov)
    for given, graph in graphs.items():
        means = table.clone()  # an item without neighbours keeps the out-of-vocabulary row
        starts_of(graph.with_link("average", padding_idx=PADDING), fresh, means)
        yield f"mean {given}", with_table(model, means)


def by_oov(table: torch.Tensor, cut: Cut) -> torch.Tensor:
    """The rows of a table over warm items, each held-out item with that of the out-of-vocabulary row, the last."""
    return torch.cat([table[:-1], table[-1:].expand(len(cut.held_out) + 1, -1)])


def with_table(model: nn.Module, table: torch.Tensor) -> nn.Module:
    """A copy of a model whose items have the vectors of a table."""
    ready = copy.deepcopy(model)
    ready.item_embedding = nn.Embedding.from_pretrained(table, padding_idx=PADDING)
    return ready


def _alone(graph: InterestGraph, first: int) -> int:
    """Held-out items without a neighbour among the warm ones."""
    rows = range(first, graph.num_items - 1)
    return sum(not (graph.neighbors[graph.indptr[row] : graph.indptr[row + 1]] < first).any() for row in rows)
