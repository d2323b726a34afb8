"""A model by name with the embedding of an arm, from options alone."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from resemb_ext.graph import InterestGraph
from resemb_ext.models import MODELS
from resemb_ext.nn import ResEmbedding

if TYPE_CHECKING:
    from .config import RunConfig

PADDING = 0
# Constructor options that the run has for all models; what else one takes goes by model_options.
_SHARED = ("hidden", "attention_hidden", "activation", "dropout")
# What follows from the log and the arm.
_GIVEN = ("item_embedding", "category_embedding", "user_embedding", "context_embeddings", "dense")


def own_options(model: str) -> dict[str, Any]:
    """Keyword options of a model's constructor that no other model shares, with their defaults."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(MODELS[model]).parameters.items()
        if name not in (*_SHARED, *_GIVEN)
    }


def lacking_options(model: str) -> list[str]:
    """Options that the run has for all models and this one's constructor does not take."""
    parameters = inspect.signature(MODELS[model]).parameters
    return [name for name in _SHARED if name not in parameters]


def parse_own_options(model: str, texts: Sequence[str]) -> dict[str, Any]:
    """Options of a model given as "NAME=VALUE", VALUE in JSON or plain text.

    Raises:
        ValueError: no "=", an option twice, or one that the model does not have.
        TypeError: a value of another type than the option's default.
    """
    known, found = own_options(model), {}
    for text in texts:
        name, equals, written = text.partition("=")
        name = name.replace("-", "_")
        if not equals:
            raise ValueError(f"model_options must be NAME=VALUE, found {text!r}")
        if name not in known:
            listed = ", ".join(known) or "none"
            raise ValueError(f"model_options: {model} has no option {name!r}; its own: {listed}")
        if name in found:
            raise ValueError(f"model_options: {name} is given twice")
        try:
            value = json.loads(written)
        except ValueError:
            value = written
        found[name] = _fitting(name, value, known[name])
    return found


def _fitting(name: str, value: Any, default: Any) -> Any:
    if default is None or default is inspect.Parameter.empty:
        return value
    kind = type(default)
    if kind is float and type(value) is int:
        return float(value)
    if kind is tuple and isinstance(value, list):
        return tuple(value)
    if type(value) is not kind:
        raise TypeError(f"model_options: {name} must be like {default!r}, found {value!r}")
    return value


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
    options: dict[str, Any] = {name: getattr(config, name) for name in _SHARED if name in parameters}
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
        hops=config.hops,
        heads=config.heads,
        edge_dropout=config.edge_dropout,
        padding_idx=PADDING,
        residual_scale=config.residual_scale,
        init_std=config.init_std,
        sparse=config.lazy,
    )


def plain_table(rows: int, config: RunConfig) -> nn.Embedding:
    """``nn.Embedding`` with rows drawn from N(0, init_std^2) and a zero padding row."""
    table = nn.Embedding(rows, config.dim, padding_idx=PADDING, sparse=config.lazy)
    with torch.no_grad():
        table.weight.normal_(std=config.init_std)
        table.weight[PADDING].zero_()
    return table
