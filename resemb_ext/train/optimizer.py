"""Parameter groups of a CTR model, and the optimizer over them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .config import FitConfig


def parameter_groups(model: nn.Module, config: FitConfig) -> list[dict[str, Any]]:
    """Splits a model's parameters by what they are, each group with its own rate and L2.

    A module with parameters ``central`` and ``residual`` gives the groups of those names, any
    other ``nn.Embedding`` the group "embedding"; what is left is "other". Frozen parameters are
    left out, and so are empty groups.

    Returns:
        dicts with ``name``, ``params``, ``lr`` and ``weight_decay``.
    """
    groups: dict[str, list[nn.Parameter]] = {
        "embedding": [],
        "central": [],
        "residual": [],
        "other": [],
    }
    taken: set[int] = set()

    def put(name: str, parameter: nn.Parameter) -> None:
        if id(parameter) not in taken and parameter.requires_grad:
            taken.add(id(parameter))
            groups[name].append(parameter)

    for module in model.modules():
        own = dict(module.named_parameters(recurse=False))
        if "central" in own and "residual" in own:
            put("central", own["central"])
            put("residual", own["residual"])
        elif isinstance(module, nn.Embedding):
            put("embedding", own["weight"])
    for parameter in model.parameters():
        put("other", parameter)

    def either(value: float | None, default: float) -> float:
        return default if value is None else value

    settings = {
        "embedding": (config.embedding_lr, config.embedding_l2),
        "central": (
            either(config.central_lr, config.embedding_lr),
            either(config.central_l2, config.embedding_l2),
        ),
        "residual": (
            either(config.residual_lr, config.embedding_lr),
            config.residual_l2,
        ),
        "other": (config.lr, config.l2),
    }
    return [
        {"name": name, "params": params, "lr": settings[name][0], "weight_decay": settings[name][1]}
        for name, params in groups.items()
        if params
    ]


def build_optimizer(model: nn.Module, config: FitConfig) -> torch.optim.Adam:
    """Dense fused Adam over :func:`parameter_groups`.

    Raises:
        ValueError: an embedding gives sparse gradients, which this optimizer does not take.
    """
    for name, module in model.named_modules():
        if getattr(module, "sparse", False):
            raise ValueError(
                f"{name or 'the model'} gives sparse gradients, but training uses dense Adam: "
                "build the embedding with sparse=False"
            )
    return torch.optim.Adam(parameter_groups(model, config), fused=True)
