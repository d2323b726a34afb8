"""A model by name with the embedding of an arm, from options alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from resemb_ext.graph import InterestGraph
from resemb_ext.models import MODELS
from resemb_ext.nn import ResEmbedding
from resemb_ext.nn.half import HalfEmbedding

from .config import RunConfig
from .model_options import SHARED

PADDING = 0


def make_model(
    config: RunConfig,
    arm: str | Callable[[RunConfig], nn.Module],
    seed: int,
    *,
    num_items: int,
    num_categories: int = 0,
    graph: InterestGraph | None = None,
) -> nn.Module:
    """A new model with the embedding of ``arm``, a function of the seed.

    The layers after the embeddings start the same in every arm. A model's constructor gets those
    options of the run that it has parameters for, and ``model_options``.

    Args:
        config: options of the model and its tables.
        arm: "plain", "res", or what makes the item table from the options; torch's generator is
            seeded before it is called.
        seed: of the start.
        num_items, num_categories: rows of the tables.
        graph: for "res".

    Raises:
        ValueError: ``category`` is asked of a model that takes none.
    """
    torch.manual_seed(seed)
    item: nn.Module
    if callable(arm):
        item = arm(config)
    elif arm == "res":
        assert graph is not None
        item = res_table(graph, config)
    else:
        item = plain_table(num_items, config)
    torch.manual_seed(seed)
    parameters = inspect.signature(MODELS[config.model]).parameters
    options: dict[str, Any] = {name: getattr(config, name) for name in SHARED if name in parameters}
    if config.category:
        if "category_embedding" not in parameters:
            raise ValueError(f"category: model {config.model} takes no category; drop --category")
        options["category_embedding"] = plain_table(num_categories, config)
    return MODELS[config.model](item, **options, **config.own_model_options)


def res_table(graph: InterestGraph, config: RunConfig) -> ResEmbedding:
    """A Res-embedding over ``graph`` as the options say."""
    return ResEmbedding(
        graph,
        config.dim,
        link=config.link,
        weights_dtype=config.graph_weights,
        hops=config.hops,
        heads=config.heads,
        edge_dropout=config.edge_dropout,
        padding_idx=PADDING,
        residual_scale=config.residual_scale,
        init_std=config.init_std,
        sparse=config.lazy,
        dtype=_dtype(config),
        out_dtype=torch.float32,
    )


def plain_table(num_embeddings: int, config: RunConfig) -> nn.Embedding:
    """``nn.Embedding`` with rows drawn from N(0, init_std^2) and a zero padding row; of float32 vectors."""
    dtype = _dtype(config)
    kind = nn.Embedding if dtype == torch.float32 else HalfEmbedding
    table = kind(num_embeddings, config.dim, padding_idx=PADDING, sparse=config.lazy, dtype=dtype)
    with torch.no_grad():
        table.weight.normal_(std=config.init_std)
        table.weight[PADDING].zero_()
    return table


def _dtype(config: RunConfig) -> torch.dtype:
    return getattr(torch, config.table_dtype)  # type: ignore[no-any-return]
