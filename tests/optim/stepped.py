"""Modules stepped in backward beside twins that a separate optimizer steps."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resemb_ext import InterestGraph, ResEmbedding, optim
from resemb_ext.testing.problems import make_graph

H, D = 700, 20
ALL: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (optim.SGD, {"lr": 0.1}),
    "momentum": (optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    "adagrad": (optim.Adagrad, {"lr": 0.1}),
    "rowwise": (optim.RowwiseAdagrad, {"lr": 0.1}),
    "adam": (optim.Adam, {"lr": 0.01, "bias_correction": "row"}),
    "adamw": (optim.AdamW, {"lr": 0.01, "stochastic_rounding": True}),
    "global": (optim.Adam, {"lr": 0.01, "weight_decay": 1.0, "decay": "global"}),
    **{
        state: (optim.Adam, {"lr": 0.01, "state": state, "stochastic_rounding": True, "weight_decay": decay})
        for state, decay in (("bfloat16", 0.1), ("rowwise", 0.0), ("bfloat16_rowwise", 0.1), ("int8_rowwise", 0.0))
    },
    "compact": (optim.Adam, {"lr": 0.01, "state": "compact", "weight_decay": 1.0, "decay": "global"}),
}


def res_embedding(dtype: torch.dtype = torch.float32, seed: int = 0) -> ResEmbedding:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    graph = InterestGraph.from_csr(*make_graph(rng, H, 40, vary=True, exponent=1.3))
    return ResEmbedding(graph, D, link="given", padding_idx=None, sparse=True, dtype=dtype)


def linked(link: str) -> nn.Module:
    """A small module of that link, or a plain embedding."""
    torch.manual_seed(0)
    if link == "plain":
        return nn.Embedding(H, D, sparse=True)
    graph = InterestGraph.from_csr(*make_graph(np.random.default_rng(0), H, 6))
    return ResEmbedding(graph, D, link=link, sparse=True)


def pair(kind: str, module: nn.Module) -> tuple[Any, Any, nn.Module]:
    """(stepped in backward, stepped after it, the latter's module)."""
    build, options = ALL[kind]
    twin = copy.deepcopy(module)
    inside, after = build(module.parameters(), **options), build(twin.parameters(), **options)
    if options.get("decay") == "global":
        inside.attach(module)
        after.attach(twin)
    inside.step_in_backward(module)
    return inside, after, twin


def ids_of(step: int, count: int = 900) -> Tensor:
    rng = np.random.default_rng(step)
    return torch.from_numpy((rng.random(count) ** 3 * H).astype(np.int64))


def check_same(module: nn.Module, twin: nn.Module, inside: Any, after: Any) -> None:
    for a, b in zip(module.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
        for key, value in after.state[b].items():
            assert torch.equal(inside.state[a][key], value), key
