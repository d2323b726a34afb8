"""Res-embeddings in models of FuxiCTR."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from fuxictr.pytorch.layers import FeatureEmbeddingDict, PretrainedEmbedding
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import get_regularizer
from torch import nn

from resemb_ext import optim
from resemb_ext.graph import InterestGraph
from resemb_ext.nn import ResEmbedding
from resemb_ext.replace import Replacement
from resemb_ext.replace import replace_embeddings as _replace

from .fuxictr_fields import Field, item_field, owners
from .row_sparse import check_optimizer, decay_apart, with_optimizer


def replace_embeddings(
    model: BaseModel,
    graph: InterestGraph | Mapping[str, InterestGraph],
    *,
    optimizer: str = "own",
    start: str = "exact",
    linear: bool = False,
    **options: Any,
) -> Replacement:
    """Turns the item tables of a FuxiCTR model into Res-embeddings, in place.

    Fields that share a table (``share_embedding``) go on sharing it. The model's optimizer, which its constructor has
    made, takes the new tables over, and the learning rate and its decay stay. ``embedding_regularizer`` reads C and R
    by name, as it read the table. ``reset_parameters`` draws the tables anew, in the way of ``start``. ``save_weights``
    and ``load_weights`` work, also with weights that the model saved before.

    Args:
        model: as its constructor has left it, or trained.
        graph: of ``item_graph``; or, for several tables, {field: graph}. One graph goes to the field that a sequence
            shares.
        optimizer: "own": FuxiCTR's, with dense gradients. "sparse": the one of the same name in ``rx.optim``, with
            gradients of the batch's rows; L2 of ``embedding_regularizer`` becomes weight decay of these rows, and
            torch's ``clip_grad_norm_`` learns to clip sparse gradients. "in backward": the same, and the tables are
            stepped inside backward, where they cannot be clipped.
        start: "exact": the model's vectors stay; "smoothed" or "fresh": see ``rx.replace_embeddings``.
        linear: also tables with one column, the weights of FuxiCTR's logistic regression.
        **options: of ``ResEmbedding``: link, residual_scale, ...

    Returns:
        What was replaced; printed, a short text.

    Raises:
        TypeError: no model of FuxiCTR, or an optimizer that ``rx.optim.like`` does not know.
        ValueError: an unknown field or optimizer, a graph of another number of items, a frozen pretrained table, an
            ``embedding_regularizer`` with L1 beside sparse gradients, and as ``rx.replace_embeddings``. The model is as
            it was.
    """
    if not isinstance(model, BaseModel):
        raise TypeError(f"model: found {type(model).__name__}; expected a model of FuxiCTR")
    check_optimizer(optimizer)
    if "sparse" in options:
        raise ValueError('sparse: found in the options; say optimizer="sparse" or "own"')
    own = getattr(model, "optimizer", None)
    decay = 0.0
    if optimizer != "own":
        if own is None:
            raise ValueError(f"optimizer: found {optimizer!r}, but the model has none; call model.compile before")
        decay = _l2(model)
        optim.like(own)  # refuses now what it does not know
    graphs = _graphs(model, graph)
    tables: dict[Any, InterestGraph] = {
        table: graphs[field] for field in graphs for table in _tables(model, field, linear)
    }
    report = _replace(model, tables, optimizer=own, start=start, sparse=False, **options)
    replaced = [table.module for table in report if isinstance(table.module, ResEmbedding)]
    if optimizer != "own":
        report = _take_sparse(model, report, replaced, decay)
        if optimizer == "in backward":
            for table in replaced:
                model.optimizer.step_in_backward(table)
    for layer in model.modules():
        if isinstance(layer, FeatureEmbeddingDict):
            # Pretrained embeddings draw theirs by themselves.
            inside = [table for table in replaced if any(table is known for known in layer.embedding_layers.values())]
            if inside:
                earlier = layer.init_weights if isinstance(layer.init_weights, _InitWeights) else None
                layer.init_weights = _InitWeights(layer, inside, start, earlier)
    return report


def _graphs(model: BaseModel, graph: Any) -> dict[Field, InterestGraph]:
    if isinstance(graph, InterestGraph):
        return {item_field(model.feature_map, None): graph}
    if not isinstance(graph, Mapping):
        raise TypeError(
            f"graph: found {type(graph).__name__}; expected an InterestGraph, or a mapping of fields to graphs"
        )
    found: dict[Field, InterestGraph] = {}
    for name, one in graph.items():
        field = item_field(model.feature_map, name)
        if field in found:
            raise ValueError(f"graph: {name!r} shares the table of {field.name!r}, which has a graph already")
        found[field] = one
    return found


def _tables(model: BaseModel, field: Field, linear: bool) -> list[nn.Embedding]:
    """The embeddings that a field, or one that shares its table, looks up in."""
    sharing = [name for name, owner in owners(model.feature_map).items() if owner == field.name]
    found: dict[int, nn.Embedding] = {}
    for layer in model.modules():
        if isinstance(layer, FeatureEmbeddingDict):
            for name in sharing:
                if name in layer.embedding_layers:
                    table = _table(layer.embedding_layers[name], name)
                    if linear or table.embedding_dim > 1:
                        found[id(table)] = table
    if not found:
        raise ValueError(
            f"graph: the model has no table of {field.name!r}" + ("" if linear else " with several columns")
        )
    return list(found.values())


def _table(module: Any, name: str) -> nn.Embedding:
    if not isinstance(module, PretrainedEmbedding):
        return module
    if hasattr(module, "id_embedding"):
        return module.id_embedding
    if module.freeze_emb:
        raise ValueError(f"{name}: its pretrained table is frozen (freeze_emb); there is nothing to train")
    return module.pretrain_embedding


def _l2(model: BaseModel) -> float:
    """Weight of L2 in the model's ``embedding_regularizer``."""
    terms = get_regularizer(model._embedding_regularizer)
    if any(p != 2 and weight for p, weight in terms):
        raise ValueError(
            f"optimizer: embedding_regularizer is {model._embedding_regularizer!r}; L1 has dense gradients, so take "
            'optimizer="own" or L2 alone'
        )
    return sum(weight for _, weight in terms)


def _take_sparse(model: BaseModel, report: Replacement, tables: list[ResEmbedding], decay: float) -> Replacement:
    """Gives the model an optimizer of ours, and sparse gradients to its tables."""
    ours = optim.like(model.optimizer)
    for table in tables:
        table.sparse = True
    if decay:
        decay_apart(ours, [p for table in tables for p in (table.central, table.residual)], decay)
        model.regularization_loss = _Regularization(model, tables)
    optim.patch_clipping()
    model.optimizer = ours
    return with_optimizer(report, ours)


class _Regularization:
    """``regularization_loss`` of a model without the tables whose L2 is weight decay."""

    def __init__(self, model: BaseModel, tables: list[ResEmbedding]) -> None:
        self.model = model
        self.tables = tables

    def __call__(self) -> Any:
        # FuxiCTR passes over what needs no gradient. The flag is back before backward reads it.
        left_out = [p for table in self.tables for p in (table.central, table.residual) if p.requires_grad]
        for parameter in left_out:
            parameter.requires_grad_(False)
        try:
            return type(self.model).regularization_loss(self.model)
        finally:
            for parameter in left_out:
                parameter.requires_grad_(True)


class _InitWeights:
    """``init_weights`` of an embedding layer, which asks for the type nn.Embedding, and so passes over ours.

    Args:
        earlier: what an earlier replacement has put there.
    """

    def __init__(
        self, layer: FeatureEmbeddingDict, tables: list[ResEmbedding], start: str, earlier: _InitWeights | None
    ) -> None:
        self.layer = layer
        self.tables = tables
        self.start = start
        self.earlier = earlier

    @torch.no_grad()
    def __call__(self) -> None:
        if self.earlier is None:
            type(self.layer).init_weights(self.layer)
        else:
            self.earlier()
        for table in self.tables:
            if self.start == "fresh":
                table.reset_parameters()
                continue
            drawn = torch.empty_like(table.central)
            self.layer.embedding_initializer(drawn)
            if table.padding_idx is not None:
                drawn[table.padding_idx] = 0
            table.weight.copy_(drawn)
            if self.start == "smoothed":
                table.residual.zero_()
