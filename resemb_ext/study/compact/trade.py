"""Training with Adam's moments in every form, in plain PyTorch: what is lost before any kernel is written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from resemb_ext import data
from resemb_ext.models.pooling import embedding_bag
from resemb_ext.study.compare.dataset import Dataset
from resemb_ext.train import RunConfig
from resemb_ext.train.batches import train_batches
from resemb_ext.train.building import make_model
from resemb_ext.train.evaluate import evaluate
from resemb_ext.train.loop import training_loss
from resemb_ext.train.optimizer import parameter_groups

from .plain_adam import FORMS, PlainAdam

_METRICS = ("auc", "gauc", "logloss")


class Float32Vectors(nn.Module):
    """An embedding's vectors in float32, whatever its tables hold.

    Args:
        table: with ``embedding_dim`` and ``padding_idx``.
    """

    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.table = table
        self.embedding_dim = table.embedding_dim
        self.padding_idx = table.padding_idx

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids).float()

    def bag(self, ids: Tensor, offsets: Tensor, mode: str = "mean") -> Tensor:
        """As ``ResEmbedding.bag``."""
        return embedding_bag(self.table, ids, offsets, mode).float()


@dataclass(frozen=True)
class Cell:
    """What is trained: the form of the moments, of ``FORMS``, and the tables' dtype."""

    form: str
    table_dtype: str


def train_cell(cell: Cell, dataset: Dataset, config: RunConfig, seeds: Sequence[int]) -> dict[str, Any]:
    """Trains a cell with every seed.

    Returns:
        ``runs``, an entry a seed, and ``bytes_per_number``: bytes of the item tables with their state over
        the numbers of both, H D each.
    """
    runs = []
    for seed in seeds:
        run, bytes_per_number = train(cell, dataset, config, dataset.train(seed), seed)
        runs.append(run)
    return {"runs": runs, "bytes_per_number": bytes_per_number}


def train(
    cell: Cell, dataset: Dataset, config: RunConfig, samples: data.Samples, seed: int
) -> tuple[dict[str, Any], float]:
    """Trains once, as ``resemb_ext.train.fit`` does, and scores test with the epoch that validation picks."""
    began = time.perf_counter()
    model = make_model(
        config,
        "res",
        seed,
        num_items=dataset.log.num_items,
        num_categories=dataset.log.num_categories,
        graph=dataset.graph,
    )
    dtype = getattr(torch, cell.table_dtype)
    for name in ("item_embedding", "category_embedding")[: 2 if config.category else 1]:
        setattr(model, name, Float32Vectors(getattr(model, name).to(dtype)))
    groups = parameter_groups(model, config)
    tables = [(p, g["lr"], g["weight_decay"]) for g in groups if g["name"] != "other" for p in g["params"]]
    sparse = PlainAdam(tables, FORMS[cell.form], seed)
    dense = torch.optim.Adam([group for group in groups if group["name"] == "other"], fused=True)

    torch.manual_seed(seed)
    valid: dict[str, Any] = {}
    best_epoch, best_state = 0, {}
    for epoch in range(1, config.epochs + 1):
        model.train()
        for batch in train_batches(samples, config.batch_size, seed=seed, epoch=epoch):
            loss, _ = training_loss(model, batch)
            loss.backward()
            sparse.step()
            dense.step()
            dense.zero_grad(set_to_none=True)
        found = evaluate(model, dataset.valid, batch_size=config.eval_batch_size)
        if not best_epoch or found[config.metric] > valid[config.metric]:
            valid, best_epoch = found, epoch
            best_state = {name: value.clone() for name, value in model.state_dict().items()}
        if epoch - best_epoch >= config.patience:
            break
    model.load_state_dict(best_state)
    test = evaluate(model, dataset.test, batch_size=config.eval_batch_size)
    run = {
        "seed": seed,
        "valid": {name: valid[name] for name in _METRICS},
        "test": {name: test[name] for name in _METRICS},
        "epochs": epoch,
        "best_epoch": best_epoch,
        "seconds": time.perf_counter() - began,
    }
    return run, bytes_per_number(cell, model.get_submodule("item_embedding.table"))


def bytes_per_number(cell: Cell, table: nn.Module) -> float:
    """Bytes of a Res-embedding's tables with their state, over H D."""
    both = [(p, 0.0, 0.0) for p in table.parameters()]
    return PlainAdam(both, FORMS[cell.form], 0).bytes / both[0][0].numel()
